"""The control groups of sandboxes that we launch ourselves, of version 1 and of version 2.

A dispatcher has one group, with a group in it for each of its sandboxes: in every hierarchy of version 1, or
in the one of version 2. Their makers are `runc` and `crun`; here they are read and taken away.
"""

import contextlib
import errno
import os
import signal
import time
from pathlib import Path
from typing import Final, NamedTuple

MOUNTS: Final = Path("/proc/self/mountinfo")
EMPTY_SECONDS: Final = 30.0
"""How long killed processes may take to be gone: one in an uninterruptible call has to come back first."""
POLL_SECONDS: Final = 0.01


class Hierarchies(NamedTuple):
    """Where this machine's control groups are."""

    roots: tuple[str, ...]
    memory: str
    """The hierarchy that limits memory."""
    unified: str | None
    """The version 2 hierarchy, if there is one."""
    version: int
    """Of what limits memory."""

    @property
    def hybrid(self) -> bool:
        """Whether there is a version 2 hierarchy beside those of version 1, which do the work."""
        return self.version == 1 and self.unified is not None


def hierarchies(mounts: str | None = None) -> Hierarchies:
    """Read from `/proc/self/mountinfo`. Raises `OSError` where nothing limits memory."""
    roots: list[str] = []
    memory = unified = None
    for line in (MOUNTS.read_text() if mounts is None else mounts).splitlines():
        mount, _, device = line.partition(" - ")
        place, (kind, _, options) = mount.split()[4], device.split(maxsplit=2)
        if kind not in ("cgroup", "cgroup2") or place in roots:
            continue
        roots.append(place)
        if kind == "cgroup2":
            unified = place
        elif "memory" in options.split(","):
            memory = place
    if memory is None and unified is None:
        raise OSError(errno.ENOENT, "no control groups are mounted")
    if memory is None:
        assert unified is not None
        return Hierarchies(tuple(roots), unified, unified, 2)
    return Hierarchies(tuple(roots), memory, unified, 1)


def oom_kills(found: Hierarchies, group: str) -> int:
    """How many of a group's processes the kernel has killed for its memory limit."""
    name = "memory.events" if found.version == 2 else "memory.oom_control"
    try:
        with open(f"{found.memory}/{group}/{name}") as file:  # noqa: PTH123 - on a task's path
            fields = dict(line.split() for line in file)
    except OSError:
        return 0
    return int(fields.get("oom_kill", 0))


def swap_is_counted(found: Hierarchies) -> bool:
    """Whether a limit on swap can be set: version 1 refuses it where the kernel does not count swap."""
    return found.version == 2 or Path(found.memory, "memory.memsw.limit_in_bytes").exists()


def remove(found: Hierarchies, group: str) -> bool:
    """Take a group away; False while it has processes, or groups within."""
    gone = True
    for root in found.roots:
        try:
            os.rmdir(f"{root}/{group}")  # noqa: PTH106 - on a task's path
        except FileNotFoundError:
            pass
        except OSError:
            gone = False
    return gone


def end(found: Hierarchies, group: str) -> None:
    """Kill every process of a group and those within, and take them all away. Blocks.

    Raises `OSError` where processes do not die.
    """
    deadline = time.monotonic() + EMPTY_SECONDS
    while processes := kill(found, group):
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, f"processes {processes} of the control group {group} do not die")
        time.sleep(POLL_SECONDS)
    while not _remove_tree(found, group):
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, f"the control group {group} cannot be removed")
        time.sleep(POLL_SECONDS)


def kill(found: Hierarchies, group: str) -> set[int]:
    """Kill every process of a group and those within: those that it had."""
    processes = _processes(found, group)
    for process in processes:
        _kill(process, found, group)
    return processes


def _processes(found: Hierarchies, group: str) -> set[int]:
    """All of a group's processes: they are in every hierarchy, but a start that was cut short may not be."""
    processes: set[int] = set()
    for root in found.roots:
        for folder, _, _ in os.walk(f"{root}/{group}"):
            with contextlib.suppress(OSError):
                processes.update(int(line) for line in Path(folder, "cgroup.procs").read_text().split())
    return processes


def _kill(process: int, found: Hierarchies, group: str) -> None:
    """By a descriptor: a number may be another process's by now."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        if process in _processes(found, group):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _remove_tree(found: Hierarchies, group: str) -> bool:
    gone = True
    for root in found.roots:
        folders = [folder for folder, _, _ in os.walk(f"{root}/{group}", topdown=False)]
        for folder in folders:
            try:
                Path(folder).rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                gone = False
    return gone
