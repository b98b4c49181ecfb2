"""The audit's reader of the log: what the broker sends, beyond the end that it reads to as well."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from mayfly.adapters.kafka import FILLER, events_topic
from mayfly.audit import log
from mayfly.audit.ledger import Ledger
from mayfly.audit.log import LogReader
from mayfly.events import Claimed
from mayfly.retention import FOR_EVER
from mayfly.settings import Settings
from mayfly.task import Lane, encode

TOPIC = events_topic("q")
OTHER = events_topic("r")


class Message:
    def __init__(self, topic: str, offset: int, key: bytes | None = None, *, eof: bool = False) -> None:
        self._topic, self._offset, self._key, self._eof = topic, offset, key, eof

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._key or f"t{self._offset}".encode()

    def value(self) -> bytes:
        return encode(Claimed(f"t{self._offset}", Lane.NORMAL, self._offset, 1, "d", "n"))

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def error(self) -> KafkaError | None:
        return KafkaError(KafkaError._PARTITION_EOF) if self._eof else None


class Broker:
    """Sends what there is from where it is asked to, and each partition's end."""

    def __init__(self, *batches: Iterable[Message]) -> None:
        self.batches = [list(batch) for batch in batches]
        self._from: dict[str, int] = {}

    def __call__(self, config: dict[str, Any]) -> "Broker":
        return self

    def assign(self, places: list[TopicPartition]) -> None:
        self._from = {place.topic: place.offset for place in places}

    def consume(self, count: int, timeout: float) -> list[Message]:
        batch = self.batches.pop(0)
        return [one for one in batch if one.offset() >= self._from.get(one.topic(), 1 << 60)]

    def close(self) -> None: ...


@pytest.mark.parametrize("beyond", [None, FILLER])
def test_what_the_broker_sends_beyond_the_end_is_for_the_next_reading(
    beyond: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [Message(TOPIC, 0), Message(TOPIC, 1), Message(TOPIC, 2, beyond), Message(TOPIC, 3, eof=True)]
    # The first reading goes on for the other partition's sake, and hears of the first one's end meanwhile.
    broker = Broker(sent, [Message(OTHER, 0)], sent)
    ends = iter([{(TOPIC, 0): 1, (OTHER, 0): 1}, {(TOPIC, 0): 3, (OTHER, 0): 1}])
    topics = {name: SimpleNamespace(partitions={0: None}) for name in (TOPIC, OTHER)}
    monkeypatch.setattr(log, "Consumer", broker)
    monkeypatch.setattr(log, "insist", lambda ask, patience: SimpleNamespace(topics=topics))
    reader = LogReader(Settings())
    monkeypatch.setattr(reader, "_offsets", lambda slots, which: dict.fromkeys(slots, 0))
    monkeypatch.setattr(reader, "_ends", lambda: next(ends))
    ledger = Ledger(FOR_EVER)
    assert reader.read(ledger) == {"t0"}
    assert reader.read(ledger) == ({"t1", "t2"} if beyond is None else {"t1"})
