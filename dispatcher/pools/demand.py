"""How many sandboxes a function that is in use keeps ready. Pure."""

from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 60
"""A function that was not used for so long keeps none."""


class Demand:
    """As many as its busiest second of the last minute took, and at most `most`.

    Times are seconds on any clock that does not go back.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Each second that may still become the busiest, with what it took: fewer from one to the next.
        self._busiest: deque[tuple[int, int]] = deque()

    def took(self, now: float) -> None:
        """A task took a sandbox."""
        second, count = int(now), 1
        if self._busiest and self._busiest[-1][0] == second:
            count += self._busiest.pop()[1]
        count = min(count, self._most)
        while self._busiest and self._busiest[-1][1] <= count:
            self._busiest.pop()
        self._busiest.append((second, count))

    def wanted(self, now: float) -> int:
        while self._busiest and self._busiest[0][0] <= now - WINDOW_SECONDS:
            self._busiest.popleft()
        return self._busiest[0][1] if self._busiest else 0
