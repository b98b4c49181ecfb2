"""Where objects lie in memory: what each child touches is to be on few pages, for it gets copies of those.

CPython (3.10 and later) has small objects in pools of one size each, and gives a new one the place that was
left free last: among what the interpreter made when it started, most of which no child ever touches.
"""

# What a parent needs of the standard library, so that this lies before the holes are filled.
import ctypes  # noqa: F401
import gc  # noqa: F401
import resource  # noqa: F401

POOL = 16 * 1024
HEADER = 48
STEP, LARGEST = 16, 512
"""Bytes: of a pool, of its header, and the sizes of what is in one."""

_kept: list[object] = []


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
