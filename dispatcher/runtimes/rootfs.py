"""Images' root file systems, unpacked once and shared by every sandbox of the state folder.

An image is unpacked beside its place and renamed to it, by one process at a time: whoever is killed halfway
leaves what the next one removes. A lock file beside it is held, shared, by each dispatcher that launches from
it; only what nobody holds is removed, the least recently used first, when another one is unpacked.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from dispatcher.runtimes.base import is_full
from dispatcher.runtimes.bundle import RootFilesystem
from dispatcher.runtimes.engine import connect
from mayfly.errors import SandboxesUnavailable, SandboxLost
from mayfly.settings import Settings

KEPT: Final = 32
"""Images that stay unpacked though nobody uses them: some 150 MB each, and some seconds to unpack."""
LABEL: Final = "mayfly.unpacking"
CHUNK: Final = 1024 * 1024
COMPLAINT_BYTES: Final = 500
UNPACK: Final = ("tar", "--extract", "--numeric-owner", "--same-owner", "--same-permissions")
EXTENDED: Final = ("--xattrs", "--xattrs-include=*")
WITHOUT: Final = ("--anchored", "--exclude=dev/*")
"""A sandbox has a /dev of its own, and not everybody may make devices."""


@dataclass
class _Held:
    root: RootFilesystem
    lock: int
    users: int = 0

    def release(self) -> None:
        # It was used until now.
        os.utime(self.lock)
        os.close(self.lock)


class RootFilesystems:
    """Those of one state folder, for one dispatcher. Called on the event loop; threads do the work."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # As both programs want it: a root file system's path that leads through no link.
        self._folder = (settings.state_dir / "oci" / "rootfs").resolve()
        self._held: dict[str, _Held] = {}
        """By tag, the least recently used first."""
        self._fetches: dict[str, asyncio.Task[_Held]] = {}

    async def take(self, image: str) -> RootFilesystem:
        """To be given back. Raises `SandboxLost`; `SandboxesUnavailable` without room or an engine."""
        # A tag holds the hash of what it was built from, so what was read once stays true.
        held = self._held.pop(image, None) or await self._fetch(image)
        self._held[image] = held
        held.users += 1
        return held.root

    def give_back(self, image: str) -> None:
        self._held[image].users -= 1

    def close(self) -> None:
        for held in self._held.values():
            held.release()
        self._held.clear()

    def _release_unused(self) -> None:
        unused = [image for image, held in self._held.items() if not held.users]
        for image in unused[: max(0, len(self._held) - KEPT + 1)]:
            self._held.pop(image).release()

    async def _fetch(self, image: str) -> _Held:
        task = self._fetches.get(image)
        if task is None:
            self._release_unused()
            task = self._fetches[image] = asyncio.create_task(asyncio.to_thread(self._find, image))
            task.add_done_callback(lambda _: self._fetches.pop(image, None))
            # Whoever waited for it may have been cancelled.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        held = await asyncio.shield(task)
        return self._held.pop(image, None) or held

    # --- in a thread

    def _find(self, image: str) -> _Held:
        try:
            api = connect(self._settings)
        except (DockerException, requests.RequestException, OSError) as error:
            raise SandboxesUnavailable(f"no Docker engine answers, to unpack {image}: {error}") from error
        try:
            return self._unpacked(api, image)
        except ImageNotFound as error:
            raise SandboxLost(f"the engine has no image {image}: deploy the function again") from error
        except (DockerException, requests.RequestException, OSError) as error:
            reason = str(getattr(error, "explanation", None) or error)
            full = is_full(reason)
            lost = SandboxesUnavailable if full or not isinstance(error, APIError | OSError) else SandboxLost
            raise lost(f"the image {image} cannot be unpacked: {reason}") from error
        finally:
            api.close()

    def _unpacked(self, api: docker.APIClient, image: str) -> _Held:
        found = api.inspect_image(image)  # type: ignore[no-untyped-call]
        path = self._folder / found["Id"].rpartition(":")[2]
        root = _root(path, found["Config"])
        lock = self._hold(path)
        if lock is None:
            with self._alone():
                if not path.exists():
                    self._remove_unused()
                    self._unpack(api, found["Id"], path)
                lock = self._lock(path, fcntl.LOCK_SH)
        return _Held(root, lock)

    def _hold(self, path: Path) -> int | None:
        """The shared lock of what is there."""
        if not path.exists():
            return None
        lock = self._lock(path, fcntl.LOCK_SH)
        # It may have been removed before it was ours.
        if path.exists() and os.path.samestat(os.fstat(lock), _lock_file(path).stat()):
            return lock
        os.close(lock)
        return None

    def _lock(self, path: Path, operation: int) -> int:
        file = _lock_file(path)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation)
            os.utime(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """As the only one that unpacks and removes in this state folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # An image's set-uid programs are for nobody of this machine.
        self._folder.chmod(0o700)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for path in self._folder.glob("*.part"):
                shutil.rmtree(path)
            yield
        finally:
            os.close(descriptor)

    def _unpack(self, api: docker.APIClient, identity: str, path: Path) -> None:
        part = path.with_suffix(".part")
        part.mkdir()
        try:
            container = self._container(api, identity)
            try:
                _extract(api, container, part)
            finally:
                api.remove_container(container, v=True, force=True)
            part.rename(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _container(self, api: docker.APIClient, identity: str) -> str:
        """One that is never started: only a container's files are to be had, not an image's."""
        label = {LABEL: str(self._folder)}
        for left in api.containers(all=True, filters={"label": f"{LABEL}={self._folder}"}):
            with contextlib.suppress(NotFound):
                api.remove_container(left["Id"], v=True, force=True)
        config = {"Image": identity, "Labels": label, "NetworkDisabled": True, "Cmd": ["none"]}
        made: dict[str, Any] = api.create_container_from_config(config, f"mayfly-{uuid.uuid4().hex}")  # type: ignore[no-untyped-call]
        return str(made["Id"])

    def _remove_unused(self) -> None:
        """Make room for one more: of those that nobody uses, the ones that were used last stay."""
        locks = sorted(self._folder.glob("*.lock"), key=lambda file: file.stat().st_mtime)
        excess = len(locks) - KEPT + 1
        for file in locks:
            if excess <= 0:
                break
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                path = file.with_suffix("")
                if path.exists():
                    path.rename(path.with_suffix(".part"))
                    shutil.rmtree(path.with_suffix(".part"))
                file.unlink()
                excess -= 1
            finally:
                os.close(descriptor)


def _lock_file(path: Path) -> Path:
    return path.with_suffix(".lock")


def _root(path: Path, config: dict[str, Any]) -> RootFilesystem:
    return RootFilesystem(
        path=path,
        environment=dict(variable.partition("=")[::2] for variable in config.get("Env") or ()),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        folder=config.get("WorkingDir") or "/",
        volumes=tuple(config.get("Volumes") or ()),
    )


def _extract(api: docker.APIClient, container: str, folder: Path) -> None:
    """Raises `OSError`."""
    command = [*UNPACK, *EXTENDED, *WITHOUT, "--directory", str(folder)]
    # Where there is no room it complains of every file, and nobody reads that before it has ended.
    with os.fdopen(os.memfd_create("tar"), "w+b") as complaints:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints) as tar:
            assert tar.stdin is not None
            # One that gave up says why: its input breaks first.
            with contextlib.suppress(BrokenPipeError):
                for chunk in api.export(container, CHUNK):
                    tar.stdin.write(chunk)
            with contextlib.suppress(BrokenPipeError):
                tar.stdin.close()
        if tar.returncode:
            complaints.seek(0)
            raise OSError(complaints.read(COMPLAINT_BYTES).decode(errors="replace").strip())
