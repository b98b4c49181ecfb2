"""The system calls that Python has no function for. All raise OSError."""

import ctypes
import os
import struct

NEW_MOUNTS, NEW_UTS, NEW_IPC = 0x20000, 0x4000000, 0x8000000
NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000
"""Namespaces, for `unshare` and `setns`."""

READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 1 << 12, 1 << 14, 1 << 18
"""Flags of `mount`."""

with open("/proc/sys/kernel/cap_last_cap") as file:  # noqa: PTH123
    CAPABILITIES = int(file.read()) + 1

FORBIDDEN = {
    "x86_64": (0xC000003E, {"mount": 165, "umount2": 166, "unshare": 272, "setns": 308}),
    "aarch64": (0xC00000B7, {"umount2": 39, "mount": 40, "unshare": 97, "setns": 268}),
}
"""By machine: its AUDIT_ARCH, and the numbers of the calls that a parent needs and a task must not have."""

SIGCHLD = 17
CLONE_VM = 0x100
AF_INET, SOCK_DGRAM, SIOCSIFFLAGS = 2, 2, 0x8914
SET_DUMPABLE, DROP_BOUNDING, SET_SECCOMP, FILTER = 4, 24, 22, 2

# PyDLL keeps the interpreter's lock: these are short, and a process has one thread where it calls them.
_libc = ctypes.PyDLL(None, use_errno=True)
_text, _number, _pointer = ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p


def _function(name: str, *arguments):
    """Looked up here, so that no child has to."""
    found = getattr(_libc, name)
    found.argtypes = arguments
    return found


_clone = _function("clone", _pointer, _pointer, ctypes.c_int, _pointer)
_mount = _function("mount", _text, _text, _text, _number, _text)
_prctl = _function("prctl", ctypes.c_int, _number, _number, _number, _number)
_unshare = _function("unshare", ctypes.c_int)
_setns = _function("setns", ctypes.c_int, ctypes.c_int)
_capset = _function("capset", _pointer, _pointer)
_socket = _function("socket", ctypes.c_int, ctypes.c_int, ctypes.c_int)
_ioctl = _function("ioctl", ctypes.c_int, _number, _pointer)
_srandom = _function("srandom", ctypes.c_uint)
_srand48 = _function("srand48", ctypes.c_long)

_LOOPBACK_UP = ctypes.create_string_buffer(struct.pack("16sh14x", b"lo", 1))
"""A struct ifreq: the name, and IFF_UP."""
_HEADER = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
_NO_CAPABILITIES = ctypes.create_string_buffer(24)
_STACK = ctypes.create_string_buffer(16384)
_PAUSE = ctypes.cast(_libc.pause, ctypes.c_void_p).value


def unshare(namespaces: int) -> None:
    _check(_unshare(namespaces))


def setns(descriptor: int, namespace: int) -> None:
    _check(_setns(descriptor, namespace))


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    _check(_mount(source, target, kind, flags, options))


def map_user(*, first: bool) -> None:
    """Let this process's user and group be what they were, in the user namespace that it has just made.

    `first` is for one made by a process of the container; those inside it have the rule on groups already.
    """
    if first:
        write("/proc/self/setgroups", b"deny")
    write("/proc/self/uid_map", b"%d %d 1" % (USER, USER))
    write("/proc/self/gid_map", b"%d %d 1" % (GROUP, GROUP))


USER, GROUP = os.getuid(), os.getgid()


def raise_loopback() -> None:
    """Not by `socket`: of its classes and enumerations each child would get a copy for this."""
    handle = _socket(AF_INET, SOCK_DGRAM, 0)
    _check(handle)
    try:
        _check(_ioctl(handle, SIOCSIFFLAGS, _LOOPBACK_UP))
    finally:
        os.close(handle)


def set_dumpable(yes: bool) -> None:
    """Whether processes of the same user may look into this one's memory and descriptors."""
    _check(_prctl(SET_DUMPABLE, yes, 0, 0, 0))


def drop_capabilities() -> None:
    for capability in range(CAPABILITIES):
        _prctl(DROP_BOUNDING, capability, 0, 0, 0)
    _check(_capset(_HEADER, _NO_CAPABILITIES))


def start_pause() -> int:
    """A process that does nothing until it is killed: the first of a new pid namespace. Its pid.

    It shares this one's memory, and so costs a tenth of a fork: all that it runs is `pause`, on a stack of
    its own. (That stack serves them all, for each writes the same to it.)
    """
    top = (ctypes.addressof(_STACK) + len(_STACK)) & ~15
    pid = _clone(_PAUSE, top, CLONE_VM | SIGCHLD, None)
    _check(min(pid, 0))
    return pid


def seed_libc(seed: bytes) -> None:
    """Another start for the C library's own random numbers."""
    _srandom(int.from_bytes(seed[:4], "little"))
    _srand48(int.from_bytes(seed[4:8], "little"))


class Filter:
    """A seccomp filter that refuses what a parent needs and a task must not have, with EPERM."""

    def __init__(self) -> None:
        machine = os.uname().machine
        if machine not in FORBIDDEN:
            raise OSError(f"there is no list of system calls for {machine}")
        architecture, calls = FORBIDDEN[machine]
        refuse, allow = 0x00050001, 0x7FFF0000  # SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_ALLOW
        load, equals, give = 0x20, 0x15, 0x06
        numbers = list(calls.values())
        code = [(load, 0, 0, 4), (equals, 0, len(numbers) + 2, architecture), (load, 0, 0, 0)]
        code += [(equals, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
        code += [(give, 0, 0, allow), (give, 0, 0, refuse)]
        # A foreign architecture is refused, and so is a call in the list: both jump to the end.
        self._code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in code))
        self._program = ctypes.create_string_buffer(
            struct.pack("HxxxxxxQ", len(code), ctypes.addressof(self._code))
        )

    def put_on(self) -> None:
        _check(_prctl(SET_SECCOMP, FILTER, ctypes.addressof(self._program), 0, 0))


def write(path: str, text: bytes) -> None:
    """Like `open`, with less of the interpreter: what a child touches is copied for it."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def _check(answer: int) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
