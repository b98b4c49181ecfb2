"""How long things took, for Prometheus: counted in buckets. Its own client takes a lock for each number, and
looks at each bucket, which came to more than all else that is seen of a request."""

from bisect import bisect_left
from itertools import accumulate
from typing import Final

from prometheus_client.utils import floatToGoString

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BOUNDS: Final = [*map(floatToGoString, (*_SECONDS, float("inf")))]
Buckets = list[tuple[str, float]]


class Durations:
    """Of one thread. `total` is the seconds of all of them."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts = [0] * len(_BOUNDS)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> Buckets:
        """Each bound, and how many took no longer."""
        return list(zip(_BOUNDS, accumulate(self._counts), strict=True))
