"""What the partitions have appended: records and their tombstones, releases, dead letters, notices."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from dispatcher.claims import backoff
from dispatcher.records import key_of
from dispatcher.world import Asking
from mayfly.errors import LogUnavailable
from mayfly.events import DeadLetter, DeferredRecord
from mayfly.faultpoints import FaultPoint, reached
from mayfly.task import Envelope, Lane, encode
from mayfly.webhooks.notice import Notice

log = structlog.get_logger(__name__)


class Topics(Protocol):
    """Each raises `LogUnavailable`: what was to be appended may be there nevertheless."""

    async def append_record(self, partition: int, key: str, value: bytes | None) -> None: ...

    async def append_command(self, partition: int, lane: Lane, task_id: str, value: bytes) -> None: ...

    async def append_dead_letter(self, task_id: str, value: bytes) -> None: ...

    async def append_notice(self, task_id: str, value: bytes) -> None: ...


class ErrandRunner:
    """Implements `dispatcher.world.Errands`."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._running: set[asyncio.Task[None]] = set()

    def keep(self, partition: Asking, record: DeferredRecord) -> None:
        value, task_id, fence = encode(record), record.envelope.task_id, record.fence
        # A key for each try: one that landed although it seemed not to must never be written a second time.
        # A late copy under its key would take the place of a record that the checkpoint vouches for.
        self._start(
            partition,
            lambda: self._topics.append_record(
                partition.number, key_of(task_id, fence, uuid.uuid4().hex), value
            ),
            FaultPoint.RECORD_APPENDED,
        )

    def tombstone(self, partition: Asking, key: str, task_id: str) -> None:
        self._start(
            partition,
            lambda: self._topics.append_record(partition.number, key, None),
            FaultPoint.TOMBSTONED,
            lambda: partition.tombstoned(key, task_id),
        )

    def release(self, partition: Asking, lane: Lane, envelope: Envelope) -> None:
        value = encode(envelope)
        self._start(
            partition,
            lambda: self._topics.append_command(partition.number, lane, envelope.task_id, value),
            FaultPoint.RELEASED,
        )

    def bury(self, partition: Asking, letter: DeadLetter) -> None:
        value = encode(letter)
        self._start(
            partition,
            lambda: self._topics.append_dead_letter(letter.task_id, value),
            FaultPoint.BURIED,
            lambda: partition.buried(letter.task_id),
        )

    def notify(self, partition: Asking, notice: Notice) -> None:
        value = encode(notice)
        self._start(
            partition,
            lambda: self._topics.append_notice(notice.task_id, value),
            FaultPoint.NOTIFIED,
            lambda: partition.notified(notice.task_id),
        )

    def _start(
        self,
        partition: Asking,
        append: Callable[[], Awaitable[None]],
        point: FaultPoint,
        then: Callable[[], None] | None = None,
    ) -> None:
        task = asyncio.create_task(_until_done(partition, append, point, then))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("an errand broke", exc_info=error)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def _until_done(
    partition: Asking,
    append: Callable[[], Awaitable[None]],
    point: FaultPoint,
    then: Callable[[], None] | None,
) -> None:
    for delay in backoff():
        # Whoever owns the partition next comes to the same errand by itself.
        if partition.lost:
            return
        try:
            await append()
        except LogUnavailable as error:
            log.warning("Kafka is away: an append waits", reason=str(error))
            await asyncio.sleep(delay)
        else:
            reached(point)
            if then is not None:
                then()
            return
