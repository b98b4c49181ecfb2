"""The dispatcher's composition root: builds the parts, starts them in order, stops them in the reverse."""

import asyncio
import os
import signal
import socket
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import structlog
import uvicorn

from dispatcher import http
from dispatcher.chores import Chores
from dispatcher.claims import Claims
from dispatcher.consumer import LogConsumer
from dispatcher.courier import Courier
from dispatcher.deliveries import Deliveries
from dispatcher.errands import ErrandRunner
from dispatcher.executor import Executor
from dispatcher.housekeeping import Housekeeping
from dispatcher.linger import Linger
from dispatcher.liveness import Liveness
from dispatcher.metrics import Metrics
from dispatcher.offsets import Checkpoint
from dispatcher.partition import Partition
from dispatcher.pools.forks import Forks, at_once
from dispatcher.pools.pools import Pools
from dispatcher.pools.single_use import SingleUse
from dispatcher.pools.turns import Turns
from dispatcher.processors import idle_seconds
from dispatcher.projector import Projector
from dispatcher.rebuild import Rebuild
from dispatcher.repeats import Repeats
from dispatcher.runtimes.choice import runtime_of
from dispatcher.runtimes.chosen import ChosenRuntime
from dispatcher.runtimes.ecs import EcsRuntime
from dispatcher.scheduler import Scheduler
from dispatcher.secrets import Secrets
from dispatcher.webhook_secrets import WebhookSecrets
from dispatcher.world import World
from mayfly import collector
from mayfly.adapters.kafka import (
    DEAD_LETTER_TOPIC,
    Log,
    client_config,
    deferred_topic,
    ensure_topics,
    events_topic,
    lane_topic,
    replay,
    webhooks_topic,
)
from mayfly.adapters.kafka_catalog import Catalog
from mayfly.adapters.kafka_control import ControlReader
from mayfly.adapters.kafka_shared import SharedTable
from mayfly.adapters.kms import vault_of
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.errors import MayflyError, ReadModelUnavailable
from mayfly.placement import Limit, limit_of
from mayfly.retention import Retention
from mayfly.settings import Settings, operator_secrets
from mayfly.task import Envelope, Lane, Outcome
from mayfly.webhooks.callback import Policy

log = structlog.get_logger(__name__)

HAND_OVER_SECONDS: Final = 5.0
"""How long whoever stops keeps its partitions for the sake of what it runs: nothing else starts in them."""


class Topics:
    """The queue's topics, to write to. Each method raises `LogUnavailable`."""

    def __init__(self, producer: Log, queue: str) -> None:
        self._producer = producer
        self._lanes = {lane: lane_topic(queue, lane) for lane in Lane}
        self._events = events_topic(queue)
        self._deferred = deferred_topic(queue)
        self._webhooks = webhooks_topic(queue)

    async def append_event(self, partition: int, task_id: str, value: bytes) -> None:
        await self._producer.append(self._events, value, key=task_id, partition=partition)

    async def append_command(self, partition: int, lane: Lane, task_id: str, value: bytes) -> None:
        await self._producer.append(self._lanes[lane], value, key=task_id, partition=partition)

    async def append_record(self, partition: int, key: str, value: bytes | None) -> None:
        await self._producer.append(self._deferred, value, key=key, partition=partition)

    async def append_dead_letter(self, task_id: str, value: bytes | None) -> None:
        await self._producer.append(DEAD_LETTER_TOPIC, value, key=task_id)

    async def append_notice(self, task_id: str, value: bytes | None) -> None:
        await self._producer.append(self._webhooks, value, key=task_id)


