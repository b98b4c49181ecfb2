"""A queue's rate in its steady state: so many tasks are kept waiting, and those that end are counted.

Submission goes on all the while, by the same process for every contender, so that its cost is in each rate:
a backlog that was submitted before would leave a client's part of the work out. The clock starts when tasks
are ending already, and starts and stops at the end of one, so that a slow queue is not counted too low.
"""

import time
from dataclasses import dataclass
from typing import Final, Protocol

from benchmarks.contenders.base import Unavailable

PATIENCE: Final = 60.0
"""Seconds without the end of one task after which nothing is expected any more."""
LEAD: Final = 0.5
"""Seconds from the first end to the clock's start."""
LOOK: Final = 0.03
"""Seconds between two looks at a queue that has enough: each costs a quarter of a millisecond's CPU. So late
an end may be seen, where the clock starts and where it stops alike."""
AT_A_TIME: Final = 50
"""Tasks that are submitted between two looks."""


class Queue(Protocol):
    submitted: int

    def submit(self, count: int) -> None: ...

    def done(self) -> int:
        """How many have ended: a number that grows."""
        ...


@dataclass(frozen=True)
class Flow:
    """What ended while the clock ran. `began` is on CLOCK_BOOTTIME, in seconds."""

    first: int
    """`done` when the clock started."""
    last: int
    seconds: float
    began: float

    @property
    def count(self) -> int:
        return self.last - self.first


def measure(queue: Queue, seconds: float, keep: int, *, after: int = 1) -> Flow:
    """With `keep` tasks waiting, and not before `after` have ended. Raises `Unavailable` where no task ends
    for a minute."""
    start = queue.done()
    first = _next_end(queue, keep)
    lead = time.monotonic() + LEAD
    while time.monotonic() < lead or first - start < after:
        first = _next_end(queue, keep)
    began, boot = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    last, ended = first, began
    while ended == began or time.monotonic() < began + seconds:
        last = _next_end(queue, keep)
        ended = time.monotonic()
    return Flow(first, last, ended - began, boot)


def finish(queue: Queue) -> None:
    """Waits until nothing is waiting any more. Raises `Unavailable`."""
    while _next_end(queue, keep=0) < queue.submitted:
        pass


def _next_end(queue: Queue, keep: int) -> int:
    """Keeps it fed until another task has ended, or nothing is left to end; how many then have."""
    before, patience = queue.done(), time.monotonic() + PATIENCE
    while (done := queue.done()) == before and (keep or done < queue.submitted):
        waiting = queue.submitted - done
        if time.monotonic() > patience:
            raise Unavailable(f"no task ended in {PATIENCE:g} s, and {waiting} wait")
        if waiting < keep:
            queue.submit(min(keep - waiting, AT_A_TIME))
        else:
            time.sleep(LOOK)
    return done
