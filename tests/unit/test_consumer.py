"""The poll loop, against a scripted Kafka: what it makes of rebalances and of records that are none."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from confluent_kafka import Message, TopicPartition

from dispatcher import consumer as module
from dispatcher.consumer import LogConsumer
from dispatcher.offsets import Checkpoint
from dispatcher.partition import MAX_BUFFERED, Partition
from mayfly import view
from mayfly.task import Envelope, Lane, encode

EVENTS, LANES = "events", {lane: lane.value for lane in Lane}
DEADLINE_SECONDS = 30.0


class Kafka:
    """A consumer of confluent-kafka, as far as the poll loop sees it. Paused stays paused, as there."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.steps: deque[Callable[[], Message | None]] = deque()
        self.paused: set[tuple[str, int]] = set()
        self.ends: dict[int, int] = {}
        self.checkpoint = Checkpoint()
        self.commits: list[list[TopicPartition]] = []

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any) -> None:
        self.on_assign, self.on_revoke = on_assign, on_revoke

    def poll(self, timeout: float) -> Message | None:
        return self.steps.popleft()() if self.steps else None

    def consume(self, count: int, timeout: float) -> list[Message]:
        return []

    def assign(self, *topics: str) -> None:
        places = [TopicPartition(topic, 0) for topic in topics or (EVENTS, *LANES.values())]
        self.steps.append(lambda: self.on_assign(self, places))

    def revoke(self, *topics: str) -> None:
        places = [TopicPartition(topic, 0) for topic in topics or (EVENTS, *LANES.values())]
        self.steps.append(lambda: self.on_revoke(self, places))

    def give(self, topic: str, offset: int, value: bytes | None) -> None:
        message = Message(topic=topic, partition=0, offset=offset, value=value, timestamp=(2, 0))
        self.steps.append(lambda: message)

    def nothing(self, but: Callable[[], object]) -> None:
        def step() -> None:
            but()

        self.steps.append(step)

    def incremental_assign(self, places: list[TopicPartition]) -> None: ...

    def incremental_unassign(self, places: list[TopicPartition]) -> None: ...

    def seek(self, place: TopicPartition) -> None: ...

    def pause(self, places: list[TopicPartition]) -> None:
        self.paused |= {(place.topic, place.partition) for place in places}

    def resume(self, places: list[TopicPartition]) -> None:
        self.paused -= {(place.topic, place.partition) for place in places}

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        return [
            TopicPartition(place.topic, place.partition, 0, metadata=self.checkpoint.encode())
            for place in places
        ]

    def get_watermark_offsets(self, place: TopicPartition, timeout: float, cached: bool) -> tuple[int, int]:
        return 0, self.ends.get(place.partition, 0)

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        self.commits.append(offsets)
        return offsets

    def close(self) -> None: ...


class Owner:
    """Does nothing with what is read."""

    def __init__(self) -> None:
        self.projection = self
        self.tasks: list[str] = []
        self.checkpoints: dict[int, str] = {}

    async def projected(self) -> dict[int, str]:
        return self.checkpoints

    def assigned(self, partition: Partition, projected: str) -> None: ...

    def revoked(self, partition: Partition) -> None: ...

    def progressed(self) -> None: ...

    def command(self, partition: int, task: view.QueuedTask) -> None:
        self.tasks.append(task.task_id)

    def change(self, change: view.Change) -> None: ...


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def consumer(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LogConsumer]:
    monkeypatch.setattr(module, "Consumer", Kafka)
    consumer = LogConsumer(
        {}, queue="q", lane_topics=LANES, events_topic=EVENTS, owner=owner, clock=lambda: 0.0
    )
    yield consumer
    await consumer.close()
    assert consumer.failure is None


@pytest.fixture
def kafka(consumer: LogConsumer) -> Kafka:
    assert isinstance(consumer._consumer, Kafka)
    return consumer._consumer


async def read_all(consumer: LogConsumer, kafka: Kafka) -> None:
    """Wait until the poll loop has taken all that was given."""
    taken = asyncio.Event()
    loop = asyncio.get_running_loop()
    # The step after the last one that was given: by then what that one gave has been handed over.
    kafka.nothing(lambda: None)
    kafka.nothing(lambda: loop.call_soon_threadsafe(taken.set))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await taken.wait()
    assert consumer.failure is None


def envelope() -> bytes:
    return encode(Envelope(task_type="f"))


async def test_a_lane_that_was_paused_when_its_partition_went_is_read_when_it_comes_back(
    consumer: LogConsumer, kafka: Kafka
) -> None:
    kafka.ends[0] = 1  # Nothing is taken up, so that the lane fills.
    kafka.assign()
    for offset in range(MAX_BUFFERED):
        kafka.give("normal", offset, envelope())
    consumer.start()
    await read_all(consumer, kafka)
    assert kafka.paused == {("normal", 0)}
    kafka.revoke()
    kafka.assign()
    await read_all(consumer, kafka)
    assert not kafka.paused


async def test_a_lane_that_was_paused_is_read_when_another_piece_of_its_partition_comes_back(
    consumer: LogConsumer, kafka: Kafka
) -> None:
    kafka.ends[0] = 1
    kafka.assign()
    for offset in range(MAX_BUFFERED):
        kafka.give("normal", offset, envelope())
    kafka.revoke("high")
    kafka.assign("high")
    consumer.start()
    await read_all(consumer, kafka)
    assert not kafka.paused


async def test_an_event_without_a_value_is_passed_over_like_any_that_is_none(
    consumer: LogConsumer, kafka: Kafka
) -> None:
    kafka.ends[0] = 1
    kafka.assign()
    kafka.give(EVENTS, 0, None)
    consumer.start()
    await read_all(consumer, kafka)
    assert consumer.partitions[0].caught_up


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"\xff"])
async def test_a_command_that_is_no_envelope_is_a_task_all_the_same(
    value: bytes | None, consumer: LogConsumer, kafka: Kafka, owner: Owner
) -> None:
    kafka.assign()
    kafka.give("low", 0, value)
    consumer.start()
    await read_all(consumer, kafka)
    assert len(owner.tasks) == 1


@pytest.mark.parametrize("projected", ["garbage", "1:~", "9:from a newer version mark"])
async def test_a_read_model_whose_checkpoint_cannot_be_read_is_written_again(
    projected: str, consumer: LogConsumer, kafka: Kafka, owner: Owner
) -> None:
    kafka.checkpoint = Checkpoint(5, {Lane.HIGH: (0, ()), Lane.NORMAL: (3, (1,)), Lane.LOW: (0, ())})
    owner.checkpoints[0] = projected
    kafka.assign()
    consumer.start()
    await read_all(consumer, kafka)
    assert consumer.partitions[0].origin == Checkpoint()


async def test_a_partition_starts_where_the_read_model_is_if_that_is_behind(
    consumer: LogConsumer, kafka: Kafka, owner: Owner
) -> None:
    behind = Checkpoint(5, {Lane.HIGH: (0, ()), Lane.NORMAL: (3, (1, 2)), Lane.LOW: (0, ())})
    kafka.checkpoint = Checkpoint(5, {Lane.HIGH: (0, ()), Lane.NORMAL: (3, (1,)), Lane.LOW: (0, ())})
    owner.checkpoints[0] = behind.encode() + " 0123abcd"
    kafka.assign()
    consumer.start()
    await read_all(consumer, kafka)
    assert consumer.partitions[0].origin == behind
