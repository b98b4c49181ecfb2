"""Kafka, as a backup is restored to it: each record at the offset that it had.

Fences, the places of commands and the checkpoints are offsets, so a gap in the backup is a gap afterwards:
where compaction, or the trim of a log, has taken something away, there is something that is nobody's.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from mayfly.adapters.kafka import (
    FILLER,
    MAX_MESSAGE_BYTES,
    client_config,
    dispatcher_group,
    ensure_topics,
    events_topic,
    lane_topic,
)
from mayfly.adapters.kafka_offsets import offsets
from mayfly.backup.files import BackupError, Record
from mayfly.backup.manifest import Committed, Manifest, Span
from mayfly.backup.source import PATIENCE_SECONDS, insist, told
from mayfly.errors import LogUnavailable
from mayfly.settings import Settings
from mayfly.task import Lane, MalformedCommand, decode_envelope, encode

FLUSH_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 30.0
LONGEST_QUEUE: Final = 100_000
TIMESTAMPS: Final = "message.timestamp.type"


class Target:
    """Each method raises `LogUnavailable`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = AdminClient(client_config(settings))
        config = {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 20,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "message.timeout.ms": int(FLUSH_SECONDS * 1000),
            "queue.buffering.max.messages": LONGEST_QUEUE,
        }
        self._producer = Producer(client_config(settings, **config))
        self._failed: KafkaError | None = None
        self._times_lost = False
        """Whether the broker gave a record its own time."""

    async def make_topics(self, manifest: Manifest) -> None:
        """Empty, and such that a record keeps the time that it had. Raises `BackupError` where they are not
        empty, or have other partitions."""
        there = insist(lambda: self._admin.list_topics(timeout=10)).topics
        for topic, spans in manifest.topics.items():
            if topic not in there:
                continue
            if len(there[topic].partitions) != len(spans):
                raise BackupError(
                    f"{topic} has {len(there[topic].partitions)} partitions, and {len(spans)} in the backup"
                )
            if any(self._ends(topic, len(spans))):
                raise BackupError(
                    f"{topic} is not empty: a backup is restored into a Kafka that has nothing of Mayfly's",
                    mend="name an empty one, or delete its topics",
                )
        for queue, partitions in manifest.queues.items():
            update = {"queue": queue, "partitions": partitions}
            await ensure_topics(self._settings.model_copy(update=update))
        self._set(manifest.topics, "CreateTime")

    def hand_over(self, manifest: Manifest) -> None:
        """What is appended from now on has the broker's time, as dispatchers rely on."""
        self._set(manifest.topics, "LogAppendTime")

    def write(self, topic: str, partition: int, span: Span, records: Iterable[Record]) -> None:
        """Raises `BackupError`."""
        read = 0

        def counted() -> Iterator[Record]:
            nonlocal read
            for record in records:
                read += 1
                yield record

        for record in filled(topic, partition, span, counted()):
            self._append(topic, partition, record)
        self._flush()
        if self._times_lost:
            raise BackupError(f"{topic} does not keep the times of its records")
        if read < span.records:
            raise BackupError(f"{topic}/{partition} is damaged: it has {read} of {span.records} records")
        [end] = self._ends(topic, 1, first=partition)
        if end != span.end:
            raise BackupError(
                f"{topic}/{partition} ends at {end} and not at {span.end}: something else writes"
            )
        if span.start > 0 and topic.rpartition(".")[2] in (*Lane, "events"):
            # Nothing stands there but what was accepted: what was trimmed is trimmed again.
            place = TopicPartition(topic, partition, span.start)
            insist(lambda: self._admin.delete_records([place])[place].result(30))

    def commit(self, queue: str, checkpoints: Sequence[Committed | None]) -> None:
        """As the queue's dispatchers do, which start from these."""
        lanes = [lane_topic(queue, lane) for lane in Lane]
        places = []
        for number, one in enumerate(checkpoints):
            if one is None:
                continue
            places.append(TopicPartition(events_topic(queue), number, one.events, metadata=one.metadata))
            places += [
                TopicPartition(*at) for at in zip(lanes, [number] * len(lanes), one.lanes, strict=True)
            ]
        if not places:
            return
        config = {"group.id": dispatcher_group(queue), "enable.auto.commit": False}
        consumer = Consumer(client_config(self._settings, **config))
        try:
            answers = insist(lambda: consumer.commit(offsets=places, asynchronous=False)) or []
        finally:
            consumer.close()
        if failed := next((one.error for one in answers if one.error is not None), None):
            raise LogUnavailable(f"the checkpoints of {queue} were not committed: {failed.str()}")

    def _append(self, topic: str, partition: int, record: Record) -> None:
        if self._failed is not None:
            raise LogUnavailable(f"Kafka did not take a record of {topic}: {self._failed.str()}")
        more: dict[str, Any] = {"headers": record.headers}
        if record.timestamp > 0:
            more["timestamp"] = record.timestamp
        while True:
            try:
                self._producer.produce(
                    topic,
                    record.value,
                    key=record.key,
                    partition=partition,
                    on_delivery=self._delivered,
                    **more,
                )
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise LogUnavailable(f"Kafka refused a record of {topic}: {error.args[0].str()}") from error
            else:
                self._producer.poll(0)
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        self._failed = self._failed or error
        self._times_lost |= message.timestamp()[0] == TIMESTAMP_LOG_APPEND_TIME

    def _flush(self) -> None:
        left = self._producer.flush(FLUSH_SECONDS)
        if left or self._failed is not None:
            reason = self._failed.str() if self._failed else f"{left} records are not acknowledged"
            raise LogUnavailable(f"Kafka did not take what was sent: {reason}")

    def _ends(self, topic: str, count: int, *, first: int = 0) -> list[int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        slots = [(topic, number) for number in range(first, first + count)]
        with told():
            found = offsets(self._admin, slots, latest, patience=PATIENCE_SECONDS)
        return [found[slot] for slot in slots]

    def _set(self, topics: Iterable[str], timestamps: str) -> None:
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                topic,
                incremental_configs=[
                    ConfigEntry(TIMESTAMPS, timestamps, incremental_operation=AlterConfigOpType.SET)
                ],
            )
            for topic in topics
        ]

        def alter() -> None:
            for altered in self._admin.incremental_alter_configs(resources).values():
                altered.result(30)

        insist(alter)
        deadline = time.monotonic() + SETTLE_SECONDS
        while not self._is_set(resources, timestamps):
            if time.monotonic() > deadline:
                raise LogUnavailable(f"Kafka does not set {TIMESTAMPS} to {timestamps}")
            time.sleep(0.1)

    def _is_set(self, resources: Iterable[ConfigResource], timestamps: str) -> bool:
        plain = [ConfigResource(ResourceType.TOPIC, one.name) for one in resources]

        def ask() -> bool:
            described = self._admin.describe_configs(plain).values()
            return all(one.result(30)[TIMESTAMPS].value == timestamps for one in described)

        return insist(ask)


def filled(topic: str, partition: int, span: Span, records: Iterable[Record]) -> Iterator[Record]:
    """The records, and what stands in the gaps between them, so that there is one at each offset."""
    at, before, now = 0, None, time.time_ns() // 1_000_000
    for record in records:
        while at < record.offset:
            yield _filler(topic, partition, at, now, before)
            at += 1
        yield record
        at, before = record.offset + 1, record
    while at < span.end:
        yield _filler(topic, partition, at, now, before)
        at += 1


def _filler(topic: str, partition: int, offset: int, now: int, before: Record | None) -> Record:
    """A tombstone of a key that there is not. In a lane, where a transaction of somebody else's left a gap,
    the command before it once more: a copy is the same task."""
    if before is None or topic.rpartition(".")[2] not in set(Lane):
        return Record(offset, now, FILLER, None, [])
    try:
        envelope = decode_envelope(before.value, topic=topic, partition=partition, offset=before.offset)
    except MalformedCommand:
        return before._replace(offset=offset)
    return before._replace(offset=offset, value=encode(envelope))
