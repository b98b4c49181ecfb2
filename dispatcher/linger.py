"""How long what is read and what is appended may be gathered, so that it is handed on together. No I/O.

To hand one thing on costs about as much as to hand on many: a turn of the event loop, a request to the
broker. Where the processors are busy with many short tasks, to wait a little for the next ones holds none of
them up, for what they wait for is the processor. Where few are on their way, or tasks that wait for something
else, there is nothing to wait for.
"""

from collections.abc import Callable
from typing import Final

WINDOW_SECONDS: Final = 1.0
"""Over which ends, and what the processors did, are counted."""
BUSY: Final = 50.0
"""Ends in a second, from which on anything is gathered."""
IDLE: Final = 0.2
"""The share of the processors' time that nobody uses, from which on nothing is: whatever a task waits for
then, it is not them. Up to there it is ever less, so that to gather does not make them idle itself."""
SHARE: Final = 0.12
"""Of the time that an attempt takes, at most. It is held up four times in its life."""
MOST_SECONDS: Final = 0.3


class Linger:
    """`idle` is how many seconds the processors have been idle since some time in the past, all together, of
    so many `processors`; None where nobody knows, and then nothing is gathered."""

    def __init__(
        self, clock: Callable[[], float], idle: Callable[[], float | None], *, processors: int
    ) -> None:
        self._clock = clock
        self._idle = idle
        self._processors = processors
        self._since = clock()
        self._idle_before = idle()
        self._ends = 0
        self._for_each = 0.0
        """Seconds for each attempt on its way."""

    def ended(self) -> None:
        """An attempt is over."""
        self._ends += 1
        now = self._clock()
        passed = now - self._since
        if passed < WINDOW_SECONDS:
            return
        rate, self._ends, self._since = self._ends / passed, 0, now
        before, self._idle_before = self._idle_before, self._idle()
        idle = 1.0
        if before is not None and self._idle_before is not None:
            idle = (self._idle_before - before) / (passed * self._processors)
        # By Little's law each takes `running / rate`.
        self._for_each = SHARE * max(0.0, 1.0 - idle / IDLE) / rate if rate >= BUSY else 0.0

    def seconds(self, running: int) -> float:
        """While so many attempts are on their way. Any thread may ask."""
        if self._clock() - self._since >= 2 * WINDOW_SECONDS:
            return 0.0
        return min(MOST_SECONDS, self._for_each * running)
