"""Topics of one partition that are read as a whole, and followed: a catalog, a book of records."""

import asyncio
import logging
import math
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from mayfly.adapters.kafka import client_config
from mayfly.errors import LogUnavailable
from mayfly.settings import Settings

log = logging.getLogger(__name__)

READ_SECONDS: Final = 30.0
WAIT_MILLISECONDS: Final = 1000
"""How long the broker may hold a request while nothing is appended: it answers at once when something is."""


class Row(NamedTuple):
    """A record. `value` is None where its key was taken away; `timestamp` is its append time, milliseconds
    since 1970, UTC."""

    offset: int
    key: str
    value: bytes | None
    timestamp: int


class Table:
    """Follows a topic from its beginning, in a thread of its own, which gives each record to `take`."""

    def __init__(self, settings: Settings, topic: str, take: Callable[[Row], None]) -> None:
        config = {
            "group.id": f"{topic}-table",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": WAIT_MILLISECONDS,
        }
        self._topic = topic
        self._consumer = Consumer(client_config(settings, **config))
        self._admin = AdminClient(client_config(settings))
        self._hand_over = take
        self._end = math.inf
        """Where the topic ended when it began to be read."""
        self.revision = 0
        """How far the topic was read: the same number for everybody who has read as far."""
        self._read_to_end = threading.Event()
        self._read = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=topic, daemon=True)

    async def start(self) -> None:
        """Returns when the topic was read to its end. Raises `LogUnavailable`; it may be called again."""
        if not self._thread.is_alive():
            self._thread.start()
        if not await asyncio.to_thread(self._read_to_end.wait, READ_SECONDS):
            raise LogUnavailable(f"{self._topic} could not be read within {READ_SECONDS:g} s")

    async def reach(self, revision: int) -> None:
        """Returns when it was read so far."""
        while self.revision < revision:
            read = self._read
            await asyncio.to_thread(read.wait, 1.0)

    async def reach_end(self) -> None:
        """Returns when all was read that is there now. Raises `LogUnavailable`."""
        place = TopicPartition(self._topic, 0)
        # Not asked of the consumer: it answers nobody else while a thread polls it.
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = self._admin.list_offsets({place: latest}, request_timeout=10)[place]
        try:
            end = (await asyncio.to_thread(asked.result)).offset
        except KafkaException as error:
            raise LogUnavailable(f"the end of {self._topic} is not known: {error.args[0].str()}") from error
        await self.reach(end)

    async def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _follow(self) -> None:
        self._consumer.assign([self._beginning()])
        while not self._stop.is_set():
            message = self._consumer.poll(0.25)
            if message is not None:
                self._take(message)
                # Those who wait for this one wait on this event; who comes later gets the next.
                read, self._read = self._read, threading.Event()
                read.set()
        self._consumer.close()

    def _beginning(self) -> TopicPartition:
        """Asks where the topic begins and ends: to be told of its end, once there, takes the broker up to a
        second, in which a gateway that starts would know nothing."""
        try:
            first, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=5.0)
        except KafkaException:
            return TopicPartition(self._topic, 0, OFFSET_BEGINNING)
        self._end = end
        self._reached(end if first == end else 0)
        return TopicPartition(self._topic, 0, first)

    def _reached(self, revision: int) -> None:
        self.revision = revision
        if revision >= self._end:
            self._read_to_end.set()

    def _take(self, message: Message) -> None:
        error, key, value, offset = message.error(), message.key(), message.value(), message.offset() or 0
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            reason = {"topic": self._topic, "reason": error.str()}
            log.warning("a topic cannot be read just now", extra=reason)
            return
        if error is not None:
            # The end's offset counts what compaction took away behind the last record.
            self.revision = offset
            self._read_to_end.set()
            return
        name = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
        row = Row(offset, name, value if isinstance(value, bytes) else None, message.timestamp()[1])
        self._hand_over(row)
        self._reached(offset + 1)
