"""Where code and objects lie in memory: what each child touches is to be on few pages.

A child has nothing in its table of what is mapped from a file, and takes a fault for every 64 KiB of code
that it comes to. A huge page that is no file's is one entry of that table, which it is born with.

What a child writes to it gets copies of. CPython (3.10 and later) has small objects in pools of one size
each, and gives a new one the place that was left free last: among what the interpreter made when it started,
most of which no child ever touches.
"""

# What a parent needs of the standard library, so that this lies before the holes are filled.
import ctypes
import gc  # noqa: F401
import resource  # noqa: F401

HUGE = 2 << 20
READ, WRITE, EXECUTE = 1, 2, 4
PRIVATE, ANONYMOUS = 0x02, 0x20
MAY_MOVE, FIXED = 1, 2
HUGE_PAGE, COLLAPSE = 14, 25
"""Of `mmap`, `mremap` and `madvise`."""

POOL = 16 * 1024
HEADER = 48
STEP, LARGEST = 16, 512
"""Bytes: of a pool, of its header, and the sizes of what is in one."""

_kept: list[object] = []


def share_code() -> None:
    """Copy what of the interpreter's code fills huge pages to such, and put those in its place.

    Where there are none (a kernel before 6.1 does not tell), or the kernel lets no code be in what is no
    file's, all stays as it was. Only for a process with one thread: nobody is to run that code meanwhile.
    """
    libc = ctypes.PyDLL(None)
    for name in ("mmap", "mremap"):
        getattr(libc, name).restype = ctypes.c_void_p
    with open("/proc/self/maps") as file:  # noqa: PTH123
        spans = list(huge_spans(file))
    for place, rights in spans:
        if not _replace(libc, place, rights):
            return


def huge_spans(maps):
    """Where files are mapped that have code, can be read and cannot be written to, huge page by huge page,
    and the rights to those. `maps`: the lines of proc_pid_maps(5)."""
    files: list[list[int]] = []
    for line in maps:
        span, rights, _, _, inode, *_ = line.split()
        start, end = (int(one, 16) for one in span.split("-"))
        # Between a library's code and its data there may be what nobody can read.
        if inode == "0" or rights not in ("r--p", "r-xp"):
            continue
        right = READ | (EXECUTE if rights == "r-xp" else 0)
        if files and files[-1][1:3] == [start, int(inode)]:
            files[-1][1] = end
            files[-1][3] |= right
        else:
            files.append([start, end, int(inode), right])
    for start, end, _, right in files:
        if right & EXECUTE:
            for place in range((start + HUGE - 1) & -HUGE, end - HUGE + 1, HUGE):
                yield place, right


def _replace(libc: ctypes.PyDLL, place: int, rights: int) -> bool:
    """Whether it was."""
    address, size = ctypes.c_void_p, ctypes.c_size_t
    # Twice as much has an aligned huge page in it.
    start = libc.mmap(None, size(2 * HUGE), READ | WRITE, PRIVATE | ANONYMOUS, -1, 0)
    if start == address(-1).value:
        return False
    page = (start + HUGE - 1) & -HUGE
    libc.madvise(address(page), size(HUGE), HUGE_PAGE)
    ctypes.memmove(page, place, HUGE)
    done = (
        libc.madvise(address(page), size(HUGE), COLLAPSE) == 0
        and libc.mprotect(address(page), size(HUGE), rights) == 0
        and libc.mremap(address(page), size(HUGE), size(HUGE), MAY_MOVE | FIXED, address(place)) == place
    )
    # What has moved away is no longer ours to give back there.
    for left, right in ((start, page), (page + HUGE if done else page, start + 2 * HUGE)):
        if left < right:
            libc.munmap(address(left), size(right - left))
    return done


def fill_holes() -> None:
    """From here on, small objects get pools of their own, one beside another.

    Where an interpreter lays them out otherwise, this only takes a pool's worth of memory for each size.
    """
    for size in range(STEP, LARGEST + 1, STEP):
        before = 0
        for number in range(POOL // STEP):
            one = _object(size, number)
            _kept.append(one)
            at = id(one)
            if at % POOL == HEADER + size and at == before + size:
                break  # the second one of a new pool, behind the first
            before = at


def _object(size: int, number: int) -> object:
    """One of so many bytes."""
    if size == STEP:
        return object()
    if size == 2 * STEP:
        return float(number)
    return bytes(size - 33)
