"""Types of msgspec's that threads use for the first time, all at once."""

import subprocess
import sys

PROGRAM = """
import sys, threading
from typing import Annotated
import msgspec
from mayfly.typed import known

sys.setswitchinterval(1e-6)
for number in range(30):
    numbers = list[Annotated[int, msgspec.Meta(ge=0)]]
    inner = msgspec.defstruct(f"Inner{number}", [(f"f{n}", numbers, []) for n in range(20)])
    outer = msgspec.defstruct(f"Outer{number}", [(f"f{n}", inner | None, None) for n in range(20)])
    kinds = [inner, outer] * 4
    barrier = threading.Barrier(len(kinds))

    def use(kind):
        barrier.wait()
        for _ in range(5):
            msgspec.convert({"f0": None} if kind is outer else {"f0": [1]}, known(kind))

    threads = [threading.Thread(target=use, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_may_all_be_the_first_to_use_a_type() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
