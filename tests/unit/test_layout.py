"""Where a parent of forks has its code and its objects."""

import json
import subprocess
import sys
from typing import Any

import pytest

from mayfly.base_image import python_files

SCRIPT = """
import sys

sys.path.append(sys.argv[1])
import mayfly_layout as layout

POOL = layout.POOL
SIZES = range(64, 513, 16)


def scattered():
    spans = {}
    for size in SIZES:
        made = [bytes(size - 33) for _ in range(POOL // size * 9 // 10)]
        spans[size] = max(map(id, made)) - min(map(id, made))
    return [size for size, span in spans.items() if span > POOL]


# As an interpreter that has been at work has it: every other one of these is gone.
holes = [bytes(size - 33) for size in SIZES for _ in range(8 * POOL // size)]
del holes[::2]
print(len(scattered()))
layout.fill_holes()
print(len(scattered()))
"""

# With an argument, as on a machine that has no huge pages.
MOVE = """
import ctypes, hashlib, json, mmap, sys

sys.path.append(sys.argv[1])
import mayfly_layout as layout

libc, size = ctypes.PyDLL(None), ctypes.c_size_t
if len(sys.argv) > 2:
    libc.prctl(41, 1, 0, 0, 0)
area = mmap.mmap(-1, 2 * layout.HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(area))
ctypes.memset(start, 1, len(area))
page = (start + layout.HUGE - 1) & -layout.HUGE
can = libc.madvise(ctypes.c_void_p(page), size(layout.HUGE), layout.COLLAPSE) == 0
spans = list(layout.huge_spans(open("/proc/self/maps")))


def contents():
    whole = hashlib.sha256()
    for place, _ in spans:
        whole.update(ctypes.string_at(place, layout.HUGE))
    return whole.hexdigest()


def here():
    for line in open("/proc/self/maps"):
        span, rights, _, _, inode, *_ = line.split()
        start, end = (int(one, 16) for one in span.split("-"))
        yield from ((rights, inode) for place, _ in spans if start <= place < end)


before = contents()
layout.share_code()
found = {"can": can, "spans": list(here()), "same": contents() == before, "sum": sum(range(10))}
print(json.dumps(found))
"""
# A library of which the linker has kept data and code apart, by what nobody can read.
MAPS = """\
7f0000000000-7f0000100000 r--p 00000000 fe:00 7 /lib/a.so
7f0000100000-7f0000500000 r-xp 00100000 fe:00 7 /lib/a.so
7f0000500000-7f0000700000 ---p 00500000 fe:00 7 /lib/a.so
7f0000700000-7f0000a00000 r--p 00500000 fe:00 7 /lib/a.so
7f0000a00000-7f0000b00000 rw-p 00800000 fe:00 7 /lib/a.so
7f0001000000-7f0001400000 r--p 00000000 fe:00 8 /lib/locale
7f0002000000-7f0002400000 r-xs 00000000 fe:00 9 /lib/shared
7f0003000000-7f0003400000 r-xp 00000000 00:00 0
"""
SPANS = """
import json, sys

sys.path.append(sys.argv[1])
import mayfly_layout as layout

print(json.dumps([hex(place) for place, _ in layout.huge_spans(sys.argv[2].splitlines())]))
"""


def found_by(script: str, *arguments: str) -> Any:
    """Fails if the interpreter did not survive that."""
    folder = str(python_files()["mayfly_layout.py"].parent)
    command = [sys.executable, "-I", "-S", "-c", script, folder, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def test_code_that_has_moved_is_the_same_and_can_be_run_and_not_be_written_to() -> None:
    found = found_by(MOVE)
    if not found["can"] or not found["spans"]:
        pytest.skip("there are no huge pages here, or the interpreter's code does not fill one")
    assert found["spans"] == [["r-xp", "0"]] * len(found["spans"])
    assert found["same"]
    assert found["sum"] == 45


def test_without_huge_pages_code_stays_where_it_is() -> None:
    found = found_by(MOVE, "without")
    assert not found["can"]
    assert all(inode != "0" and "w" not in rights for rights, inode in found["spans"])
    assert found["same"]


def test_only_code_that_can_be_read_is_moved() -> None:
    assert found_by(SPANS, MAPS) == ["0x7f0000000000", "0x7f0000200000"]


def test_what_is_made_once_the_holes_are_filled_lies_side_by_side() -> None:
    folder = str(python_files()["mayfly_layout.py"].parent)
    # In an interpreter of its own, where nobody else makes or gives up anything.
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, folder]
    before, after = map(int, subprocess.run(command, capture_output=True, check=True).stdout.split())
    assert before > 20
    assert after <= 1
