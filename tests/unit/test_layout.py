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
import ctypes, hashlib, json, sys

sys.path.append(sys.argv[1])
import mayfly_layout as layout

if len(sys.argv) > 2:
    ctypes.PyDLL(None).prctl(41, 1, 0, 0, 0)


def contents():
    whole = hashlib.sha256()
    for place, _ in spans:
        whole.update(ctypes.string_at(place, layout.HUGE))
    return whole.hexdigest()


def here():
    lines = [line.split() for line in open("/proc/self/maps")]
    ends = [(*(int(end, 16) for end in line[0].split("-")), line[1], line[4]) for line in lines]
    return [
        next((rights, inode) for start, end, rights, inode in ends if start <= place < end)
        for place, _ in spans
    ], sum(inode == "0" for *_, inode in ends)


spans = list(layout._huge_spans())
before = contents()
(_, mappings), _ = here(), layout.share_code()
(now, after) = here()
same = contents() == before
print(json.dumps({"spans": now, "same": same, "more": after - mappings, "sum": sum(range(10))}))
"""


def moved(*arguments: str) -> dict[str, Any]:
    """What an interpreter found that has moved its code. Fails if it did not survive that."""
    folder = str(python_files()["mayfly_layout.py"].parent)
    command = [sys.executable, "-I", "-S", "-c", MOVE, folder, *arguments]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


@pytest.mark.parametrize("arguments", [(), ("without",)])
def test_code_that_has_moved_is_the_same_and_can_be_run_and_not_be_written_to(
    arguments: tuple[str, ...],
) -> None:
    found = moved(*arguments)
    assert found["same"]
    assert found["sum"] == 45
    assert all(rights == "r-xp" for rights, _ in found["spans"] if found["more"])
    assert not any("w" in rights for rights, _ in found["spans"])


def test_without_huge_pages_code_stays_where_it_is() -> None:
    found = moved("without")
    assert found["more"] == 0
    assert all(inode != "0" for _, inode in found["spans"])


def test_what_is_made_once_the_holes_are_filled_lies_side_by_side() -> None:
    folder = str(python_files()["mayfly_layout.py"].parent)
    # In an interpreter of its own, where nobody else makes or gives up anything.
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, folder]
    before, after = map(int, subprocess.run(command, capture_output=True, check=True).stdout.split())
    assert before > 20
    assert after <= 1
