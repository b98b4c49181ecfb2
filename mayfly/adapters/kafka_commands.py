"""Single commands, read again by their places: what a re-run has its input from."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from mayfly.adapters.kafka import client_config, lane_topic
from mayfly.errors import LogUnavailable
from mayfly.settings import Settings
from mayfly.task import Lane


class CommandReader:
    """Reads commands by their places, one after the other, on a consumer and a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.produce_timeout_seconds
        self._config = client_config(
            settings,
            **{
                "group.id": "mayfly-commands",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                # A place that was trimmed is an error to look at, not one to jump over.
                "auto.offset.reset": "error",
                # A broker gives at least one record, and more than that is thrown away.
                "fetch.message.max.bytes": 65_536,
                # A fetch that waits at a partition's end holds up the next command's.
                "fetch.wait.max.ms": 10,
            },
        )
        self._consumer: Consumer | None = None
        self._thread = ThreadPoolExecutor(1, "mayfly-commands")

    async def read_command(self, queue: str, lane: Lane, partition: int, offset: int) -> bytes | None:
        """A command's value; None where the log does not have it, or has it no more.

        Raises `LogUnavailable`.
        """
        place = TopicPartition(lane_topic(queue, lane), partition, offset)
        try:
            # What waits for its turn is given up as well.
            async with asyncio.timeout(2 * self._timeout):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, place)
        except TimeoutError as error:
            raise LogUnavailable("Kafka did not give the command in time") from error
        except KafkaException as error:
            raise LogUnavailable(f"Kafka did not give the command: {error.args[0].str()}") from error

    def _read(self, place: TopicPartition) -> bytes | None:
        if self._consumer is None:
            self._consumer = Consumer(self._config)
        if not self._has(self._consumer, place):
            return None
        self._consumer.assign([place])
        try:
            deadline = time.monotonic() + self._timeout
            while time.monotonic() < deadline:
                message = self._consumer.poll(0.5)
                if message is None:
                    continue
                if (error := message.error()) is None:
                    value = message.value()
                    # A record further on: the one that was asked for was trimmed.
                    return value if isinstance(value, bytes) and message.offset() == place.offset else None
                if error.code() in _NOT_THERE:
                    return None
        finally:
            self._consumer.unassign()
        raise LogUnavailable("Kafka did not give the command in time")

    def _has(self, consumer: Consumer, place: TopicPartition) -> bool:
        """Asked first, since a consumer waits for ever for a topic or a partition that there is not."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                first, end = consumer.get_watermark_offsets(place, timeout=self._timeout)
            except KafkaException as error:
                code = error.args[0].code()
                if code in _NOT_THERE:
                    return False
                if code != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                    raise
                # The partition is just moving, or being made.
                time.sleep(0.1)
            else:
                return bool(first <= place.offset < end)

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        if self._consumer is not None:
            await asyncio.to_thread(self._consumer.close)


_NOT_THERE: Final = frozenset(
    {
        KafkaError._PARTITION_EOF,
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
