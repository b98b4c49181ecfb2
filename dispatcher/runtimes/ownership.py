"""Who made a sandbox, and whether that dispatcher still lives: a lock file that it holds for its life.

The kernel gives the lock back however the process ends, so that no heartbeat is needed to tell.
"""

import contextlib
import fcntl
import os
import socket
import uuid
from pathlib import Path
from typing import Final

from mayfly.errors import StackError

MACHINE_ID: Final = Path("/etc/machine-id")
FOLDER_ID: Final = "folder-id"
"""Beside the lock files, where the machine has no id."""


class OwnerLock:
    """A dispatcher's lock file, `<state_dir>/dispatchers/<id>.lock`."""

    def __init__(self, state_dir: Path, dispatcher: str) -> None:
        self._folder = _folder(state_dir)
        self._path = self._folder / f"{dispatcher}.lock"
        self._descriptor: int | None = None

    @property
    def label(self) -> str:
        """Names the lock among those of all machines that share an engine."""
        return f"{_machine(self._folder)}:{self._path}"

    def acquire(self) -> None:
        """Raises `StackError` where the folder cannot be written, or a process had this id before."""
        fresh = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StackError(f"no lock file can be made in {self._folder}: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Locked before it has its name: whoever finds the file finds it locked.
            os.link(fresh, self._path)
        except OSError as error:
            os.close(descriptor)
            raise StackError(f"the lock file {self._path} cannot be made: {error}") from error
        finally:
            fresh.unlink(missing_ok=True)
        self._descriptor = descriptor

    def beside(self, name: str, text: str) -> Path:
        """A file next to the lock, which each dispatcher of the folder writes alike and all may read."""
        path = self._folder / name
        fresh = self._path.with_suffix(f".{name}")
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.replace(path)
        return path

    def is_dead(self, label: str) -> bool:
        """Whether a label names a dispatcher of this machine and state folder that no longer lives.

        Any other machine's or folder's label is somebody else's to judge.
        """
        machine, _, text = label.partition(":")
        path = Path(text)
        if machine != _machine(self._folder) or path.parent != self._folder or path == self._path:
            return False
        return not _is_held(path)

    def forget_dead(self) -> None:
        """Delete the lock files of dead dispatchers, once their sandboxes are gone."""
        for path in self._folder.glob("*.lock"):
            if self.is_dead(f"{_machine(self._folder)}:{path}"):
                path.unlink(missing_ok=True)

    def release(self) -> None:
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def folder_label(state_dir: Path) -> str:
    """Names a state folder among those of all machines that share an engine."""
    folder = _folder(state_dir)
    return f"{_machine(folder)}:{folder}"


def is_deserted(label: str) -> bool:
    """Whether a label names a state folder of this machine in which no dispatcher lives."""
    machine, _, text = label.partition(":")
    folder = Path(text)
    return machine == _machine(folder) and not any(_is_held(path) for path in folder.glob("*.lock"))


def _folder(state_dir: Path) -> Path:
    """Raises `StackError` where it needs an id of its own and cannot be written."""
    folder = (state_dir / "dispatchers").resolve()
    if not _text(MACHINE_ID):
        _mark(folder)
    return folder


def _mark(folder: Path) -> None:
    """Gives a folder an id of its own, once.

    A container has no machine's id. With the host's name and the same path in it as the next one, it may have
    another folder there: each would take the other's dispatchers, whose locks it does not see, for dead.
    """
    fresh = folder / f".{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _text(folder / FOLDER_ID):
            return
        fresh.write_text(uuid.uuid4().hex)
        # Of those who do this at once, the first one's stays.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, folder / FOLDER_ID)
    except OSError as error:
        raise StackError(f"no lock file can be made in {folder}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _machine(folder: Path) -> str:
    """Tells machines apart that share an engine: cloned ones may share an id, or a name."""
    identity = _text(MACHINE_ID) or _text(folder / FOLDER_ID)
    return f"{socket.gethostname()}/{identity[:12]}"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
