"""When the log's records are handed to the producer, and what whoever waits for one is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from mayfly.adapters import kafka
from mayfly.adapters.kafka import HOLD_SECONDS, Log
from mayfly.errors import LogUnavailable
from mayfly.settings import Settings

TOPIC = "mayfly.default.normal"
Delivered = Callable[[KafkaError | None, Any], None]


class Message:
    def __init__(self, partition: int, offset: int | None) -> None:
        self._place = partition, offset

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int | None:
        return self._place[1]

    def timestamp(self) -> tuple[int, int]:
        return 2, 1000 + (self._place[1] or 0)


class Producer:
    """Tells at the next poll what the broker was made to answer."""

    def __init__(self, _config: dict[str, Any]) -> None:
        self.given: list[tuple[bytes | None, str | None, int]] = []
        self.refuses: Exception | None = None
        self.chokes_on: bytes | None = None
        self._awaited: list[Delivered] = []
        self._answers: list[Callable[[], None]] = []

    def produce(
        self, _topic: str, value: bytes | None, key: str | None, partition: int, delivered: Delivered
    ) -> None:
        if self.refuses is not None:
            raise self.refuses
        if value is not None and value == self.chokes_on:
            raise TypeError("nobody has thought of it")
        self.given.append((value, key, partition))
        self._awaited.append(delivered)

    def answer(self, error: KafkaError | None = None, *, where: bool = True) -> None:
        """For all that it was given; `where` they are is not told of those that a later one vouches for."""
        first = len(self.given) - len(self._awaited)
        for number, delivered in enumerate(self._awaited, first):
            message = Message(self.given[number][2], number if where else None)
            self._answers.append(lambda delivered=delivered, message=message: delivered(error, message))  # type: ignore[misc]
        self._awaited.clear()

    def poll(self, _seconds: float) -> None:
        answers, self._answers = self._answers, []
        for one in answers:
            one()


@pytest.fixture
async def log(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Log]:
    monkeypatch.setattr(kafka, "Producer", Producer)
    log = Log(Settings(produce_timeout_seconds=1))
    await log.start()
    yield log
    producer_of(log).answer()
    await log.close()


def producer_of(log: Log) -> Producer:
    producer = log._producer
    assert isinstance(producer, Producer)
    return producer


def append(log: Log, value: bytes) -> "asyncio.Task[kafka.Appended]":
    return asyncio.create_task(log.append(TOPIC, value, key="k", partition=3))


async def rounds(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_comes_alone_is_sent_at_once_and_told_where_it_landed(log: Log) -> None:
    appended = append(log, b"1")
    await rounds()
    assert producer_of(log).given == [(b"1", "k", 3)]
    producer_of(log).answer()
    assert await appended == (3, 0, 1000)


async def test_what_comes_meanwhile_goes_together_once_the_first_is_acknowledged(log: Log) -> None:
    first = append(log, b"1")
    await rounds()
    rest = [append(log, value) for value in (b"2", b"3")]
    await rounds()
    assert [value for value, *_ in producer_of(log).given] == [b"1"]
    producer_of(log).answer()
    await first
    await rounds()
    assert [value for value, *_ in producer_of(log).given] == [b"1", b"2", b"3"]
    producer_of(log).answer()
    assert [one.offset for one in await asyncio.gather(*rest)] == [1, 2]


async def test_a_broker_that_is_slow_holds_nobody_for_long(log: Log) -> None:
    first = append(log, b"1")
    await rounds()
    second = append(log, b"2")
    await asyncio.sleep(10 * HOLD_SECONDS)
    assert [value for value, *_ in producer_of(log).given] == [b"1", b"2"]
    producer_of(log).answer()
    await asyncio.gather(first, second)


async def test_what_nobody_is_held_up_by_is_held_for_as_long_as_that_is_said(log: Log) -> None:
    linger = 3600.0
    log._linger = lambda: linger
    one = append(log, b"1")
    await rounds()
    other = append(log, b"2")
    await asyncio.sleep(HOLD_SECONDS * 2)
    assert producer_of(log).given == []
    linger = 0.0
    while not producer_of(log).given:
        await asyncio.sleep(0)
    assert [value for value, *_ in producer_of(log).given] == [b"1", b"2"]
    producer_of(log).answer()
    await asyncio.gather(one, other)


async def test_without_a_partition_it_is_the_keys(log: Log) -> None:
    appended = asyncio.create_task(log.append(TOPIC, None, key="k"))
    await rounds()
    assert producer_of(log).given == [(None, "k", kafka.BY_KEY)]
    producer_of(log).answer()
    await appended


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (BufferError("full"), "queue is full"),
        (KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)), "refused the record"),
    ],
)
async def test_what_the_producer_refuses_is_told_and_the_next_one_is_taken(
    log: Log, refusal: Exception, says: str
) -> None:
    producer_of(log).refuses = refusal
    with pytest.raises(LogUnavailable, match=says):
        await append(log, b"1")
    producer_of(log).refuses = None
    appended = append(log, b"2")
    await rounds()
    producer_of(log).answer()
    assert (await appended).offset == 0


async def test_what_breaks_for_one_record_holds_up_none_of_those_that_are_held_with_it(log: Log) -> None:
    producer_of(log).chokes_on = b"1"
    one, other = append(log, b"1"), append(log, b"2")
    with pytest.raises(TypeError, match="nobody has thought of it"):
        await one
    producer_of(log).answer()
    assert (await other).offset == 0


async def test_what_is_not_acknowledged_is_told(log: Log) -> None:
    appended = append(log, b"1")
    await rounds()
    producer_of(log).answer(KafkaError(KafkaError._MSG_TIMED_OUT))
    with pytest.raises(LogUnavailable, match="did not acknowledge"):
        await appended


async def test_what_is_acknowledged_without_a_place_may_be_nowhere(log: Log) -> None:
    appended = append(log, b"1")
    await rounds()
    producer_of(log).answer(where=False)
    with pytest.raises(LogUnavailable, match="may be nowhere"):
        await appended


async def test_what_is_held_is_appended_before_the_log_is_closed(log: Log) -> None:
    first = append(log, b"1")
    await rounds()
    second = append(log, b"2")
    await rounds()
    closing = asyncio.create_task(log.close())
    producer_of(log).answer()
    await first
    await rounds()
    producer_of(log).answer()
    await closing
    assert (await second).offset == 1
