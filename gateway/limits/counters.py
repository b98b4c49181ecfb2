"""Every caller's counters, and what of them the other gateways are told. Pure."""

from typing import Final

from gateway.limits.bucket import Bucket
from gateway.limits.daily import Daily
from gateway.limits.gauge import Gauge
from mayfly.identity.usage import Draw, Heard, Tally, Told

IDLE_SECONDS: Final = 10.0
"""After which a count of tasks says nothing any more: it is forgotten rather than gone by."""
COMPARE_SECONDS: Final = 1.0
"""A bucket that nobody takes from here is compared with the others' so often,"""
KEEP_SECONDS: Final = 300.0
"""and for so long after it was taken from."""


class Counters:
    """By name: `key:<id>`, or `tenant:<tenant>`; tasks by tenant. What is asked for is told of next."""

    def __init__(self) -> None:
        self.everybody = Gauge(0.0)
        """The tasks of all tenants."""
        self.buckets: dict[str, Bucket] = {}
        self.days: dict[str, Daily] = {}
        self.gauges: dict[str, Gauge] = {}
        self._buckets_used: set[str] = set()
        self._days_used: set[str] = set()
        self._gauges_used: set[str] = set()
        self._everybody_used = False

    def bucket(self, name: str, rate: float, now: float) -> Bucket:
        self._buckets_used.add(name)
        bucket = self.buckets.get(name)
        if bucket is None:
            bucket = self.buckets[name] = Bucket(rate, now)
        bucket.allow(rate, now)
        return bucket

    def day(self, name: str, day: int) -> Daily:
        self._days_used.add(name)
        daily = self.days.get(name)
        if daily is None:
            daily = self.days[name] = Daily(day)
        daily.turn(day)
        return daily

    def gauge(self, tenant: str, now: float) -> Gauge:
        self._gauges_used.add(tenant)
        gauge = self.gauges.get(tenant)
        if gauge is None:
            gauge = self.gauges[tenant] = Gauge(now)
        gauge.touched = now
        return gauge

    def all_tasks(self) -> Gauge:
        self._everybody_used = True
        return self.everybody

    def tell(self, now: float) -> Told:
        """What was used since the last time, and what is to be compared."""
        draws, tallies = [], []
        for name, bucket in self.buckets.items():
            if name in self._buckets_used or now - bucket.told >= COMPARE_SECONDS:
                draws.append(Draw(name, bucket.rate, bucket.size, bucket.tell(now)))
        for name in self._days_used:
            daily = self.days[name]
            tallies.append(Tally(name, daily.day, daily.tell()))
        for tenant in self._gauges_used:
            self.gauges[tenant].tell()
        if self._everybody_used:
            self.everybody.tell()
        told = Told(tuple(draws), tuple(tallies), tuple(self._gauges_used), self._everybody_used)
        self._buckets_used, self._days_used, self._gauges_used = set(), set(), set()
        self._everybody_used = False
        return told

    def hear(self, heard: Heard, told: Told, now: float) -> None:
        """The answer to what was told."""
        for draw in told.draws:
            if draw.bucket in heard.tokens:
                self.buckets[draw.bucket].hear(heard.tokens[draw.bucket], now)
        for tally in told.tallies:
            if tally.counter in heard.bytes:
                self.days[tally.counter].hear(tally.day, heard.bytes[tally.counter])
        for tenant in told.tenants:
            if tenant in heard.tasks:
                self.gauges[tenant].hear(*heard.tasks[tenant])
        if heard.waiting is not None:
            self.everybody.hear(heard.waiting, 0)

    def lose(self) -> None:
        """There was no answer: from here on this gateway counts by itself."""
        for gauge in (*self.gauges.values(), self.everybody):
            gauge.lose()

    def forget(self, now: float, day: int) -> None:
        """What says nothing any more: a bucket that is not used, a day that is over, a count that is old."""
        for name, bucket in list(self.buckets.items()):
            if now - bucket.used > KEEP_SECONDS:
                del self.buckets[name]
        for name, daily in list(self.days.items()):
            if name not in self._days_used and daily.day < day and not daily.reserved:
                del self.days[name]
        for tenant, gauge in list(self.gauges.items()):
            idle = now - gauge.touched > IDLE_SECONDS
            if tenant not in self._gauges_used and idle and not gauge.reserved:
                del self.gauges[tenant]
