"""A dispatcher's keeper: the process that starts its sandboxes with `runc` or `crun`, and is their parent.

It is a process of its own for three reasons. When its starter ends, a container's first process is handed to
the nearest ancestor that asked for orphans, and whoever asks is given others too and has to reap them all:
nothing else can be started there. `crun` has to have hybrid control groups hidden from it, in the mount
namespace that it is started in. And the keeper sees its dispatcher die, however it does, and ends all that
it has.

It is told a sandbox's name together with its three pipes, and tells that it started, or why it did not, and
how it ended. All else, such as a signal, a dispatcher does by itself with the process's descriptor.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from dispatcher.runtimes import cgroups
from dispatcher.runtimes.program import SYSTEM

START_SECONDS: Final = 60.0
"""A program that has not started its container by then is killed: a machine that pages takes seconds."""
LATE_SECONDS: Final = 0.05
"""Between two tries to take away what is still busy."""
STRAYS: Final = 1000
"""Children that ended before it was known what they are. A number comes again after 32,768 others or more."""
IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)
ENVIRONMENT: Final = {"PATH": SYSTEM}
"""All that a program gets: none of the dispatcher's secrets, and no NOTIFY_SOCKET to pass on."""
NAME_BYTES: Final = 64
REASON_CHARS: Final = 2000

_PR_SET_CHILD_SUBREAPER: Final = 36
_CLONE_NEWNS: Final = 0x00020000
_MNT_DETACH: Final = 2
_MS_REC_SLAVE: Final = 1 << 14 | 1 << 19


class Told(NamedTuple):
    """What a keeper tells of a sandbox. A started one's descriptor travels beside it."""

    name: str
    failure: str | None = None
    """Why it could not be started."""
    code: int | None = None
    """Its exit code, once it has ended."""
    oom_killed: bool = False

    def encode(self) -> bytes:
        return json.dumps(self).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Told":
        return cls(*json.loads(data))


class Folder(NamedTuple):
    """Where a dispatcher's sandboxes have their files, under `/run`: none is there after a boot."""

    path: str

    def make(self, owner: str) -> None:
        """With whose it is, for whoever finds it when that one is dead."""
        for folder in (f"{self.path}/bundles", self.state, self.empty):
            Path(folder).mkdir(parents=True, exist_ok=True)
        # For a sandbox's user, whatever our mask is.
        Path(self.empty).chmod(0o755)
        Path(self.path, "owner").write_text(owner)

    @property
    def state(self) -> str:
        """What `runc` and `crun` note of their containers."""
        return f"{self.path}/state"

    @property
    def empty(self) -> str:
        """The root of a sandbox that needs no file."""
        return f"{self.path}/empty"

    def bundle(self, name: str) -> str:
        """A sandbox's `config.json`; what else is put there, is put there by its start."""
        return f"{self.path}/bundles/{name}"

    def write(self, name: str, config: bytes) -> None:
        bundle = self.bundle(name)
        os.mkdir(bundle, 0o700)  # noqa: PTH102 - on a task's path
        with open(f"{bundle}/config.json", "wb", buffering=0) as file:  # noqa: PTH123
            file.write(config)

    def names(self) -> list[str]:
        try:
            return os.listdir(f"{self.path}/bundles")  # noqa: PTH208 - names, not paths
        except FileNotFoundError:
            return []

    def forget(self, name: str) -> None:
        for folder in (self.bundle(name), f"{self.state}/{name}"):
            shutil.rmtree(folder, ignore_errors=True)


class _Start(NamedTuple):
    name: str
    deadline: float


