"""One owner's partition: when it acts, what it waits for, and what it may commit."""

import asyncio

import pytest
from msgspec.structs import replace
from owner_world import Asked, Told, claimed, command, finished, owner, world

from dispatcher.buffers import MAX_BUFFERED, MAX_BUFFERED_BYTES, MIN_BUFFERED
from dispatcher.expectations import PartitionLost
from dispatcher.offsets import MAX_PENDING, Checkpoint
from dispatcher.partition import Partition
from mayfly.events import Deferred, DeferredRecord, Reason
from mayfly.steps import Claim, Held
from mayfly.task import Envelope, Lane, Origin, Status, encode


def partition(checkpoint: Checkpoint | None = None, *, events_end: int = 0) -> tuple[Partition, Told]:
    told = Told()
    return owner(world(told), checkpoint, events_end=events_end), told


def test_nothing_is_taken_up_before_the_events_were_read_to_their_end() -> None:
    mine, _ = partition(events_end=2)
    mine.take_command(command("a", 0))
    assert not mine.has_work(Lane.NORMAL)
    mine.take_event(0, claimed("b", 7), 0)
    assert not mine.has_work(Lane.NORMAL)
    mine.take_event(1, finished("b", 0), 0)
    assert mine.has_work(Lane.NORMAL)


def test_a_command_whose_task_is_terminal_is_done_without_an_attempt() -> None:
    mine, _ = partition(events_end=2)
    mine.take_event(0, claimed("a", 0), 0)
    mine.take_event(1, finished("a", 0), 0)
    mine.take_command(command("a", 0))
    assert mine.next(Lane.NORMAL) is None
    assert mine.checkpoint() == Checkpoint(2, {Lane.HIGH: (0, ()), Lane.NORMAL: (1, ()), Lane.LOW: (0, ())})


def test_a_command_whose_task_somebody_holds_is_parked_until_it_has_its_outcome() -> None:
    mine, told = partition(events_end=1)
    mine.take_event(0, claimed("a", 0, by="another"), 0)
    mine.take_command(command("a", 0))
    assert mine.next(Lane.NORMAL) is None
    (parked, held) = next(mine.held())
    takeover = Claim(follows=0, attempt=2, losses=1, state=mine.state("a"))
    assert (parked.task_id, held) == ("a", Held("another", 0, takeover))
    mine.take_event(1, finished("a", 0), 0)
    assert not mine.parked
    assert mine.checkpoint().lanes[Lane.NORMAL] == (1, ())
    assert told.changes == [("a", Status.IN_PROGRESS), ("a", Status.COMPLETED)]


async def test_a_claim_is_answered_by_the_event_that_was_read_back() -> None:
    mine, _ = partition()
    mine.take_command(command("a", 0))
    first, second = mine.expect_claim("one"), mine.expect_claim("two")
    mine.take_event(5, claimed("a", 0, nonce="one"), 0)
    mine.take_event(6, claimed("a", 0, nonce="two", by="another"), 0)
    assert await first == 5
    assert await second is None


async def test_an_outcome_is_answered_by_whether_it_counts() -> None:
    mine, _ = partition()
    mine.take_event(0, claimed("a", 0), 0)
    mine.take_event(1, claimed("a", 0, follows=0, by="another"), 0)
    stale, current = mine.expect_end("a", 0), mine.expect_end("a", 1)
    mine.take_event(2, finished("a", 0), 0)
    mine.take_event(3, finished("a", 1), 0)
    assert (await stale, await current) == (False, True)


async def test_whoever_waits_for_an_event_is_told_when_the_partition_goes() -> None:
    mine, _ = partition()
    waiting = mine.expect_claim("one")
    mine.drop()
    with pytest.raises(PartitionLost):
        await waiting
    with pytest.raises(PartitionLost):
        await mine.expect_end("a", 0)


async def test_a_command_whose_attempt_came_to_nothing_is_looked_at_again() -> None:
    mine, _ = partition()
    mine.take_command(command("a", 0))
    assert mine.next(Lane.NORMAL) is not None
    assert mine.next(Lane.NORMAL) is None
    mine.put_back(command("a", 0))
    found = mine.next(Lane.NORMAL)
    assert found is not None
    assert found.task_id == "a"


def test_what_was_read_before_is_passed_over() -> None:
    mine, told = partition(Checkpoint(4, {Lane.NORMAL: (10, (3,))}), events_end=4)
    for offset in range(3, 12):
        mine.take_command(command(f"t{offset}", offset))
    assert told.commands == ["t3", "t10", "t11"]
    mine.take_command(command("t11", 11))
    assert len(mine.buffers[Lane.NORMAL]) == 3
    mine.take_event(3, claimed("t3", 3), 0)
    assert told.changes == []


