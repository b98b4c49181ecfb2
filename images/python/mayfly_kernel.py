"""System calls that Python has no function for, or one that writes to more pages. All raise OSError.

A `Call` is one that is to be made later: its function, which raises OSError or returns -1, of which `failure`
tells, and its arguments.
"""

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
GET_DUMPABLE, SET_DUMPABLE, READ_BOUNDING, DROP_BOUNDING, SET_SECCOMP, FILTER = 3, 4, 23, 24, 22, 2

# PyDLL keeps the interpreter's lock: these are short, and `wait` is for what has ended.
_libc = ctypes.PyDLL(None, use_errno=True)
# Looked up here, so that no child has to; and without types, for each type, and each value made by it, is one
# page more that a child gets a copy of. So an int has to fit 32 bits; an address goes as bytes or `c_void_p`.
_clone, _mount, _prctl, _unshare, _setns = _libc.clone, _libc.mount, _libc.prctl, _libc.unshare, _libc.setns
_capset, _socket, _ioctl, _exit = _libc.capset, _libc.socket, _libc.ioctl, _libc._exit
_wait4, _srandom, _srand48, _sigprocmask = _libc.wait4, _libc.srandom, _libc.srand48, _libc.sigprocmask

_LOOPBACK_UP = struct.pack("16sh22x", b"lo", 1)
"""A struct ifreq: the name, and IFF_UP."""
_HEADER, _NO_CAPABILITIES = struct.pack("Ii", 0x20080522, 0), bytes(24)
_STACK = ctypes.create_string_buffer(16384)
_TOP = ctypes.c_void_p((ctypes.addressof(_STACK) + len(_STACK)) & ~15)
_PAUSE = _libc.pause
_BLOCK, _SET = 0, 2
_NO_SIGNALS, _ALL_SIGNALS = bytes(128), b"\xff" * 128
_MASK = ctypes.create_string_buffer(128)
"""The signals that were blocked before all were."""
_STATUS, _USAGE = ctypes.create_string_buffer(4), ctypes.create_string_buffer(144)
_INT, _LONG = struct.Struct("i"), struct.Struct("l")
_PEAK = 32
"""Where a struct rusage has the largest resident set, in KiB."""

Call = tuple


def unsharing(namespaces: int) -> Call:
    return _unshare, (namespaces,)


def mounting(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None) -> Call:
    return _mount, (source, target, kind, flags, options)


def setting_dumpable(yes: bool) -> Call:
    """Whether processes of the same user may look into this one's memory and descriptors."""
    return _prctl, (SET_DUMPABLE, yes, 0, 0, 0)


def mapping_user() -> list[Call]:
    """Let a process's user and group be what they were, in the user namespace that it has just made."""
    return [
        (write, ("/proc/self/uid_map", b"%d %d 1" % (USER, USER))),
        (write, ("/proc/self/gid_map", b"%d %d 1" % (GROUP, GROUP))),
    ]


def dropping_capabilities() -> list[Call]:
    return [(of_each_capability, (DROP_BOUNDING,)), (_capset, (_HEADER, _NO_CAPABILITIES))]


def block_signals() -> None:
    """All that can be blocked, until a child does what `unblocking` says."""
    make((_sigprocmask, (_SET, _ALL_SIGNALS, _MASK)))


def unblocking() -> Call:
    return _sigprocmask, (_SET, _MASK, None)


def harmless() -> list[Call]:
    """One of each kind that a process can make as often as it likes."""
    return [
        (_prctl, (GET_DUMPABLE, 0, 0, 0, 0)),
        (write, ("/dev/null", b"")),
        (of_each_capability, (READ_BOUNDING,)),
        (_sigprocmask, (_BLOCK, _NO_SIGNALS, None)),
    ]


def unshare(namespaces: int) -> None:
    make(unsharing(namespaces))


def setns(descriptor: int, namespace: int) -> None:
    _check(_setns(descriptor, namespace))


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    make(mounting(source, target, kind, flags, options))


def map_user() -> None:
    """In a user namespace made by a process of the container: those inside it have its rule on groups."""
    write("/proc/self/setgroups", b"deny")
    for call in mapping_user():
        make(call)


USER, GROUP = os.getuid(), os.getgid()


def raise_loopback() -> None:
    """Without an object for the socket: it and its class are on pages that each child would get copies of."""
    handle = _socket(AF_INET, SOCK_DGRAM, 0)
    _check(handle)
    try:
        _check(_ioctl(handle, SIOCSIFFLAGS, _LOOPBACK_UP))
    finally:
        os.close(handle)


def of_each_capability(option: int) -> None:
    """`prctl` with each capability that there is."""
    for capability in range(CAPABILITIES):
        _prctl(option, capability, 0, 0, 0)


def start_pause() -> int:
    """A process that does nothing until it is killed: the first of a new pid namespace. Its pid.

    It shares this one's memory, and so costs a tenth of a fork: all that it runs is `pause`, on a stack of
    its own. (That stack serves them all, for each writes the same to it.) Its task may send it signals, and
    what handles one would run in this memory: they have to be blocked before.
    """
    pid = _clone(_PAUSE, _TOP, CLONE_VM | SIGCHLD, None)
    _check(min(pid, 0))
    return pid


def wait(pid: int) -> tuple[int, int]:
    """The wait status of a child that has ended, and its peak in KiB. (`os.wait4` imports a module.)"""
    _check(_wait4(pid, _STATUS, 0, _USAGE))
    return _INT.unpack(_STATUS)[0], _LONG.unpack_from(_USAGE, _PEAK)[0]


def end(code: int) -> None:
    """Like `os._exit`, which the dynamic linker would look up anew for each child: no parent called it."""
    _exit(code)


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
        self._program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(self._code))

    def putting_on(self) -> Call:
        return _prctl, (SET_SECCOMP, FILTER, self._program, 0, 0)


def write(path: str, text: bytes) -> None:
    """Like `open`, with less of the interpreter: what a child touches is copied for it."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def make(call: Call) -> None:
    """At once."""
    function, arguments = call
    if function(*arguments) == -1:
        raise failure()


def failure() -> OSError:
    """Of a call that has just returned -1."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _check(answer: int) -> None:
    if answer < 0:
        raise failure()
