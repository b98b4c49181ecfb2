"""How a caller stands with a limit, and the headers that say so. Pure.

The headers are those of draft-ietf-httpapi-ratelimit-headers-06 (December 2022), the last version with a
field for each number: from -07 on there is one structured field `RateLimit`, and no version is an RFC yet.
"""

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

REQUESTS: Final = "requestsPerSecond"
WAITING: Final = "waitingTasks"
RUNNING: Final = "runningTasks"
BYTES: Final = "payloadBytesPerDay"
Headers = list[tuple[bytes, bytes]]


class Standing(NamedTuple):
    """`limit` units of what the name says, `remaining` of which are left, and in `reset` seconds all of
    them will be, or, of tasks, it will be known anew."""

    name: str
    limit: int
    remaining: int
    reset: float

    @property
    def share(self) -> float:
        """What is left, of 1."""
        return self.remaining / self.limit if self.limit else 0.0


def tightest(standings: Iterable[Standing]) -> Standing | None:
    """The one that will be met first."""
    return min(standings, key=lambda one: one.share, default=None)


def headers(standing: Standing) -> Headers:
    return [
        (b"ratelimit-limit", b"%d" % standing.limit),
        (b"ratelimit-remaining", b"%d" % max(0, standing.remaining)),
        (b"ratelimit-reset", b"%d" % whole_seconds(standing.reset)),
    ]


def whole_seconds(seconds: float) -> int:
    """As a header has them: never too few."""
    return max(0, math.ceil(seconds - 1e-6))
