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

MASKED = ("acpi", "asound", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats")
"""What the engine hides of /proc from an ordinary sandbox, as far as any user may read it."""


class Confinement:
    """`options`: memoryMiB, pids, network (whether a task keeps the container's)."""

    def __init__(self, options: dict) -> None:
        self.step = ""
        self._data = options["memoryMiB"] << 20
        self._pids = options["pids"]
        self._namespaces = kernel.NEW_MOUNTS | kernel.NEW_IPC | kernel.NEW_UTS
        self._loopback = not options["network"]
        if self._loopback:
            self._namespaces |= kernel.NEW_NET
        self._filter = kernel.Filter()
        self._mounts = [(b"proc", b"/proc", b"proc", kernel.NO_SUID | kernel.NO_DEV | kernel.NO_EXEC, None)]
        self._mounts += [_mask("/proc/" + name) for name in MASKED if os.access("/proc/" + name, os.R_OK)]
        self._mounts += [_scratch(path) for path in _writable()]
        if os.path.isdir("/dev/pts"):
            options = b"newinstance,ptmxmode=0666,mode=0620"
            self._mounts.append((b"devpts", b"/dev/pts", b"devpts", kernel.NO_SUID | kernel.NO_EXEC, options))
        kernel_version = tuple(int(part) for part in os.uname().release.split(".")[:2])
        self._counts_processes = kernel_version >= NPROC_PER_NAMESPACE

    def put_on(self) -> None:
        """In the child, which is alone in its pid namespace, but for the first process."""
        self.step = "making namespaces"
        # A session of its own: signals to its group would else reach its siblings and the parent.
        os.setsid()
        kernel.set_dumpable(True)
        kernel.unshare(self._namespaces)
        for mount in self._mounts:
            self.step = f"mounting {mount[1].decode()}"
            kernel.mount(*mount)
        self.step = "setting limits"
        kernel.write("/proc/self/oom_score_adj", OOM_SCORE)
        if self._loopback:
            kernel.raise_loopback()
        self.step = "making a user namespace"
        kernel.unshare(kernel.NEW_USER)
        kernel.map_user(first=False)
        self.step = "setting limits"
        resource.setrlimit(resource.RLIMIT_DATA, (self._data, self._data + REPORT_BYTES))
        if self._counts_processes:
            resource.setrlimit(resource.RLIMIT_NPROC, (self._pids, self._pids))
        self.step = "dropping rights"
        kernel.drop_capabilities()
        self._filter.put_on()
        reseed()


def hide_queues() -> None:
    """The container's message queues are seen by all of its tasks: nobody gets them."""
    if os.path.isdir("/dev/mqueue"):
        kernel.mount(b"tmpfs", b"/dev/mqueue", b"tmpfs", kernel.READ_ONLY, b"size=4k")


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
    if os.path.isdir(path):
        return b"tmpfs", path.encode(), b"tmpfs", kernel.READ_ONLY, b"size=4k"
    return b"/dev/null", path.encode(), None, kernel.BIND, None
