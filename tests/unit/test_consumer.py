"""The poll loop, against a scripted Kafka: what it makes of rebalances and of records that are none."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, Message, TopicPartition
from owner_world import Asked, Told
from owner_world import world as owners_world

from dispatcher import consumer as module
from dispatcher.buffers import MAX_BUFFERED
from dispatcher.consumer import UNKNOWN, LogConsumer
from dispatcher.offsets import Checkpoint
from dispatcher.partition import Partition
from mayfly.errors import ReadModelUnavailable
from mayfly.events import DeferredRecord, Reason
from mayfly.task import Envelope, Lane, Origin, encode

EVENTS, DEFERRED, LANES = "events", "deferred", {lane: lane.value for lane in Lane}
TOPICS = (EVENTS, DEFERRED, *LANES.values())
DEADLINE_SECONDS = 30.0


class Answer(NamedTuple):
    """To a commit, of one partition."""

    topic: str
    partition: int
    error: KafkaError


class Kafka:
    """A consumer of confluent-kafka, as far as the poll loop sees it. Paused stays paused, as there."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.steps: deque[Callable[[], Message | None]] = deque()
        self.paused: set[tuple[str, int]] = set()
        self.ends: dict[int, int] = {}
        self.checkpoint = Checkpoint()
        self.commits: list[list[TopicPartition]] = []
        self.commit_error: KafkaError | None = None
        self.assigned: dict[str, int] = {}

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any) -> None:
        self.on_assign, self.on_revoke = on_assign, on_revoke

    def poll(self, timeout: float) -> Message | None:
        return self.steps.popleft()() if self.steps else None

    def consume(self, count: int, timeout: float) -> list[Message]:
        return []

    def assign(self, *topics: str) -> None:
        places = [TopicPartition(topic, 0) for topic in topics or TOPICS]
        self.steps.append(lambda: self.on_assign(self, places))

    def revoke(self, *topics: str) -> None:
        places = [TopicPartition(topic, 0) for topic in topics or TOPICS]
        self.steps.append(lambda: self.on_revoke(self, places))

    def give(self, topic: str, offset: int, value: bytes | None, key: bytes = b"k") -> None:
        message = Message(topic=topic, partition=0, offset=offset, key=key, value=value, timestamp=(2, 0))
        self.steps.append(lambda: message)

    def end(self, topic: str, offset: int) -> None:
        """The topic is read to its end, which is there."""
        error = KafkaError(KafkaError._PARTITION_EOF)
        message = Message(topic=topic, partition=0, offset=offset, error=error, timestamp=(0, 0))
        self.steps.append(lambda: message)

    def nothing(self, but: Callable[[], object]) -> None:
        def step() -> None:
            but()

        self.steps.append(step)

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        self.assigned |= {place.topic: place.offset for place in places}

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
        if self.commit_error is None:
            return offsets
        return [Answer(place.topic, place.partition, self.commit_error) for place in offsets]  # type: ignore[misc]

    def close(self) -> None: ...


