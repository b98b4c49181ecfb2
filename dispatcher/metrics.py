"""What Prometheus is told."""

from collections.abc import Iterator
from functools import cache
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dispatcher.deliveries import Deliveries
from dispatcher.pools.pools import Pools
from dispatcher.projector import Projector
from dispatcher.scheduler import Scheduler
from mayfly.task import Lane, Outcome


class Measured(Protocol):
    scheduler: Scheduler
    projection: Projector
    pools: Pools
    deliveries: Deliveries


class Metrics:
    """Counts outcomes as they are counted by the fold; looks everything else up when it is asked."""

    def __init__(self, dispatcher: Measured) -> None:
        self._dispatcher = dispatcher
        self._registry = CollectorRegistry()
        self._registry.register(self)
        outcomes = Counter(
            "mayfly_attempts",
            "Attempts whose outcome counted",
            ["function", "status", "failure"],
            registry=self._registry,
        )
        seconds = Histogram(
            "mayfly_attempt_seconds",
            "From an attempt's input to its end",
            ["function"],
            registry=self._registry,
        )
        # To look a counter up by its labels takes longer than to count.
        self._outcomes = cache(outcomes.labels)
        self._seconds = cache(seconds.labels)
        self._webhooks = Counter(
            "mayfly_webhook_attempts",
            "Attempts to deliver a webhook: delivered, failed, or given up",
            ["outcome"],
            registry=self._registry,
        )

    def webhook(self, outcome: str) -> None:
        self._webhooks.labels(outcome).inc()

    def outcome(self, function: str, outcome: Outcome) -> None:
        failure = outcome.failure.type.value if outcome.failure else ""
        self._outcomes(function, outcome.status.value, failure).inc()
        self._seconds(function).observe((outcome.finished_at - outcome.started_at) / 1000)

    def collect(self) -> Iterator[Metric]:
        """Part of prometheus_client's collector protocol."""
        scheduler = self._dispatcher.scheduler
        yield GaugeMetricFamily("mayfly_slots", "Tasks that may run at once", scheduler.slots)
        yield GaugeMetricFamily("mayfly_running", "Tasks that run", len(scheduler.running))
        yield GaugeMetricFamily("mayfly_partitions", "Partitions owned", len(scheduler.partitions))
        parked = sum(len(partition.parked) for partition in scheduler.partitions.values())
        yield GaugeMetricFamily("mayfly_parked", "Commands that wait for another's claim", parked)
        waiting = self._dispatcher.projection.waiting
        yield GaugeMetricFamily("mayfly_projection_waiting", "Changes not yet in Redis", waiting)
        webhooks = len(self._dispatcher.deliveries)
        yield GaugeMetricFamily("mayfly_webhooks_waiting", "Webhooks not yet delivered", webhooks)
        buffered = GaugeMetricFamily("mayfly_buffered", "Commands read and not taken up", labels=["lane"])
        for lane in Lane:
            count = sum(len(partition.buffers[lane]) for partition in scheduler.partitions.values())
            buffered.add_metric([lane.value], count)
        yield buffered
        yield from self._pools(self._dispatcher.pools)

    def _pools(self, pools: Pools) -> Iterator[Metric]:
        armed = GaugeMetricFamily(
            "mayfly_pool_armed", "Sandboxes that wait for a task, ready to run it", labels=["function"]
        )
        for name, count in pools.armed.items():
            armed.add_metric([name], count)
        yield armed
        told = "What is kept ready, as it counts against MAYFLY_POOL_MEMORY_MIB"
        yield GaugeMetricFamily("mayfly_pool_memory_mib", told, pools.kept_mib)
        taken = CounterMetricFamily(
            "mayfly_sandboxes",
            "Sandboxes that tasks took: armed, starting, or made",
            labels=["function", "was"],
        )
        for (name, how), count in pools.taken.items():
            taken.add_metric([name, how.value], count)
        yield taken
        evicted = CounterMetricFamily(
            "mayfly_pool_evictions", "Sandboxes that made room for another function's", labels=["function"]
        )
        for name, count in pools.evicted.items():
            evicted.add_metric([name], count)
        yield evicted

    def render(self) -> bytes:
        return generate_latest(self._registry)
