"""A process that serves tasks one after another (`isolation = "warm"`).

The frames are those of `bootstrap.py`, and begin again with A. Before each task, M gives the bytes that this
process writes to its log once the task is over: all before them is that task's log. What a task did to the
process is undone as far as that can be; what it left in memory, and threads that it started, stay.
"""
# ruff: noqa: PTH108, PTH112, PTH114, PTH118, PTH208, SIM105 - pathlib and contextlib are slow to import

import _signal
import os
import sys
import time

import mayfly_memory

LOG_FD = 503
NULL_FD = 504
"""Copies of descriptors 2 and 0, beside the channel's."""
LOAD = "/proc/loadavg"
"""Its last number is that of the process or thread that was started last, of those that this one sees."""
SHORT_SECONDS = 0.05
"""Too little for so many to be started that the same number comes again: 32,000 at least."""

SCRATCH = ("/tmp", "/dev/shm")  # noqa: S108 - the sandbox's own


def serve(bootstrap) -> None:
    """Until the dispatcher hangs up, or a task ends the process. The import's failure is the first answer."""
    channel = bootstrap.open_channel()
    try:
        function = bootstrap.load_function()
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - a broken import is the function's outcome
        bootstrap.report_failure(channel, error)
        return
    state = State(bootstrap)
    killed = mayfly_memory.oom_kills()
    while True:
        channel.send(b"A", b"{}")
        mark = channel.receive(b"M")
        began = time.monotonic()
        if not bootstrap.answer(channel, *function) and mayfly_memory.oom_kills() != killed:
            return  # the engine tells of a child that died for its memory once the container has ended
        state.end_processes(short=time.monotonic() - began < SHORT_SECONDS)
        bootstrap.flush()
        state.restore_descriptors()
        os.write(2, mark)
        if channel.has_unread:
            return  # what the next task would read first is this one's
        state.restore()


class State:
    """What every task finds as the first one found it."""

    def __init__(self, bootstrap) -> None:
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._environment = dict(os.environ)
        # Outside a container, whose first process is our parent, neither files nor processes are ours.
        contained = os.getppid() == 1
        self._files = {folder: set(_names(folder)) for folder in SCRATCH if contained}
        self._youngest = _youngest()
        self._processes = set(processes()) if contained else None
        self._terminate = bootstrap.terminate
        self._folder = bootstrap.FUNCTION
        self._umask = os.umask(0)
        os.umask(self._umask)
        os.dup2(2, LOG_FD, inheritable=False)
        os.dup2(0, NULL_FD, inheritable=False)

    def end_processes(self, *, short: bool) -> None:
        """Kill what the task has started and left: of its children, and of theirs. `short` was its turn."""
        if self._processes is None:
            return
        before, self._youngest = self._youngest, _youngest()
        if short and 0 < before == self._youngest:
            return  # none was started: to ask who is there takes the kernel through all of the machine
        try:
            os.kill(-1, 0)  # reaches all but this process and the first
        except OSError:
            return
        end_processes(self._processes)

    def restore_descriptors(self) -> None:
        os.dup2(NULL_FD, 0)
        os.dup2(LOG_FD, 1)
        os.dup2(LOG_FD, 2)
        sys.stdin, sys.stdout, sys.stderr = self._streams

    def restore(self) -> None:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGTERM, self._terminate)
        os.umask(self._umask)
        os.chdir(self._folder)
        if os.environ != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        for folder, kept in self._files.items():
            for name in _names(folder):
                if name not in kept:
                    _remove(os.path.join(folder, name))


def _youngest() -> int:
    """The number of the process that was started last; 0 where that is not known, as on gVisor."""
    try:
        file = os.open(LOAD, os.O_RDONLY)
        try:
            return int(os.read(file, 128).split()[-1])
        finally:
            os.close(file)
    except (OSError, ValueError, IndexError):
        return 0


def processes() -> list[int]:
    """Every process that this one sees, but itself."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def end_processes(kept: set[int]) -> None:
    # Whoever is found dead may have forked after the list was read: only a list of none but those who were
    # known dead before it says that nobody is left.
    dead: set[int] = set()
    while left := [pid for pid in processes() if pid not in kept and pid not in dead]:
        if kept == {1}:
            _kill(-1)  # all at once, so that who forks in a chain is not always one ahead
        for pid in left:
            if _is_dead(pid):
                dead.add(pid)
            else:
                _kill(pid)
    for pid in dead:
        _reap(pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, _signal.SIGKILL)
    except ProcessLookupError:
        pass


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # not ours: the first process reaps it
        pass


def _is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _remove(path: str) -> None:
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            import shutil

            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    except OSError:
        pass
