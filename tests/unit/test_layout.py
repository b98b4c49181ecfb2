"""Where a parent of forks has its objects."""

import subprocess
import sys

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


def test_what_is_made_once_the_holes_are_filled_lies_side_by_side() -> None:
    folder = str(python_files()["mayfly_layout.py"].parent)
    # In an interpreter of its own, where nobody else makes or gives up anything.
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, folder]
    before, after = map(int, subprocess.run(command, capture_output=True, check=True).stdout.split())
    assert before > 20
    assert after <= 1
