"""How long a task is kept after its end. From then on its id is free, where a client may choose it. Pure."""

import math
from typing import Final, NamedTuple

DAY_MS: Final = 86_400_000
SLACK_MS: Final = 600_000
"""How far the clock of whoever sweeps may be ahead of the broker's, whose time a record has."""


class Retention(NamedTuple):
    """Days that a task is kept after its end before it is swept, and a dead letter; 0 is for ever."""

    days: float = 0.0
    dead_letter_days: float = 0.0

    @property
    def shortest(self) -> float:
        """Milliseconds before which nothing is swept; infinite where nothing ever is."""
        return min((days for days in self if days > 0), default=math.inf) * DAY_MS

    def is_over(self, ended: int, now: float, *, failed: bool, letter: bool) -> bool:
        """Whether a task may have been swept that ended then; times are milliseconds since 1970.

        One that failed and has no dead letter was purged, or driven again, or has been swept itself.
        """
        if failed and not letter:
            return now - ended > self.shortest
        days = self.dead_letter_days if letter else self.days
        return days > 0 and now - ended > days * DAY_MS

    def is_anew(self, at: int, ended: int) -> bool:
        """Whether what was appended at `at`, of a task that ended at `ended`, is of a second one with its id:
        it came when the first may have been swept. All that is late of the first comes long before."""
        return at - ended > self.shortest - min(SLACK_MS, self.shortest / 2)


FOR_EVER: Final = Retention()
