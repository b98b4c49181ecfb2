"""Bytes of a day, UTC, over all gateways. Pure.

Each gateway has its own sum, which only it writes, and the day's is the sum of those (a G-counter). So to
tell a sum twice, late, or again after Redis lost it, comes to the same.
"""

from typing import Final

DAY_SECONDS: Final = 86_400


def day_of(now: float) -> int:
    """Days since 1970, of a time in seconds since then."""
    return int(now // DAY_SECONDS)


def seconds_left(now: float) -> float:
    """Until the day's end."""
    return DAY_SECONDS - now % DAY_SECONDS


class Daily:
    """One gateway's view of a caller's day."""

    __slots__ = ("_told", "day", "others", "own", "reserved")

    def __init__(self, day: int) -> None:
        self.day = day
        self.own = 0
        """Bytes that came here."""
        self.others = 0
        """Bytes that came to the others, as far as they were heard of."""
        self.reserved = 0
        """Bytes that were announced here, and are on their way."""
        self._told = 0

    @property
    def total(self) -> int:
        return self.own + self.others + self.reserved

    def turn(self, day: int) -> None:
        """A new day begins with nothing but what is on its way."""
        if day > self.day:
            self.day, self.own, self.others, self._told = day, 0, 0, 0

    def tell(self) -> int:
        self._told = self.own
        return self.own

    def hear(self, day: int, total: int) -> None:
        """The day's sum, in which what was told is contained. What was heard before stays known: Redis may
        have lost it, until the others tell it again."""
        if day == self.day:
            self.others = max(self.others, total - self._told)