def test_the_checkpoint_starts_at_the_first_event_of_a_task_that_runs() -> None:
    mine, _ = partition()
    for offset, task in enumerate(["slow", "quick"]):
        mine.take_command(command(task, offset))
        assert mine.next(Lane.NORMAL) is not None
        mine.take_event(offset, claimed(task, offset), 0)
    mine.take_event(2, finished("quick", 1), 0)
    assert mine.checkpoint().start == 0
    assert mine.checkpoint().lanes[Lane.NORMAL] == (2, (0,))
    mine.take_event(3, finished("slow", 0), 0)
    assert mine.checkpoint().start == 4
    assert mine.checkpoint().lanes[Lane.NORMAL] == (2, ())


def test_a_second_command_of_a_task_is_done_with_the_first_ones_outcome() -> None:
    mine, _ = partition()
    mine.take_command(command("a", 0))
    mine.take_command(command("a", 1))
    assert mine.next(Lane.NORMAL) is not None
    mine.take_event(0, claimed("a", 0), 0)
    mine.take_event(1, finished("a", 0), 0)
    # The second is still in the buffer: the task must be known until it was seen to.
    assert mine.checkpoint().start == 0
    assert mine.next(Lane.NORMAL) is None
    assert mine.checkpoint().start == 2
    assert mine.checkpoint().lanes[Lane.NORMAL] == (2, ())


def test_no_more_is_started_than_a_checkpoint_can_name() -> None:
    mine, _ = partition()
    for offset in range(MAX_PENDING + 1):
        mine.take_command(command(f"t{offset}", offset))
    started = 0
    while mine.next(Lane.NORMAL):
        started += 1
    assert started == MAX_PENDING


def test_a_full_lane_is_paused_and_resumed_when_most_of_it_is_gone() -> None:
    mine, _ = partition()
    buffer = mine.buffers[Lane.LOW]
    for offset in range(MAX_BUFFERED):
        assert not buffer.should_pause
        mine.take_command(command(f"t{offset}", offset, Lane.LOW))
    assert buffer.should_pause
    while len(buffer) > MIN_BUFFERED:
        assert not buffer.should_resume
        buffer.popleft()
    assert buffer.should_resume


def test_a_lane_is_read_on_to_the_command_that_a_record_waits_for() -> None:
    """However large those before it are: its partition's other records wait behind that one."""
    mine = owner(events_end=2)
    mine.take_event(0, claimed("a", 100), 0)
    mine.take_event(1, Deferred("a", 0, 1, Reason.RETRY), 0)
    envelope = Envelope(task_type="f", task_id="a", origin=Origin(Lane.NORMAL, 100, 0))
    mine.take_record(0, "key", encode(DeferredRecord(envelope, 1, 1, Reason.RETRY)))
    buffer = mine.buffers[Lane.NORMAL]
    for offset in range(100):
        large = command(f"t{offset}", offset)
        mine.take_command(replace(large, size=MAX_BUFFERED_BYTES // 10))
        assert not buffer.should_pause
    buffer.paused = True
    assert buffer.should_resume
    mine.take_command(command("a", 100))
    assert buffer.should_pause
    assert mine.waiting.get("a") is not None


async def test_a_cancelled_waiter_is_no_trouble() -> None:
    mine, _ = partition()
    waiting = mine.expect_claim("one")
    waiting.cancel()
    await asyncio.sleep(0)
    mine.take_event(0, claimed("a", 0, nonce="one"), 0)
    mine.drop()


def test_a_record_backs_its_task_only_with_the_command_that_it_came_of_done() -> None:
    """Another owner wrote it, and died before its checkpoint: what it kept is not kept twice."""
    asked = Asked()
    mine = owner(world(errands=asked), events_end=2)
    mine.take_event(0, claimed("a", 0), 0)
    mine.take_event(1, Deferred("a", 0, 1, Reason.RETRY, due=2_000_000), 0)
    envelope = Envelope(task_type="f", task_id="a", origin=Origin(Lane.NORMAL, 0, 0))
    mine.take_record(0, "key", encode(DeferredRecord(envelope, 1, 1, Reason.RETRY, due=2_000_000)))
    assert (mine.checkpoint().deferred, mine.checkpoint().start) == (0, 0)
    mine.take_command(command("a", 0))
    assert mine.next(Lane.NORMAL) is None
    assert (mine.checkpoint().deferred, mine.checkpoint().start) == (1, 2)
    assert mine.checkpoint().lanes[Lane.NORMAL] == (1, ())
    assert (asked.kept, asked.tombstones) == ([], [])
