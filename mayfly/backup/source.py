"""Kafka, as a backup reads it: consumers without a group, so that nobody notices them."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from mayfly.adapters import kafka_offsets
from mayfly.adapters.kafka import (
    AUDIT_TOPIC,
    CONTROL_TOPIC,
    DEAD_LETTER_TOPIC,
    FUNCTIONS_TOPIC,
    client_config,
    dispatcher_group,
    events_topic,
    lane_topic,
)
from mayfly.adapters.kafka_offsets import Slot, offsets
from mayfly.backup.files import BackupError, Record
from mayfly.backup.manifest import Committed
from mayfly.errors import LogUnavailable
from mayfly.settings import Settings
from mayfly.task import Lane

T = TypeVar("T")

SHARED: Final = (FUNCTIONS_TOPIC, DEAD_LETTER_TOPIC, CONTROL_TOPIC, AUDIT_TOPIC)
PATIENCE_SECONDS: Final = 30.0
"""How long the broker may be silent."""
BATCH: Final = 1000
POLL_SECONDS: Final = 0.05
"""It waits so long for a batch that does not fill: dispatchers commit meanwhile, and twice a second."""
_EVENTS: Final = re.compile(r"mayfly\.(.+)\.events")

Take = Callable[[Slot, Record], None]


class Source:
    """Each method raises `LogUnavailable`."""

    def __init__(self, settings: Settings) -> None:
        self._admin = AdminClient(client_config(settings))
        config = {
            # The client wants a name; without a subscription and a commit there is no group of it.
            "group.id": "mayfly-backup",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            # A fetch that waits at a topic's end holds up the next one's.
            "fetch.wait.max.ms": 10,
        }
        self._config = client_config(settings, **config)
        self._partitions: dict[str, int] = {}

    def queues(self) -> dict[str, int]:
        """Those that have topics, each with its partitions."""
        topics = insist(lambda: self._admin.list_topics(timeout=10)).topics
        self._partitions = {name: len(topic.partitions) for name, topic in topics.items()}
        found = ((match[1], name) for name in topics if (match := _EVENTS.fullmatch(name)))
        return {queue: self._partitions[name] for queue, name in found}

    def slots(self, topics: Iterable[str]) -> list[Slot]:
        """Of the topics that there are."""
        return [(name, number) for name in topics for number in range(self._partitions.get(name, 0))]

    def starts(self, slots: Iterable[Slot]) -> dict[Slot, int]:
        return self._offsets(slots, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def ends(self, slots: Iterable[Slot]) -> dict[Slot, int]:
        return self._offsets(slots, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def _offsets(self, slots: Iterable[Slot], which: OffsetSpec) -> dict[Slot, int]:
        with told():
            return offsets(self._admin, slots, which, patience=PATIENCE_SECONDS)

    def checkpoints(self, queue: str) -> tuple[Committed | None, ...]:
        """What the queue's dispatchers have committed, by partition."""
        events, lanes = events_topic(queue), [lane_topic(queue, lane) for lane in Lane]
        places = [TopicPartition(*slot) for slot in self.slots([events, *lanes])]
        group = ConsumerGroupTopicPartitions(dispatcher_group(queue), places)

        def ask() -> dict[Slot, TopicPartition]:
            asked = self._admin.list_consumer_group_offsets([group], request_timeout=10)[group.group_id]
            return {(one.topic, one.partition): one for one in asked.result().topic_partitions}

        found = insist(ask)
        checkpoints: list[Committed | None] = []
        for slot in self.slots([events]):
            place = found.get(slot)
            if place is None or place.offset < 0 or not place.metadata:
                checkpoints.append(None)
                continue
            shown = (found.get((lane, slot[1])) for lane in lanes)
            offsets = tuple(max(one.offset, 0) if one is not None else 0 for one in shown)
            checkpoints.append(Committed(place.metadata, place.offset, offsets))
        return tuple(checkpoints)

    def read(self, starts: dict[Slot, int], ends: dict[Slot, int], take: Take) -> None:
        """Every record from the one to the other, each partition in its order."""
        at = dict(starts)
        unread = {slot for slot, end in ends.items() if at[slot] < end}
        if not unread:
            return
        consumer = Consumer(self._config)
        heard = time.monotonic()
        try:
            consumer.assign([TopicPartition(*slot, at[slot]) for slot in sorted(unread)])
            while unread:
                for message in consumer.consume(BATCH, timeout=POLL_SECONDS):
                    slot = (message.topic() or "", message.partition() or 0)
                    offset = message.offset() or 0
                    if (error := message.error()) is not None:
                        if error.code() == KafkaError._AUTO_OFFSET_RESET:
                            raise BackupError(f"{slot[0]} was trimmed while it was read", mend="try again")
                        if error.code() != KafkaError._PARTITION_EOF:
                            continue
                        # Compaction may have taken the last records: the end itself is all that is seen.
                        at[slot] = max(at[slot], offset)
                    elif at[slot] <= offset < ends[slot]:
                        # As librdkafka has them, whatever its types say.
                        headers: Any = message.headers() or []
                        timestamp = message.timestamp()[1]
                        take(slot, Record(offset, timestamp, message.key(), message.value(), headers))
                        at[slot] = offset + 1
                    else:
                        at[slot] = max(at[slot], offset + 1)
                    heard = time.monotonic()
                    if at[slot] >= ends[slot]:
                        unread.discard(slot)
                if time.monotonic() - heard > PATIENCE_SECONDS:
                    raise LogUnavailable(f"Kafka has been silent for {PATIENCE_SECONDS:g} s")
        finally:
            consumer.close()


def insist(ask: Callable[[], T]) -> T:
    """As `kafka_offsets` does. Raises `LogUnavailable`."""
    with told():
        return kafka_offsets.insist(ask, PATIENCE_SECONDS)


@contextmanager
def told() -> Iterator[None]:
    """Raises `LogUnavailable` for what Kafka does not do."""
    try:
        yield
    except KafkaException as error:
        raise LogUnavailable(f"Kafka does not do its part: {error.args[0].str()}") from error
