"""Kafka, read once from its start to the end that it had, and further when asked again."""

import re
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from mayfly.adapters.kafka import (
    DEAD_LETTER_TOPIC,
    FILLER,
    FUNCTIONS_TOPIC,
    client_config,
)
from mayfly.adapters.kafka_offsets import Slot, insist, offsets
from mayfly.audit.ledger import Ledger, Place
from mayfly.errors import LogUnavailable
from mayfly.events import decode_event, decode_record
from mayfly.function import decode_function
from mayfly.settings import Settings
from mayfly.task import Lane

PATIENCE_SECONDS: Final = 15.0
"""How long the broker may be silent."""
BATCH: Final = 1000
_QUEUE: Final = re.compile(r"mayfly\.(.+)\.(?:high|normal|low|events|deferred)")


class _Topic(NamedTuple):
    """What a topic is to the audit."""

    name: str
    queue: str
    what: str
    """A lane's name, `events`, `deferred`, `dead-letter` or `functions`."""


class LogReader:
    """Consumers without a group, so that nobody notices them. Raises `LogUnavailable`, each method.

    `only` names the queue to look at; None is every queue that has topics, or that a function names.
    """

    def __init__(self, settings: Settings, only: str | None = None) -> None:
        self._only = only
        self._admin = AdminClient(client_config(settings))
        config = {
            # The client wants a name; without a subscription and a commit there is no group of it.
            "group.id": "mayfly-audit",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
        self._config = client_config(settings, **config)
        self._topics: dict[str, _Topic] = {}
        self._next: dict[Slot, int] = {}
        self._records: dict[Slot, int] = {}
        self._starts: dict[Slot, int] = {}
        self.queues: set[str] = set()

    def read(self, ledger: Ledger) -> set[str]:
        """From where the last call stopped to the ends that there are now; the tasks that were met."""
        try:
            if not self._next:
                self._begin(ledger)
            return self._read_to(self._ends(), ledger)
        except KafkaException as error:
            raise LogUnavailable(f"Kafka does not answer: {error.args[0].str()}") from error

    def _begin(self, ledger: Ledger) -> None:
        found = insist(lambda: self._admin.list_topics(timeout=5), PATIENCE_SECONDS).topics
        for name, metadata in found.items():
            if topic := self._topic(name):
                self._topics[name] = topic
                self._next |= {(name, number): 0 for number in metadata.partitions}
        self._starts = self._offsets(self._next, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        self._next = dict(self._starts)
        self.queues |= {topic.queue for topic in self._topics.values() if topic.queue}
        for (name, _), start in self._starts.items():
            topic = self._topics[name]
            if start > 0 and topic.queue and topic.what != "deferred":
                ledger.trimmed.add(topic.queue)

    def _topic(self, name: str) -> _Topic | None:
        if name in (DEAD_LETTER_TOPIC, FUNCTIONS_TOPIC):
            return _Topic(name, "", name.removeprefix("mayfly."))
        match = _QUEUE.fullmatch(name)
        if match is None or self._only not in (None, match[1]):
            return None
        return _Topic(name, match[1], name.rpartition(".")[2])

    def _ends(self) -> dict[Slot, int]:
        """What follows from something ends before what it follows from: no event without its command, no
        record and no dead letter without its events."""
        ends: dict[Slot, int] = {}
        for group in (("functions", "dead-letter"), ("deferred",), ("events",), tuple(Lane)):
            slots = [slot for slot in self._next if self._topics[slot[0]].what in group]
            ends |= self._offsets(slots, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return ends

    def _offsets(self, slots: Iterable[Slot], which: OffsetSpec) -> dict[Slot, int]:
        return offsets(self._admin, slots, which, patience=PATIENCE_SECONDS)

    def _read_to(self, ends: dict[Slot, int], ledger: Ledger) -> set[str]:
        unread = {slot for slot, end in ends.items() if self._next[slot] < end}
        met: set[str] = set()
        if unread:
            # A new one each time: one that was used before may yet tell of an end that it came to then, and
            # what lies before that would be passed over.
            consumer = Consumer(self._config)
            try:
                consumer.assign([TopicPartition(*slot, self._next[slot]) for slot in sorted(unread)])
                met = self._consume(consumer, unread, ends, ledger)
            finally:
                consumer.close()
        ledger.dead_letters_compacted = self._compacted(DEAD_LETTER_TOPIC)
        return met

    def _consume(
        self, consumer: Consumer, unread: set[Slot], ends: dict[Slot, int], ledger: Ledger
    ) -> set[str]:
        met: set[str] = set()
        heard = time.monotonic()
        while unread:
            messages = consumer.consume(BATCH, timeout=0.5)
            for message in messages:
                slot = (message.topic() or "", message.partition() or 0)
                offset = message.offset() or 0
                if (error := message.error()) is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        continue
                    # Compaction may have taken the last records: the end itself is then all that is seen.
                    # What came since lies before it, and is for the next reading.
                    self._next[slot] = max(self._next[slot], min(offset, ends[slot]))
                elif message.key() == FILLER:
                    self._next[slot] = max(self._next[slot], min(offset + 1, ends[slot]))
                elif self._next[slot] <= offset < ends[slot]:
                    if task_id := self._take(ledger, self._topics[slot[0]], message):
                        met.add(task_id)
                    self._next[slot] = offset + 1
                    self._records[slot] = self._records.get(slot, 0) + 1
                heard = time.monotonic()
                if self._next[slot] >= ends[slot]:
                    unread.discard(slot)
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise LogUnavailable(f"Kafka has been silent for {PATIENCE_SECONDS:g} s")
        return met

    def _compacted(self, topic: str) -> bool:
        slots = [slot for slot in self._next if slot[0] == topic]
        return any(self._next[slot] - self._records.get(slot, 0) > 0 for slot in slots)

    def _take(self, ledger: Ledger, topic: _Topic, message: Message) -> str | None:
        value, offset = _bytes(message.value()), message.offset() or 0
        place = Place(topic.queue, message.partition() or 0)
        at = message.timestamp()[1]
        match topic.what:
            case "events":
                event = decode_event(value)
                if event is None:
                    ledger.passed(place, offset)
                    return None
                return ledger.event(place, offset, event, at)
            case "deferred":
                # A record that cannot be read is none, as for the dispatchers.
                record = decode_record(value) if value is not None else None
                return ledger.record(place, _key(message), record)
            case "dead-letter":
                return ledger.dead_letter(_key(message), live=value is not None)
            case "functions":
                function = decode_function(value) if value is not None else None
                if function is not None and self._only in (None, function.queue):
                    self.queues.add(function.queue)
                return None
            case _:
                return ledger.command(place, value, topic=topic.name, offset=offset, at=at)


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None


def _key(message: Message) -> str:
    key = message.key()
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key or "")