class Keeper:
    """One dispatcher's, for its life. `program` is the command that all its starts begin with."""

    def __init__(
        self, connection: socket.socket, program: list[str], folder: Folder, group: str, *, hide: bool
    ) -> None:
        self._connection = connection
        self._program = program
        self._executable = program[0]
        self._folder = folder
        self._group = group
        self._found = cgroups.hierarchies()
        self._shadow: str | None = None
        if hide and self._found.unified is not None:
            self._shadow = self._found.unified
            roots = tuple(root for root in self._found.roots if root != self._shadow)
            self._found = self._found._replace(roots=roots, unified=None)
        self._starts: dict[int, _Start] = {}
        self._running: dict[int, str] = {}
        self._strays: dict[int, int] = {}
        self._late: set[str] = set()
        self._deserted = False

    def run(self) -> None:
        """Until its dispatcher is gone, and then all of its sandboxes too."""
        _adopt_orphans()
        self._executable = _sealed(self._program[0])
        if self._shadow is not None:
            _hide(self._shadow)
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(woken, select.POLLIN)
        while not self._deserted or self._starts or self._running or self._late:
            for descriptor, _ in poll.poll(self._patience()):
                if descriptor == woken:
                    _drain(woken)
                else:
                    self._listen()
            self._reap()
            self._watch_clock()
            if self._deserted:
                with contextlib.suppress(KeyError):
                    poll.unregister(self._connection)
                self._kill_all()
        cgroups.remove(self._found, self._group)
        shutil.rmtree(self._folder.path, ignore_errors=True)

    def _patience(self) -> float | None:
        """Milliseconds until the clock is to be looked at."""
        if self._late or self._deserted:
            return LATE_SECONDS * 1000
        return 1000 if self._starts else None

    # --- a sandbox's life

    def _listen(self) -> None:
        try:
            data, pipes, _, _ = socket.recv_fds(self._connection, NAME_BYTES, 3)
        except OSError:
            data, pipes = b"", []
        if not data:
            self._deserted = True
            return
        try:
            self._start(data.decode(), pipes)
        finally:
            for pipe in pipes:
                os.close(pipe)

    def _start(self, name: str, pipes: list[int]) -> None:
        bundle = self._folder.bundle(name)
        command = [
            *self._program,
            "--root",
            self._folder.state,
            "--log",
            f"{bundle}/log",
            "--log-format",
            "json",
        ]
        command += ["run", "--detach", "--bundle", bundle, "--pid-file", f"{bundle}/pid", name]
        actions = [(os.POSIX_SPAWN_DUP2, pipe, number) for number, pipe in enumerate(pipes)]
        try:
            # What Python ignores, a function's process is to have as it is by default.
            process = os.posix_spawn(
                self._executable, command, ENVIRONMENT, file_actions=actions, setsigmask=(), setsigdef=IGNORED
            )
        except OSError as error:
            self._fail(name, str(error))
        else:
            self._starts[process] = _Start(name, time.monotonic() + START_SECONDS)

    def _reap(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if start := self._starts.pop(process, None):
                self._started(start.name, code)
            elif name := self._running.pop(process, None):
                self._ended(name, code)
            else:
                # A helper of the program's, or a container that was faster than the program that started it.
                self._strays[process] = code
                if len(self._strays) > STRAYS:
                    del self._strays[next(iter(self._strays))]

    def _started(self, name: str, code: int) -> None:
        try:
            process = int(Path(self._folder.bundle(name), "pid").read_text()) if code == 0 else 0
        except (OSError, ValueError):
            process = 0
        if not process:
            self._fail(name, self._reason(name, code))
        elif process in self._strays:
            self._tell(Told(name))
            self._ended(name, self._strays.pop(process))
        else:
            # Not reaped yet, so that the number is still its own.
            self._running[process] = name
            descriptor = os.pidfd_open(process)
            self._tell(Told(name), descriptor)
            os.close(descriptor)

    def _ended(self, name: str, code: int) -> None:
        killed = cgroups.oom_kills(self._found, f"{self._group}/{name}") > 0
        self._tell(Told(name, None, code if code >= 0 else 128 - code, killed))
        self._forget(name)

    def _fail(self, name: str, reason: str) -> None:
        if cgroups.oom_kills(self._found, f"{self._group}/{name}"):
            reason = f"its memory limit is too small to start in: {reason}"
        self._tell(Told(name, reason[:REASON_CHARS]))
        # What a start that was cut short has left may still run.
        cgroups.kill(self._found, f"{self._group}/{name}")
        self._forget(name)

    def _reason(self, name: str, code: int) -> str:
        """What the program said last."""
        try:
            lines = Path(self._folder.bundle(name), "log").read_text().splitlines()
            reasons = [line["msg"] for line in map(json.loads, lines) if line.get("level") == "error"]
            return str(reasons[-1])
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return f"{self._program[0]} ended with {code}"

    def _forget(self, name: str) -> None:
        if self._shadow is not None:
            shutil.rmtree(f"{self._shadow}/{self._group}/{name}", ignore_errors=True)
        if cgroups.remove(self._found, f"{self._group}/{name}"):
            self._late.discard(name)
            self._folder.forget(name)
        else:
            self._late.add(name)

    # --- what does not go as it should

    def _watch_clock(self) -> None:
        for name in list(self._late):
            cgroups.kill(self._found, f"{self._group}/{name}")
            self._forget(name)
        now = time.monotonic()
        for process, start in self._starts.items():
            if now > start.deadline:
                os.kill(process, signal.SIGKILL)

    def _kill_all(self) -> None:
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _tell(self, told: Told, *descriptors: int) -> None:
        # A dispatcher that is gone needs no answer.
        with contextlib.suppress(OSError):
            socket.send_fds(self._connection, [told.encode()], descriptors)


_libc: Final[Any] = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _adopt_orphans() -> None:
    """Become the parent of containers whose starter has ended."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def _sealed(program: str) -> str:
    """A copy of a program in memory that nobody can write to, and a path to it for children.

    Both programs would otherwise make such a copy of themselves at every start, for a container that gets at
    its starter must not change the program (CVE-2019-5736). They see that they are one already.
    """
    descriptor = os.memfd_create(os.path.basename(program), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)  # noqa: PTH119
    with open(descriptor, "wb", closefd=False) as copy:
        copy.write(Path(program).read_bytes())
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return f"/proc/self/fd/{descriptor}"


def _hide(place: str) -> None:
    """Put an empty folder in a mount's place, for this process and its children."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, _MS_REC_SLAVE, None), "mount")
    _check(_libc.umount2(place.encode(), _MNT_DETACH), "umount")
    _check(_libc.mount(b"tmpfs", place.encode(), b"tmpfs", 0, b"mode=700,size=1m"), "mount")


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def main(descriptor: str, folder: str, group: str, hide: str, *program: str) -> None:
    # A terminal's Ctrl-C is the dispatcher's business: it may let running tasks finish.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # No SIG_IGN, which a sandbox would inherit.
        signal.signal(number, lambda *_: None)
    connection = socket.socket(fileno=int(descriptor))
    Keeper(connection, list(program), Folder(folder), group, hide=hide == "hide").run()


if __name__ == "__main__":
    main(*sys.argv[1:])
