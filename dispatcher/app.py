"""The dispatcher's composition root: builds the parts, starts them in order, stops them in the reverse."""

import asyncio
import os
import signal
import socket
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog
import uvicorn

from dispatcher import http
from dispatcher.consumer import LogConsumer
from dispatcher.executor import Executor
from dispatcher.liveness import Liveness
from dispatcher.metrics import Metrics
from dispatcher.partition import Partition
from dispatcher.projector import Projector
from dispatcher.runtimes.docker import DockerRuntime
from dispatcher.scheduler import Scheduler
from mayfly.adapters.kafka import Catalog, Log, client_config, ensure_topics, events_topic, lane_topic
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.errors import MayflyError, ReadModelUnavailable
from mayfly.settings import Settings, operator_secrets
from mayfly.task import Lane, Outcome

log = structlog.get_logger(__name__)


class EventsTopic:
    """The queue's lifecycle log, to write to."""

    def __init__(self, producer: Log, queue: str) -> None:
        self._producer = producer
        self._topic = events_topic(queue)

    async def append_event(self, partition: int, task_id: str, value: bytes) -> None:
        await self._producer.append(self._topic, value, key=task_id, partition=partition)


class Dispatcher:
    """One dispatcher process. `run` it; it ends when it is told to stop, or raises what stopped it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # An id lives as long as its process: a new one holds nothing that an old one claimed.
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._started_at = datetime.now(UTC)
        self._address = ""
        self._stop = asyncio.Event()
        self._log = Log(settings)
        self._blobs = Blobs(settings)
        self._catalog = Catalog(settings)
        self._read_model = ReadModel(settings)
        self._runtime = DockerRuntime(settings, self.id)
        self.metrics = Metrics(self)
        self.projection = Projector(
            self._read_model,
            queue=settings.queue,
            on_mismatch=self._on_mismatch,
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
        executor = Executor(
            self.id,
            settings,
            events=EventsTopic(self._log, settings.queue),
            blobs=self._blobs,
            catalog=self._catalog,
            runtime=self._runtime,
            secrets=operator_secrets(),
            progress=self.projection,
            held=self._liveness,
            on_outcome=self._on_outcome,
        )
        self.scheduler = Scheduler(
            settings.slots,
            executor=executor,
            liveness=self._liveness,
            projector=self.projection,
            interval=settings.heartbeat_seconds,
        )
        self._consumer = LogConsumer(
            client_config(settings),
            queue=settings.queue,
            lane_topics={lane: lane_topic(settings.queue, lane) for lane in Lane},
            events_topic=events_topic(settings.queue),
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
            ]
            self._consumer.start()
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

    async def _until_stopped(self, background: list[asyncio.Task[Any]]) -> None:
        """Wait for a signal; raise what ended a part that should not end."""
        stopping = asyncio.create_task(self._stop.wait())
        while not stopping.done():
            await asyncio.wait({stopping, *background}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            for task in background:
                if task.done() and not stopping.done():
                    task.result()
                    raise MayflyError(f"the {task.get_name()} ended by itself")
            if self._consumer.failure:
                raise MayflyError(
                    f"the consumer failed: {self._consumer.failure}"
                ) from self._consumer.failure

    async def _close(self, server: uvicorn.Server, background: list[asyncio.Task[Any]]) -> None:
        log.info("stopping", running=len(self.scheduler.running))
        # Attempts first: they need the consumer to see their outcomes counted, and the rest of it all.
        await self.scheduler.stop(self._settings.grace_seconds)
        with suppress(ReadModelUnavailable):
            await self.projection.flush()
        await self._consumer.close()
        server.should_exit = True
        for task in background[1:]:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        with suppress(ReadModelUnavailable):
            await self._read_model.leave(self.id)
        await self._log.close()
        await self._catalog.close()
        await self._read_model.close()
        await self._runtime.close()
        log.info("stopped")

    # --- Owner: what the consumer tells, on the event loop

    async def projected(self) -> dict[int, str]:
        return await self._read_model.checkpoints(self._settings.queue)

    def assigned(self, partition: Partition, projected: str) -> None:
        self.projection.assigned(partition, projected)
        self.scheduler.partitions[partition.number] = partition
        self.scheduler.wake()

    def revoked(self, partition: Partition) -> None:
        self.projection.revoked(partition.number)
        self.scheduler.partitions.pop(partition.number, None)

    def progressed(self) -> None:
        self.scheduler.wake()

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

    def _on_mismatch(self, partition: int) -> None:
        log.warning("the read model is older than it was: writing it again", partition=partition)
        self._consumer.reset(partition)

    def _on_outcome(self, function: str, outcome: Outcome) -> None:
        # Anybody may name a function that there is none of: those share one label.
        self.metrics.outcome(function if self._catalog.get(function) else "", outcome)


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def serve(settings: Settings) -> None:
    """Run a dispatcher until SIGTERM or SIGINT. Raises `MayflyError`."""
    # Its clients belong to the loop that runs it, so it is made on it.
    await Dispatcher(settings).run()
