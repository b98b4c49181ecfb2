"""What gateways tell one another, through Redis, of what callers have used. Pure: the words only."""

from collections.abc import Mapping
from typing import NamedTuple


class Draw(NamedTuple):
    """Tokens that were taken from a bucket here since it was told of last. It holds `size` of them, and
    `rate` come a second."""

    bucket: str
    rate: float
    size: float
    spent: float


class Tally(NamedTuple):
    """Bytes that came through one gateway on a day (days since 1970, UTC): all of them, so that to tell it
    twice does no harm."""

    counter: str
    day: int
    own: int


class Told(NamedTuple):
    """What one gateway tells, and whose tasks it asks for: of tenants, and of `everybody` together."""

    draws: tuple[Draw, ...] = ()
    tallies: tuple[Tally, ...] = ()
    tenants: tuple[str, ...] = ()
    everybody: bool = False

    def __bool__(self) -> bool:
        return bool(self.draws or self.tallies or self.tenants or self.everybody)


class Count(NamedTuple):
    """Tasks of a tenant: QUEUED, SCHEDULED or RETRYING, and IN_PROGRESS."""

    waiting: int
    running: int


class Heard(NamedTuple):
    """The answer: what is left in each bucket, which may be less than nothing; the bytes of each counter's
    day, of all gateways; tasks by tenant; those of everybody that wait, if they were asked for."""

    tokens: Mapping[str, float]
    bytes: Mapping[str, int]
    tasks: Mapping[str, Count]
    waiting: int | None = None
