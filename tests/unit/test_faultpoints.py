"""A point that is not armed does nothing; one that is there not is refused."""

import subprocess
import sys

import pytest

from mayfly.errors import SettingsError
from mayfly.faultpoints import FaultPoint, arm, reached

DIES = """\
from mayfly.faultpoints import FaultPoint, arm, reached
arm("ran:2")
reached(FaultPoint.STORED)
reached(FaultPoint.RAN)
print("once", flush=True)
reached(FaultPoint.RAN)
print("twice", flush=True)
"""


def test_nothing_happens_where_nothing_is_armed() -> None:
    arm(None)
    for point in FaultPoint:
        reached(point)


@pytest.mark.parametrize("text", ["nowhere", "ran:soon", ""])
def test_what_is_no_point_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(SettingsError, match="there are before-append"):
        arm(text)


def test_the_process_kills_itself_the_time_that_was_said() -> None:
    ran = subprocess.run([sys.executable, "-c", DIES], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (-9, "once\n")
