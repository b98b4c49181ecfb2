"""How long what is read and what is appended may be gathered, so that it is handed on together. No I/O.

To hand one thing on costs about as much as to hand on many: a turn of the event loop, a request to the
broker. Where many short tasks are on their way, to wait a little for the next ones holds none of them up, for
what they wait for is the processor; where few are, or long ones, there is nothing to wait for.
"""

from collections.abc import Callable
from typing import Final

WINDOW_SECONDS: Final = 1.0
"""Over which ends are counted."""
BUSY: Final = 100.0
"""Ends in a second, from which on anything is gathered."""
SHARE_SECONDS: Final = 0.0002
"""For each task on its way, one waits so long. Each is held up four times in its life, so that however many
there are, more than a thousand of them a second can be."""
MOST_SECONDS: Final = 0.025


class Linger:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._ends = 0
        self._rate = 0.0

    def ended(self) -> None:
        """An attempt is over."""
        self._ends += 1
        now = self._clock()
        if now - self._since >= WINDOW_SECONDS:
            self._rate = self._ends / (now - self._since)
            self._since, self._ends = now, 0

    def seconds(self, running: int) -> float:
        """While so many attempts are on their way. Any thread may ask."""
        stands = self._clock() - self._since >= 2 * WINDOW_SECONDS
        return 0.0 if stands or self._rate < BUSY else min(MOST_SECONDS, SHARE_SECONDS * running)
