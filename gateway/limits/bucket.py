"""Token buckets: so many requests a second on average, and a few seconds' worth at once. Pure.

Each gateway has a copy of a caller's bucket, and takes from it without asking. A few times a second it tells
the shared bucket in Redis what it took and goes on with what is left there. Between two such exchanges
gateways may together take more than there is: the shared bucket is then below zero, and nobody has a token
until it is filled again. So the average holds however many gateways there are, and a burst is at most one
bucket for each of them. For that, a gateway goes on looking at a bucket that it does not take from: a copy
that nobody compares fills up by itself.
"""

from typing import Final

BURST_SECONDS: Final = 5.0
"""How many seconds' worth a bucket holds."""
_ALMOST: Final = 1 - 1e-9
"""A token, but for what adding fractions loses."""


def size_of(rate: float) -> float:
    """Tokens that a bucket holds: never less than the one that a request takes."""
    return max(1.0, rate * BURST_SECONDS)


def filled(tokens: float, seconds: float, rate: float, size: float) -> float:
    """What `tokens` have become after so long."""
    return min(size, tokens + max(0.0, seconds) * rate)


class Bucket:
    """One gateway's copy. Times are seconds on any clock that only goes forward."""

    __slots__ = ("_at", "rate", "size", "spent", "tokens", "told", "used")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.size = self.tokens = size_of(rate)
        self.spent = 0.0
        """What was taken and not told of yet."""
        self.used = self.told = now
        """When it was taken from last, or asked to be; and when it was told of."""
        self._at = now

    def allow(self, rate: float, now: float) -> None:
        """From now on it is filled at that rate; what is in it stays, as far as it fits."""
        if rate != self.rate:
            self._fill(now)
            self.rate, self.size = rate, size_of(rate)
            self.tokens = min(self.tokens, self.size)

    def take(self, now: float) -> float:
        """Take one: 0. Or nothing is taken, and there is one after so many seconds."""
        self._fill(now)
        self.used = now
        if self.tokens >= _ALMOST:
            self.tokens -= 1
            self.spent += 1
            return 0.0
        return (1 - self.tokens) / self.rate

    def tell(self, now: float) -> float:
        """What was taken since the last time, which whoever asks now tells the others."""
        spent, self.spent = self.spent, 0.0
        self.told = now
        return spent

    def hear(self, tokens: float, now: float) -> None:
        """What was left of the shared one when it was told; what was taken here since is not in it."""
        self.tokens = min(self.size, tokens) - self.spent
        self._at = now

    def seconds_to_full(self, now: float) -> float:
        self._fill(now)
        return (self.size - self.tokens) / self.rate

    def _fill(self, now: float) -> None:
        self.tokens = filled(self.tokens, now - self._at, self.rate, self.size)
        self._at = max(self._at, now)