class Owner:
    """Does nothing with what is read."""

    def __init__(self) -> None:
        self.told, self.asked = Told(), Asked()
        self.world = owners_world(self.told, self.asked)
        self.there: dict[int, str] | None = {}
        self.marks_told: list[str] = []
        self.turns = 0
        """How often something was handed over."""
        self.lingers = 0.0

    async def marks(self) -> dict[int, str]:
        if self.there is None:
            raise ReadModelUnavailable("down")
        return self.there

    def linger(self) -> float:
        return self.lingers

    def assigned(self, partition: Partition, mark: str) -> None:
        self.marks_told.append(mark)

    def revoked(self, partition: Partition) -> None: ...

    def checkpoint(self, partition: Partition) -> Checkpoint | None:
        return partition.checkpoint()

    def progressed(self) -> None:
        self.turns += 1


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def consumer(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LogConsumer]:
    monkeypatch.setattr(module, "Consumer", Kafka)
    consumer = LogConsumer(
        {},
        queue="q",
        lane_topics=LANES,
        events_topic=EVENTS,
        deferred_topic=DEFERRED,
        owner=owner,
        clock=lambda: 0.0,
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
    kafka.end(DEFERRED, 0)
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
    assert len(owner.told.commands) == 1


async def test_a_partition_acts_when_its_records_and_its_events_were_read_to_their_ends(
    consumer: LogConsumer, kafka: Kafka
) -> None:
    """Also where the last offsets hold no record: then only the end itself tells."""
    kafka.ends[0] = 7
    kafka.assign()
    kafka.end(EVENTS, 7)
    consumer.start()
    await read_all(consumer, kafka)
    assert not consumer.partitions[0].caught_up
    kafka.end(DEFERRED, 9)
    await read_all(consumer, kafka)
    assert consumer.partitions[0].caught_up
    assert consumer.partitions[0].checkpoint() == Checkpoint(7, dict.fromkeys(Lane, (0, ())), deferred=9)


async def test_an_end_of_which_nothing_is_to_be_learnt_is_not_handed_over(
    consumer: LogConsumer, kafka: Kafka, owner: Owner
) -> None:
    kafka.assign()
    kafka.end(DEFERRED, 4)
    kafka.give(EVENTS, 0, b"{}")
    consumer.start()
    await read_all(consumer, kafka)
    assert owner.turns == 2
    kafka.end(EVENTS, 1)
    kafka.end(DEFERRED, 4)
    kafka.end("low", 5)
    await read_all(consumer, kafka)
    assert owner.turns == 2
    kafka.end(EVENTS, 3)
    kafka.end(DEFERRED, 6)
    await read_all(consumer, kafka)
    assert owner.turns == 4


@pytest.mark.parametrize("waits", [0.0, 0.01])
async def test_what_comes_is_gathered_for_as_long_as_the_owner_says(
    waits: float, consumer: LogConsumer, kafka: Kafka, owner: Owner
) -> None:
    owner.lingers = waits
    waited: list[float] = []
    kafka.consume = lambda count, timeout: waited.append(timeout) or []  # type: ignore[method-assign, func-returns-value]
    kafka.assign()
    kafka.end(DEFERRED, 0)
    consumer.start()
    await read_all(consumer, kafka)
    assert waited == [waits]


async def test_the_end_of_a_lane_is_nothing_to_act_on(consumer: LogConsumer, kafka: Kafka) -> None:
    kafka.assign()
    kafka.end("low", 5)
    consumer.start()
    await read_all(consumer, kafka)
    assert not consumer.partitions[0].caught_up


async def test_a_task_waits_in_a_record_that_the_checkpoint_vouches_for(
    consumer: LogConsumer, kafka: Kafka
) -> None:
    kafka.checkpoint = Checkpoint(5, deferred=1)
    envelope = Envelope(task_type="f", task_id="a", origin=Origin(Lane.LOW, 3, 0))
    kafka.ends[0] = 5
    kafka.assign()
    kafka.give(DEFERRED, 0, encode(DeferredRecord(envelope, 2, 1, Reason.RETRY, due=10**15)), b"a/2/x")
    kafka.end(DEFERRED, 1)
    kafka.end(EVENTS, 5)
    consumer.start()
    await read_all(consumer, kafka)
    assert consumer.partitions[0].waiting.get("a") is not None


async def test_a_partition_starts_at_its_checkpoint_and_reads_every_record(
    consumer: LogConsumer, kafka: Kafka, owner: Owner
) -> None:
    """Also where the read model is behind it: that is for the read model's own rebuild."""
    behind = Checkpoint(5, {Lane.NORMAL: (3, (1, 2))})
    kafka.checkpoint = Checkpoint(6, {Lane.HIGH: (0, ()), Lane.NORMAL: (3, (1,)), Lane.LOW: (0, ())}, 4)
    owner.there = {0: behind.encode() + " 0123abcd"}
    kafka.assign()
    consumer.start()
    await read_all(consumer, kafka)
    assert consumer.partitions[0].origin == kafka.checkpoint
    assert owner.marks_told == [owner.there[0]]
    assert kafka.assigned == {
        EVENTS: 6,
        DEFERRED: OFFSET_BEGINNING,
        "high": 0,
        "normal": 1,
        "low": 0,
    }


@pytest.mark.parametrize(("there", "told"), [({}, ""), (None, UNKNOWN)])
async def test_the_owner_is_told_whether_there_is_no_mark_or_nobody_knows(
    there: dict[int, str] | None, told: str, consumer: LogConsumer, kafka: Kafka, owner: Owner
) -> None:
    owner.there = there
    kafka.assign()
    consumer.start()
    await read_all(consumer, kafka)
    assert owner.marks_told == [told]


async def test_what_was_committed_is_told_to_the_partition(consumer: LogConsumer, kafka: Kafka) -> None:
    """And only that: what a checkpoint does without is let go when there is no older one."""
    kafka.assign()
    kafka.end(DEFERRED, 0)
    kafka.end(EVENTS, 0)
    consumer.start()
    await read_all(consumer, kafka)
    # The first poll committed, before there was anything to commit.
    assert not kafka.commits
    told: list[Checkpoint] = []
    consumer.partitions[0].committed = told.append  # type: ignore[method-assign]
    await consumer.close()
    assert [place.topic for places in kafka.commits for place in places] == [EVENTS, *LANES.values()]
    (checkpoint,) = told
    assert checkpoint.encode() == kafka.commits[0][0].metadata


async def test_a_commit_waits_for_a_lull_and_not_for_long(consumer: LogConsumer, kafka: Kafka) -> None:
    now, commits = [0.0], []
    consumer._clock = lambda: now[0]

    def busy(at: float) -> None:
        """Something is read at that time: how many commits were there before."""
        kafka.end(EVENTS, len(kafka.steps) + 1)
        read = kafka.steps.pop()
        kafka.steps.append(lambda: (commits.append(len(kafka.commits)), now.__setitem__(0, at), read())[-1])

    kafka.assign()
    kafka.end(DEFERRED, 0)
    busy(0.4)
    kafka.nothing(lambda: None)
    busy(0.85)
    busy(0.95)
    busy(0.96)
    consumer.start()
    await read_all(consumer, kafka)
    assert commits == [0, 1, 1, 2], "in the lull at 0.4, and half a second later without one"


async def test_a_commit_is_made_for_a_stale_record_although_it_says_nothing_new(
    consumer: LogConsumer, kafka: Kafka
) -> None:
    kafka.assign()
    kafka.end(DEFERRED, 0)
    kafka.end(EVENTS, 0)
    consumer.start()
    await read_all(consumer, kafka)
    consumer._tell_committed(consumer._to_commit())
    assert consumer._to_commit() == {}
    kafka.give(DEFERRED, 0, stale_record())
    await read_all(consumer, kafka)
    assert set(consumer._to_commit()) == {0}


async def test_a_partition_whose_commit_failed_is_told_of_none(
    consumer: LogConsumer, kafka: Kafka, owner: Owner
) -> None:
    kafka.assign()
    kafka.end(DEFERRED, 0)
    kafka.end(EVENTS, 0)
    kafka.give(DEFERRED, 0, stale_record())
    consumer.start()
    await read_all(consumer, kafka)
    kafka.commit_error = KafkaError(KafkaError._FENCED)
    await consumer.close()
    assert kafka.commits
    assert not owner.asked.tombstones


async def test_a_checkpoint_that_the_broker_would_not_take_keeps_no_other_from_it(
    consumer: LogConsumer, kafka: Kafka
) -> None:
    pending = tuple(range(0, 10**13, 10**9))
    long = Checkpoint(0, {Lane.LOW: (10**14, pending)})
    kafka.nothing(lambda: consumer._commit({0: long, 1: Checkpoint(7)}))
    consumer.start()
    await read_all(consumer, kafka)
    assert [{place.partition for place in places} for places in kafka.commits] == [{1}]


async def test_a_lane_s_offset_is_its_base_so_that_what_waits_is_the_group_s_lag(
    consumer: LogConsumer, kafka: Kafka
) -> None:
    """Pending commands lie below the base, and do not wait."""
    kafka.nothing(lambda: consumer._commit({0: Checkpoint(7, {Lane.HIGH: (40, (3, 5)), Lane.LOW: (9, ())})}))
    consumer.start()
    await read_all(consumer, kafka)
    [places] = kafka.commits
    assert {place.topic: place.offset for place in places} == {EVENTS: 7, "high": 40, "normal": 0, "low": 9}


async def test_a_checkpoint_is_committed_by_what_is_said_of_the_events_alone(
    consumer: LogConsumer, kafka: Kafka
) -> None:
    """A broker answers for each topic by itself."""
    told: list[dict[int, Checkpoint]] = []
    consumer._tell_committed = told.append  # type: ignore[method-assign]
    refused = KafkaError(KafkaError._FENCED)

    def commit(offsets: list[TopicPartition], asynchronous: bool) -> list[Answer | TopicPartition]:
        return [Answer(place.topic, 0, refused) if place.topic == EVENTS else place for place in offsets]

    kafka.commit = commit  # type: ignore[assignment, method-assign]
    kafka.nothing(lambda: consumer._commit({0: Checkpoint(7)}))
    consumer.start()
    await read_all(consumer, kafka)
    assert told == [{}]


def stale_record() -> bytes:
    envelope = Envelope(task_type="f", task_id="a", origin=Origin(Lane.LOW, 3, 0))
    return encode(DeferredRecord(envelope, -1, 1, Reason.RETRY))