class Dispatcher:
    """One dispatcher process. `run` it; it ends when it is told to stop, or raises what stopped it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # An id lives as long as its process: a new one holds nothing that an old one claimed.
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._started_at = datetime.now(UTC)
        self._address = ""
        self._stop = asyncio.Event()
        self._linger = Linger(time.monotonic, idle_seconds, processors=os.cpu_count() or 1)
        self._log = Log(settings, linger=self.linger)
        self._blobs = Blobs(settings)
        self._catalog = Catalog(settings)
        vault = vault_of(settings)
        self._control = ControlReader(settings)
        self._read_model = ReadModel(settings)
        # Of those that a function can name: what was not set up here refuses its tasks.
        named = {"ecs": EcsRuntime(settings, self._blobs)} if settings.ecs_cluster else {}
        self._runtime = ChosenRuntime(runtime_of(settings, self.id), named)
        self.metrics = Metrics(self)
        queue = settings.queue
        lane_topics = {lane: lane_topic(queue, lane) for lane in Lane}
        self._rebuild = Rebuild(
            lambda places: replay(settings, places),
            self._read_model,
            queue=queue,
            lane_topics=lane_topics,
            events_topic=events_topic(queue),
            dead_letter_topic=DEAD_LETTER_TOPIC,
            retention=Retention(settings.retention_days, settings.dead_letter_retention_days),
        )
        self.projection = Projector(
            self._read_model,
            queue=queue,
            rebuild=lambda partition: self._rebuild.partition(partition.number),
            clock=time.monotonic,
        )
        self._liveness = Liveness(
            self.id,
            self._read_model,
            describe=self._describe,
            interval=settings.heartbeat_seconds,
            life=settings.heartbeat_life_seconds,
            clock=time.monotonic,
        )
        topics = Topics(self._log, queue)
        claims = Claims(self.id, topics, self._liveness)
        repeats = Repeats(self._read_model, self.projection)
        self._errands = ErrandRunner(topics)
        self.pools = Pools(
            self._runtime,
            {
                "container": SingleUse,
                "fork": partial(Forks, at_once=at_once(settings.slots)),
                "warm": Turns,
            },
            self._catalog,
            queue=queue,
            most=settings.slots,
            memory_mib=settings.pool_memory_mib,
            clock=time.monotonic,
        )
        self._executor = Executor(
            settings,
            claims=claims,
            repeats=repeats,
            blobs=self._blobs,
            catalog=self._catalog,
            runtime=self._runtime,
            pools=self.pools,
            secrets=Secrets(operator_secrets(), self._control, vault),
            watchers=self.projection,
            on_outcome=self._on_outcome,
        )
        self.scheduler = Scheduler(
            settings.slots,
            executor=self._executor,
            chores=Chores(claims, repeats),
            liveness=self._liveness,
            interval=settings.heartbeat_seconds,
        )
        self._housekeeping = Housekeeping(
            self._read_model,
            self._blobs,
            topics,
            days=settings.retention_days,
            dead_letter_days=settings.dead_letter_retention_days,
            upload_hours=settings.upload_hours,
        )
        self.world = World(
            queue=queue,
            projection=self.projection,
            errands=self._errands,
            limit_of=self._limit_of,
            limits_revision=lambda: self._catalog.revision,
            share=lambda limit, partition: limit.share(partition, settings.partitions),
            now=_now,
            on_cancel=self._executor.cancel,
            callback_of=self._callback_of,
        )
        self._courier = Courier(Policy.of(settings), now=time.time)
        self.deliveries = Deliveries(
            self._courier,
            topics,
            secrets=WebhookSecrets(self._control.book, vault, now=_now).of,
            now=_now,
            told=self.metrics.webhook,
        )
        self._webhooks = SharedTable(settings, webhooks_topic(queue), self.deliveries)
        self._consumer = LogConsumer(
            client_config(settings),
            queue=queue,
            lane_topics=lane_topics,
            events_topic=events_topic(queue),
            deferred_topic=deferred_topic(queue),
            owner=self,
            clock=time.monotonic,
        )

    async def run(self) -> None:
        """Raises `MayflyError` when a part cannot be had, or fails for good."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        background: list[asyncio.Task[Any]] = []
        server = http.server(self)
        try:
            listener = http.listen(self._settings)
            self._address = http.address(listener)
            await self._start_parts()
            # Seen before it claims anything.
            await self._liveness.refresh()
            background += [
                asyncio.create_task(server.serve([listener]), name="http"),
                asyncio.create_task(self._liveness.run(), name="liveness"),
                asyncio.create_task(self.projection.run(), name="projector"),
                asyncio.create_task(self.scheduler.run(), name="scheduler"),
                asyncio.create_task(self.pools.run(), name="pools"),
                asyncio.create_task(self._hear_cancels(), name="cancels"),
                asyncio.create_task(self._housekeeping.run(), name="housekeeping"),
                asyncio.create_task(self.deliveries.run(), name="webhooks"),
            ]
            self._consumer.start()
            self._webhooks.start()
            http.announce(self._address, self._settings.address_file)
            log.info("serving", dispatcher=self.id, queue=self._settings.queue, address=self._address)
            await self._until_stopped(background)
        finally:
            await self._close(server, background)

    async def _start_parts(self) -> None:
        await self._runtime.start()
        # Before anything is consumed: what a dead dispatcher of this host left still runs its tasks.
        if removed := await self._runtime.remove_orphans():
            log.info("orphan sandboxes removed", count=removed)
        await ensure_topics(self._settings)
        await self._log.start()
        await self._catalog.start()
        await self._control.start()

    async def _until_stopped(self, background: list[asyncio.Task[Any]]) -> None:
        """Wait for a signal; raise what ended a part that should not end."""
        stopping = asyncio.create_task(self._stop.wait())
        while not stopping.done():
            await asyncio.wait({stopping, *background}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            for task in background:
                if task.done() and not stopping.done():
                    task.result()
                    raise MayflyError(f"the {task.get_name()} ended by itself")
            if failure := self._consumer.failure or self._webhooks.failure:
                raise MayflyError(f"the consumer failed: {failure}") from failure

    async def _close(self, server: uvicorn.Server, background: list[asyncio.Task[Any]]) -> None:
        log.info("stopping", running=len(self.scheduler.running))
        # Attempts first: they need the consumer to see their outcomes counted, and the rest of it all.
        grace = self._settings.grace_seconds
        if await self.scheduler.drain(min(grace, HAND_OVER_SECONDS)):
            # What takes longer goes on, and others have the partitions meanwhile: they count what comes of
            # it, and take nothing over that our heartbeat names.
            await self._hand_over()
            await self.scheduler.stop(max(0.0, grace - HAND_OVER_SECONDS))
        await self.pools.close()
        await self._hand_over()
        await self._errands.close()
        # The partitions last: what was sent by the end is to be taken away.
        await self.deliveries.close()
        await self._webhooks.close()
        self._courier.close()
        server.should_exit = True
        for task in background[1:]:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        with suppress(ReadModelUnavailable):
            await self._read_model.leave(self.id)
        await self._log.close()
        await self._catalog.close()
        await self._control.close()
        await self._read_model.close()
        await self._runtime.close()
        log.info("stopped")

    async def _hand_over(self) -> None:
        """Commit what there is, and leave the partitions to others. A second time it does nothing."""
        with suppress(ReadModelUnavailable):
            await self.projection.settle()
        await self._consumer.close()

    # --- Owner: what the consumer tells, on the event loop

    async def marks(self) -> dict[int, str]:
        return await self._read_model.marks(self._settings.queue)

    def checkpoint(self, partition: Partition) -> Checkpoint | None:
        return self.projection.checkpoint(partition)

    def assigned(self, partition: Partition, mark: str) -> None:
        self.projection.assigned(partition, mark)
        self.scheduler.partitions[partition.number] = partition
        self.scheduler.wake()

    def revoked(self, partition: Partition) -> None:
        self.projection.revoked(partition.number)
        self.scheduler.partitions.pop(partition.number, None)

    def progressed(self) -> None:
        self.scheduler.wake()

    def linger(self) -> float:
        return self._linger.seconds(len(self.scheduler.running))

    # --- what others ask

    @property
    def unhealthy(self) -> str | None:
        """Why this dispatcher does no work, or None."""
        return f"the consumer failed: {self._consumer.failure}" if self._consumer.failure else None

    def _describe(self) -> dict[str, Any]:
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "address": self._address,
            "queue": self._settings.queue,
            "slots": self.scheduler.slots,
            "running": len(self.scheduler.running),
            "startedAt": _rfc3339(self._started_at),
            "at": _rfc3339(datetime.now(UTC)),
        }

    def _limit_of(self, envelope: Envelope) -> Limit | None:
        function = self._catalog.get(envelope.task_type)
        concurrency = function.concurrency if function else None
        return limit_of(envelope.task_type, concurrency, envelope.concurrency_key, envelope.tenant)

    def _callback_of(self, envelope: Envelope) -> str | None:
        if envelope.callback_url is not None:
            return envelope.callback_url
        function = self._catalog.get(envelope.task_type)
        return function.callback_url if function else None

    async def _hear_cancels(self) -> None:
        """A task may run here although its partition is another's by now: then no event of it is read."""
        while True:
            with suppress(ReadModelUnavailable):
                async for task_id in self._read_model.cancels():
                    self._executor.cancel(task_id)
            await asyncio.sleep(1)

    def _on_outcome(self, function: str, outcome: Outcome) -> None:
        self._linger.ended()
        # Anybody may name a function that there is none of: those share one label.
        self.metrics.outcome(function if self._catalog.get(function) else "", outcome)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def serve(settings: Settings) -> None:
    """Run a dispatcher until SIGTERM or SIGINT. Raises `MayflyError`."""
    # Its clients belong to the loop that runs it, so it is made on it.
    dispatcher = Dispatcher(settings)
    collector.spare()
    await dispatcher.run()
