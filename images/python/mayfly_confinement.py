"""What a forked task is confined by: a container's worth of it, inside the container.

`Confinement` is made by the parent, which looks ahead at all that can be looked up; `put_on` is the child's,
and every microsecond of it is a task's. A failure is an OSError; `step` then names what was being done.
"""
# ruff: noqa: PTH112, PTH123 - pathlib is slow to import

import os
import resource
import sys

import mayfly_kernel as kernel

REPORT_BYTES = 16 << 20
"""Beyond its memory, for the report that it has used it up."""
OOM_SCORE = b"900"
"""A task is killed before the parent is."""
NPROC_PER_NAMESPACE = (5, 14)
"""From this kernel on, RLIMIT_NPROC counts the processes of a user namespace, not all of a user's."""

MAX_DESCRIPTORS = 1 << 20

QUEUES = "/dev/mqueue"
MASKED = ("acpi", "asound", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats")
"""What the engine hides of /proc from an ordinary sandbox, as far as any user may read it."""


class Confinement:
    """`options`: memoryMiB, pids, network (whether a task keeps the container's). Of descriptors, a child
    keeps 0, 1 and 2, and `failure` until it is confined."""

    def __init__(self, options: dict, failure: int) -> None:
        self.step = ""
        # Kept: the plan has only the address of its code.
        self._filter = kernel.Filter()
        plan = _plan(options, self._filter, failure)
        self._plan = tuple((step, *call) for step, call in plan)

    def put_on(self) -> None:
        """In the child, which is alone in its pid namespace, but for the first process."""
        for step, call, arguments in self._plan:
            self.step = step
            if call(*arguments) == -1:
                raise kernel.failure()

    def rehearse(self, call, *arguments) -> None:
        """Call it in the parent: what it puts on is nothing."""
        plan, self._plan = self._plan, tuple(("", *step) for step in kernel.harmless())
        try:
            call(*arguments)
        finally:
            self._plan = plan


def _plan(options: dict, filter: kernel.Filter, failure: int):
    """What a child does, step by step: pairs of a step's name and a `kernel.Call`.

    Made ahead: a child that found its way through functions would get copies of the pages that those are on.
    """
    yield "closing descriptors", (os.closerange, (3, failure))
    yield "closing descriptors", (os.closerange, (failure + 1, MAX_DESCRIPTORS))
    # A session of its own: signals to its group would else reach its siblings and the parent.
    yield "making namespaces", (os.setsid, ())
    yield "making namespaces", kernel.setting_dumpable(True)
    private = kernel.NEW_MOUNTS | kernel.NEW_IPC | kernel.NEW_UTS
    if not options["network"]:
        private |= kernel.NEW_NET
    yield "making namespaces", kernel.unsharing(private)
    for mount in _mounts():
        yield f"mounting {mount[1].decode()}", kernel.mounting(*mount)
    yield "setting limits", (kernel.write, ("/proc/self/oom_score_adj", OOM_SCORE))
    if not options["network"]:
        yield "setting limits", (kernel.raise_loopback, ())
    yield "making a user namespace", kernel.unsharing(kernel.NEW_USER)
    for call in kernel.mapping_user():
        yield "making a user namespace", call
    data = options["memoryMiB"] << 20
    yield "setting limits", (resource.setrlimit, (resource.RLIMIT_DATA, (data, data + REPORT_BYTES)))
    kernel_version = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if kernel_version >= NPROC_PER_NAMESPACE:
        yield "setting limits", (resource.setrlimit, (resource.RLIMIT_NPROC, (options["pids"],) * 2))
    for call in kernel.dropping_capabilities():
        yield "dropping rights", call
    yield "dropping rights", filter.putting_on()
    yield "dropping rights", (reseed, ())
    yield "unblocking signals", kernel.unblocking()
    yield "closing descriptors", (os.close, (failure,))


def _mounts():
    yield b"proc", b"/proc", b"proc", kernel.NO_SUID | kernel.NO_DEV | kernel.NO_EXEC, None
    for path in ("/proc/" + name for name in MASKED):
        if os.access(path, os.R_OK):
            yield _mask(path)
    for path in _writable():
        yield _scratch(path)
    if os.path.isdir("/dev/pts"):
        options = b"newinstance,ptmxmode=0666,mode=0620"
        yield b"devpts", b"/dev/pts", b"devpts", kernel.NO_SUID | kernel.NO_EXEC, options


def hide_queues() -> None:
    """The container's message queues are seen by all of its tasks: nobody gets them."""
    if os.path.isdir(QUEUES):
        kernel.mount(b"tmpfs", QUEUES.encode(), b"tmpfs", kernel.READ_ONLY, b"size=4k")


def reseed() -> None:
    """Give what draws random numbers in this process another start than its siblings'.

    `random` does so itself after a fork, and `secrets`, `uuid4` and `os.urandom` ask the kernel.
    """
    kernel.seed_libc(os.urandom(8))
    modules = sys.modules
    if "_ssl" in modules:
        modules["_ssl"].RAND_add(os.urandom(32), 32.0)
    if "uuid" in modules:
        # libuuid's own clock sequence would be the same in all: Python's is drawn by chance.
        modules["uuid"]._generate_time_safe = modules["uuid"]._last_timestamp = None
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "torch" in modules:
        modules["torch"].seed()


def _writable() -> list[str]:
    """Where this container's processes may write: each task gets a fresh one."""
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            path = before.split()[4].encode().decode("unicode_escape")
            if after.split()[0] == "tmpfs" and os.access(path, os.W_OK):
                found.append(path)
    return found


def _scratch(path: str) -> tuple:
    size = os.statvfs(path)
    options = b"mode=1777,size=%d" % (size.f_blocks * size.f_frsize)
    flags = kernel.NO_SUID | kernel.NO_DEV
    if size.f_flag & os.ST_NOEXEC:
        flags |= kernel.NO_EXEC
    return b"tmpfs", path.encode(), b"tmpfs", flags, options


def _mask(path: str) -> tuple:
    """By what is empty and read-only, and is there already where it can be: a file system less for each."""
    if os.path.isdir(path) and os.path.isdir(QUEUES):
        return QUEUES.encode(), path.encode(), None, kernel.BIND, None
    if os.path.isdir(path):
        return b"tmpfs", path.encode(), b"tmpfs", kernel.READ_ONLY, b"size=4k"
    return b"/dev/null", path.encode(), None, kernel.BIND, None
