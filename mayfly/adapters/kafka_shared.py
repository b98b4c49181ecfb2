"""Topics that are read as a whole, and followed, by whoever shares them: each partition by its one owner."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from mayfly.adapters.kafka import client_config
from mayfly.crossing import call_on
from mayfly.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH: Final = 200


class Reader(Protocol):
    """Who is told what there is. Its methods run on the event loop."""

    def assigned(self, partition: int) -> None: ...

    def revoked(self, partition: int) -> None: ...

    def take(self, partition: int, key: str, value: bytes | None) -> None:
        """A record; without a value, a tombstone."""

    def complete(self, partition: int) -> None:
        """It was read to its end; told again whenever that is so."""


class SharedTable:
    """A consumer in a thread of its own, in a group that is called like its topic. Nothing is committed:
    what is over is taken away, and what is left is read by the next owner."""

    def __init__(self, settings: Settings, topic: str, reader: Reader) -> None:
        self._topic = topic
        self._reader = reader
        self._consumer = Consumer(
            client_config(
                settings,
                **{
                    "group.id": topic,
                    "group.protocol": "consumer",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": True,
                    "queued.max.messages.kbytes": 8 * 1024,
                },
            )
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=topic, daemon=True)
        self.failure: BaseException | None = None
        """Why it is read no more, if nobody asked for that."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Leave the group: the partitions go to others at once."""
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    # --- on the thread

    def _run(self) -> None:
        try:
            self._consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke)
            while not self._stopping.is_set():
                first = self._consumer.poll(0.25)
                if first is not None:
                    self._on_loop(self._take, [first, *self._consumer.consume(BATCH - 1, 0)])
        except BaseException as error:
            self.failure = error
            log.critical("%s is read no more", self._topic, exc_info=error)
        finally:
            self._consumer.close()

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        for one in assigned:
            self._on_loop(self._reader.assigned, one.partition)
        places = [TopicPartition(one.topic, one.partition, OFFSET_BEGINNING) for one in assigned]
        consumer.incremental_assign(places)

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        for one in revoked:
            self._on_loop(self._reader.revoked, one.partition)
        consumer.incremental_unassign(revoked)

    def _on_loop(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run it on the event loop, and wait for it."""
        return call_on(self._loop, call, *arguments)

    # --- on the event loop

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            error, number = message.error(), message.partition() or 0
            if error is None:
                key, value = message.key(), message.value()
                name = key.decode(errors="replace") if isinstance(key, bytes) else ""
                self._reader.take(number, name, value if isinstance(value, bytes) else None)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._reader.complete(number)
            else:
                # librdkafka goes on by itself.
                log.warning("Kafka: %s", error.str())
