"""The topic of the audit log: appended to, and read in pieces from anywhere."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from mayfly.adapters.kafka import AUDIT_TOPIC, Appended, Entry, Log, client_config
from mayfly.errors import LogUnavailable
from mayfly.identity.chain import BEGINNING, Link, link
from mayfly.settings import Settings

T = TypeVar("T")

READ_SECONDS: Final = 10.0
BATCH: Final = 500


class Bounds(NamedTuple):
    """The first record's place, and the place after the last one's."""

    start: int
    end: int


class TrailTopic:
    """Reads on a consumer and a thread of its own, one call after the other. Each method raises
    `LogUnavailable`."""

    def __init__(self, settings: Settings, log: Log | None = None) -> None:
        self._log = log
        self._config = client_config(
            settings,
            **{
                "group.id": "mayfly-audit-log",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                # A fetch that waits at the topic's end holds up the next one's.
                "fetch.wait.max.ms": 10,
            },
        )
        self._consumer: Consumer | None = None
        self._thread = ThreadPoolExecutor(1, "mayfly-audit-log")

    async def append(self, value: bytes) -> Appended:
        assert self._log is not None
        return await self._log.append(AUDIT_TOPIC, value, partition=0)

    async def last(self) -> Link:
        """The record at the topic's end."""
        bounds = await self.bounds()
        if bounds.start == bounds.end:
            return BEGINNING
        [record] = await self.read(bounds.end - 1, bounds.end)
        return link(record.offset, record.value)

    async def bounds(self, since: int | None = None, until: int | None = None) -> Bounds:
        """Of all there is, or of what was appended at or after the one time and before the other,
        milliseconds since 1970."""
        return await self._call(lambda consumer: _bounds(consumer, since, until))

    async def read(self, start: int, end: int) -> list[Entry]:
        """The records from a place on and before another one, all of which are there."""
        return await self._call(lambda consumer: _read(consumer, start, end))

    async def _call(self, work: Callable[[Consumer], T]) -> T:
        try:
            # What waits for its turn is given up as well.
            async with asyncio.timeout(2 * READ_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._with, work)
        except TimeoutError as error:
            raise LogUnavailable("Kafka did not give the audit log in time") from error
        except KafkaException as error:
            raise LogUnavailable(f"Kafka did not give the audit log: {error.args[0].str()}") from error

    def _with(self, work: Callable[[Consumer], T]) -> T:
        if self._consumer is None:
            self._consumer = Consumer(self._config)
        return work(self._consumer)

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        if self._consumer is not None:
            await asyncio.to_thread(self._consumer.close)


def _bounds(consumer: Consumer, since: int | None, until: int | None) -> Bounds:
    low, high = _watermarks(consumer)
    start = low if since is None else _place(consumer, since, high)
    end = high if until is None else _place(consumer, until, high)
    return Bounds(max(low, start), max(low, start, end))


def _watermarks(consumer: Consumer) -> tuple[int, int]:
    deadline = time.monotonic() + READ_SECONDS
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(AUDIT_TOPIC, 0), timeout=READ_SECONDS)
        except KafkaException as error:
            moving = error.args[0].code() in (
                KafkaError.NOT_LEADER_FOR_PARTITION,
                KafkaError.LEADER_NOT_AVAILABLE,
            )
            if not moving or time.monotonic() > deadline:
                raise
            # The partition is just moving, or being made.
            time.sleep(0.1)
        else:
            return low, high


def _place(consumer: Consumer, at: int, high: int) -> int:
    """Of the first record that was appended at that time or later."""
    [found] = consumer.offsets_for_times([TopicPartition(AUDIT_TOPIC, 0, max(at, 0))], timeout=READ_SECONDS)
    if found.error is not None:
        raise KafkaException(found.error)
    return found.offset if found.offset >= 0 else high


def _read(consumer: Consumer, start: int, end: int) -> list[Entry]:
    if start >= end:
        return []
    consumer.assign([TopicPartition(AUDIT_TOPIC, 0, start)])
    found: list[Entry] = []
    at = start
    deadline = time.monotonic() + READ_SECONDS
    try:
        while time.monotonic() < deadline:
            # No more than there are: it would wait for them.
            for message in consumer.consume(min(BATCH, end - at), 0.5):
                if (error := message.error()) is not None:
                    if error.code() == KafkaError._PARTITION_EOF or error.retriable():
                        continue
                    raise KafkaException(error)
                value, offset = message.value(), message.offset() or 0
                if offset < end:
                    value = value if isinstance(value, bytes) else None
                    found.append(Entry(AUDIT_TOPIC, 0, offset, "", value, message.timestamp()[1]))
                at = offset + 1
                if at >= end:
                    return found
    finally:
        consumer.unassign()
    raise LogUnavailable("Kafka did not give the audit log in time")
