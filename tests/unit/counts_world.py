"""What Redis does for limits, in memory and on a clock of the test's own."""

from collections import defaultdict
from dataclasses import dataclass, field

from gateway.limits.bucket import filled
from mayfly.errors import ReadModelUnavailable
from mayfly.identity.usage import Count, Heard, Told


@dataclass
class Shared:
    """What there is once for all gateways."""

    now: float = 0.0
    down: str = ""
    tokens: dict[str, tuple[float, float]] = field(default_factory=dict)
    bytes: dict[tuple[str, int], dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    tasks: dict[str, Count] = field(default_factory=dict)

    def flush(self) -> None:
        self.tokens.clear()
        self.bytes.clear()

    def exchange(self, gateway: int, told: Told) -> Heard:
        tokens = {}
        for bucket, rate, size, spent in told.draws:
            left, at = self.tokens.get(bucket, (size, self.now))
            tokens[bucket] = filled(left, self.now - at, rate, size) - spent
            self.tokens[bucket] = tokens[bucket], self.now
        sums = {}
        for counter, day, own in told.tallies:
            self.bytes[counter, day][gateway] = own
            sums[counter] = sum(self.bytes[counter, day].values())
        counts = {tenant: self.tasks.get(tenant, Count(0, 0)) for tenant in told.tenants}
        waiting = sum(count.waiting for count in self.tasks.values())
        return Heard(tokens, sums, counts, waiting if told.everybody else None)


@dataclass
class Counts:
    """One gateway's view of it."""

    shared: Shared
    gateway: int = 0
    exchanges: int = 0

    async def exchange(self, told: Told) -> Heard:
        self.exchanges += 1
        if self.shared.down:
            raise ReadModelUnavailable(self.shared.down)
        return self.shared.exchange(self.gateway, told)
