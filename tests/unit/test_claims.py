"""Claims, and what needs no attempt: each event counts only when it was read back."""

import asyncio
from collections.abc import Callable

import pytest
from owner_world import Asked, Clock, Told, command, owner, world

from dispatcher import claims as module
from dispatcher.chores import Chores
from dispatcher.claims import Claims
from dispatcher.expectations import PartitionLost
from dispatcher.intake import MAX_LOOKS
from dispatcher.repeats import Repeats
from dispatcher.work import CANCELLED, Work
from mayfly.errors import LogUnavailable, ReadModelUnavailable
from mayfly.events import CancelRequested, Claimed, Deferred, Event, Finished, Purpose, Reason, decode_event
from mayfly.fold import Phase
from mayfly.task import Failure, FailureType, Lane, Outcome, Status, keyed_id, new_task_id

DEADLINE_SECONDS = 30.0
KEYED = keyed_id("t", "k")
FAILED = Outcome(0, 1, failure=Failure(FailureType.ERROR, "no"))


class Loopback:
    """A log that is read back at once, the heartbeat's fences, and a Redis that knows what a test says."""

    def __init__(self) -> None:
        self.told, self.asked, self.clock = Told(), Asked(), Clock()
        self.partition = owner(world(self.told, self.asked, now=self.clock))
        self.events: list[Event] = []
        self.held: set[tuple[int, int]] = set()
        self.held_while_appending: list[set[tuple[int, int]]] = []
        self.before: Callable[[], None] = lambda: None
        """Happens before the next event lands."""
        self.fails = 0
        self.shown: dict[str, tuple[str | None, str | None]] = {}
        self.away: set[str] = set()
        self.looked: list[str] = []
        self.claims = Claims("me", self, self)
        self.repeats = Repeats(self, self)
        self.chores = Chores(self.claims, self.repeats)

    def land(self, event: Event) -> int:
        self.events.append(event)
        self.partition.take_event(len(self.events) - 1, event, self.clock.now)
        return len(self.events) - 1

    async def append_event(self, partition: int, task_id: str, value: bytes) -> None:
        event = decode_event(value)
        assert event is not None
        before, self.before = self.before, lambda: None
        before()
        self.held_while_appending.append(set(self.held))
        if self.fails:
            self.fails -= 1
            raise LogUnavailable("down")
        self.land(event)

    async def known(self, task_id: str) -> tuple[str | None, str | None]:
        return self._look("known", self.shown.get(task_id, (None, None)))

    async def written(self, partition: int) -> None:
        self._look("written", (None, None))

    async def intact(self, partition: int) -> None:
        self._look("intact", (None, None))

    def _look(self, what: str, answer: tuple[str | None, str | None]) -> tuple[str | None, str | None]:
        self.looked.append(what)
        if what in self.away:
            raise ReadModelUnavailable(what)
        return answer

    def work(self, task: str = "a", **fields: object) -> Work:
        self.partition.take_command(command(task, 0, **fields))
        work = self.partition.next(Lane.NORMAL)
        assert work is not None
        return work

    def chore(self, task: str = "a", **fields: object) -> Work:
        self.partition.take_command(command(task, 0, **fields))
        assert self.partition.next(Lane.NORMAL) is None
        chore = self.partition.next_chore()
        assert chore is not None
        return chore


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Loopback:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.0,))
    return Loopback()


# --- claims


async def test_a_claim_says_all_that_a_fold_needs_which_knows_nothing_of_the_task(log: Loopback) -> None:
    work = log.work()
    assert await log.claims.claim(log.partition, work, "image") == 0
    (event,) = log.events
    assert isinstance(event, Claimed)
    assert (event.lane, event.offset, event.attempt, event.dispatcher) == (Lane.NORMAL, 0, 1, "me")
    assert (event.image, event.purpose, event.history) == ("image", Purpose.RUN, ())


async def test_a_claim_that_another_came_before_has_no_fence(log: Loopback) -> None:
    work = log.work()
    log.before = lambda: log.land(Claimed("a", Lane.NORMAL, 0, 1, "other", "n")) and None
    assert await log.claims.claim(log.partition, work) is None


async def test_an_event_that_is_not_acknowledged_is_appended_again_and_the_copy_is_void(
    log: Loopback,
) -> None:
    log.fails = 2
    assert await log.claims.claim(log.partition, log.work()) == 0
    nonces = len(log.held_while_appending)
    assert nonces == 3
    log.land(log.events[0])
    state = log.partition.state("a")
    assert state is not None
    assert state.fence == 0


async def test_a_claim_that_is_read_back_is_not_appended_again(log: Loopback) -> None:
    """The acknowledgement was lost, and the event was not."""
    work = log.work()

    async def lands_and_fails(partition: int, task_id: str, value: bytes) -> None:
        event = decode_event(value)
        assert event is not None
        log.land(event)
        raise LogUnavailable("no answer")

    log.append_event = lands_and_fails  # type: ignore[method-assign]
    assert await log.claims.claim(log.partition, work) == 0
    assert len(log.events) == 1


async def test_a_claim_on_a_partition_that_was_lost_is_given_up(log: Loopback) -> None:
    log.before = log.partition.drop
    with pytest.raises(PartitionLost):
        await log.claims.claim(log.partition, log.work())


async def test_the_fence_is_in_the_heartbeat_while_it_is_held(log: Loopback) -> None:
    fence = await log.claims.claim(log.partition, log.work())
    assert fence is not None
    with log.claims.holding(log.partition, fence):
        assert log.held == {(log.partition.number, fence)}
        await log.claims.finish(log.partition, "a", fence, 1, Outcome(0, 1))
        assert log.held_while_appending[-1] == {(log.partition.number, fence)}
    assert not log.held


async def test_an_outcome_is_written_although_the_partition_was_lost(log: Loopback) -> None:
    """The fence is still ours: its new owner counts it."""
    fence = await log.claims.claim(log.partition, log.work())
    assert fence is not None
    log.fails = 3
    log.before = log.partition.drop
    with pytest.raises(PartitionLost):
        await log.claims.finish(log.partition, "a", fence, 1, Outcome(0, 1))
    assert isinstance(log.events[-1], Finished)


async def test_an_outcome_that_another_claim_came_before_does_not_count(log: Loopback) -> None:
    fence = await log.claims.claim(log.partition, log.work())
    assert fence is not None
    log.before = lambda: log.land(Claimed("a", Lane.NORMAL, 0, 2, "other", "n", fence)) and None
    assert not await log.claims.finish(log.partition, "a", fence, 1, Outcome(0, 1))


async def test_a_task_is_let_wait_with_what_became_of_its_attempt(log: Loopback) -> None:
    fence = await log.claims.claim(log.partition, log.work())
    assert fence is not None
    assert await log.claims.defer(log.partition, "a", fence, 1, reason=Reason.RETRY, due=99, outcome=FAILED)
    state = log.partition.state("a")
    assert state is not None
    assert (state.phase, state.due, state.fence) == (Phase.WAITING, 99, 1)
    assert [attempt.failure and attempt.failure.type for attempt in state.history] == [FailureType.ERROR]


async def test_a_claim_out_of_a_wait_carries_the_attempts_that_are_over(log: Loopback) -> None:
    """Whether a record backs it or not: another fold may know of that record alone."""
    log.land(Claimed("a", Lane.NORMAL, 0, 1, "other", "n"))
    log.land(Deferred("a", 0, 1, Reason.RETRY, 0, FAILED))
    work = log.work(releases=1)
    await log.claims.claim(log.partition, work)
    claim = log.events[-1]
    assert isinstance(claim, Claimed)
    assert (claim.follows, claim.attempt, len(claim.history)) == (1, 2, 1)


# --- chores


async def test_a_task_whose_time_has_not_come_waits_by_one_event(log: Loopback) -> None:
    chore = log.chore(delay_seconds=10**9)
    await log.chores.run(log.partition, chore)
    (event,) = log.events
    assert isinstance(event, Claimed)
    assert (event.purpose, event.reason, event.attempt) == (Purpose.DEFER, Reason.SCHEDULE, 0)
    assert event.due == 10**12
    log.partition.pass_over()
    (record,) = log.asked.kept
    assert (record.fence, record.due, record.attempt) == (0, 10**12, 0)
    assert log.partition.next_chore() is None


async def test_a_task_that_has_expired_is_ended_without_an_attempt(log: Loopback) -> None:
    await log.chores.run(log.partition, log.chore(ttl_seconds=1.0))
    claim, end = log.events
    assert isinstance(claim, Claimed)
    assert isinstance(end, Finished)
    assert (claim.purpose, claim.attempt) == (Purpose.END, 0)
    assert end.outcome.failure is not None
    assert end.outcome.failure.type is FailureType.EXPIRED
    assert log.told.changes == [("a", Status.FAILED)]
    assert not log.held
    assert [letter.task_id for letter in log.asked.letters] == ["a"]


async def test_a_task_that_is_cancelled_in_its_lane_is_ended(log: Loopback) -> None:
    log.partition.take_command(command("a", 0))
    log.land(CancelRequested("a", Lane.NORMAL, 0))
    log.partition.release()
    chore = log.partition.next_chore()
    assert chore is not None
    await log.chores.run(log.partition, chore)
    end = log.events[-1]
    assert isinstance(end, Finished)
    assert end.outcome.failure == CANCELLED
    log.partition.release()
    assert log.partition.next(Lane.NORMAL) is None
    assert log.partition.next_chore() is None
    assert log.partition.checkpoint().lanes[Lane.NORMAL] == (1, ())


async def test_a_chore_that_another_claim_came_before_is_over(log: Loopback) -> None:
    chore = log.chore(ttl_seconds=1.0)
    log.before = lambda: log.land(Claimed("a", Lane.NORMAL, 0, 1, "other", "n")) and None
    await log.chores.run(log.partition, chore)
    log.partition.pass_over()
    assert log.partition.next_chore() is None
    assert [parked.task_id for parked in log.partition.parked.values()] == ["a"]


async def test_a_chore_of_a_partition_that_was_lost_is_over(log: Loopback) -> None:
    chore = log.chore(ttl_seconds=1.0)
    log.before = log.partition.drop
    await log.chores.run(log.partition, chore)
    assert not log.held


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_chore_that_breaks_is_tried_again_in_a_while_and_not_at_once(
    cancelled: bool, log: Loopback
) -> None:
    if cancelled:
        # Its command is still to be read.
        log.land(CancelRequested("a", Lane.NORMAL, 0))
        log.partition.release()
        chore = log.partition.next_chore()
        assert chore is not None
    else:
        chore = log.chore(ttl_seconds=1.0)

    async def broken(partition: int, task_id: str, value: bytes) -> None:
        raise RuntimeError("a bug")

    log.append_event = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        await log.chores.run(log.partition, chore)
    log.partition.release()
    log.partition.pass_over()
    assert log.partition.next_chore() is None
    assert list(log.partition.held()) == []
    log.partition.release()
    log.partition.pass_over()
    assert log.partition.next_chore() is not None


# --- repeats


async def test_a_task_that_cannot_come_again_is_claimed_without_asking(log: Loopback) -> None:
    assert await log.repeats.may_claim(log.partition, log.work(new_task_id()))
    assert not log.looked


async def test_a_task_that_may_come_again_is_claimed_if_redis_knows_of_no_claim(log: Loopback) -> None:
    log.shown[KEYED] = ("QUEUED", None)
    assert await log.repeats.may_claim(log.partition, log.work(KEYED, repeatable=True))
    assert log.looked == ["written", "known", "intact"], "a flush in between must show"


async def test_a_task_that_has_come_and_gone_is_done(log: Loopback) -> None:
    log.land(Claimed("b", Lane.LOW, 0, 1, "other", "n"))
    log.shown[KEYED] = ("COMPLETED", "0")
    work = log.work(KEYED, repeatable=True)
    assert not await log.repeats.may_claim(log.partition, work)
    assert work.command is not None
    log.partition.put_back(work.command)
    assert log.partition.checkpoint().lanes[Lane.NORMAL] == (1, ())


async def test_a_claim_that_redis_knows_and_the_fold_has_not_read_yet_is_waited_for(log: Loopback) -> None:
    """Another told it, who had the partition before: the task has not come and gone, it runs."""
    log.shown[KEYED] = ("IN_PROGRESS", "0")
    work = log.work(KEYED, repeatable=True)
    assert not await log.repeats.may_claim(log.partition, work)
    assert work.command is not None
    log.partition.put_back(work.command)
    assert list(log.partition.parked.values()) == [work.command]
    log.land(Claimed(KEYED, Lane.NORMAL, 0, 1, "other", "n"))
    assert [held.holder for _, held in log.partition.held()] == ["other"]


@pytest.mark.parametrize("what", ["written", "known", "intact"])
async def test_a_task_that_may_come_again_waits_while_redis_cannot_tell(what: str, log: Loopback) -> None:
    log.away = {what}
    work = log.work(KEYED, repeatable=True)
    assert not await log.repeats.may_claim(log.partition, work)
    assert work.command is not None
    log.partition.put_back(work.command)
    assert log.partition.next(Lane.NORMAL) is None
    log.away = set()
    assert list(log.partition.held()) == []
    again = log.partition.next(Lane.NORMAL)
    assert again is not None
    assert await log.repeats.may_claim(log.partition, again)


async def test_of_many_that_wait_for_redis_one_is_tried_each_time_another(log: Loopback) -> None:
    keyed = [keyed_id("t", str(number)) for number in range(5)]
    for offset, task in enumerate(keyed):
        log.partition.take_command(command(task, offset, repeatable=True))

    async def try_all() -> list[str]:
        tried = []
        while work := log.partition.next(Lane.NORMAL):
            tried.append(work.task_id)
            if await log.repeats.may_claim(log.partition, work):
                await log.claims.claim(log.partition, work)
            assert work.command is not None
            log.partition.put_back(work.command)
        return tried

    log.away = {"written"}
    assert await try_all() == keyed
    for task in (*keyed, keyed[0]):
        assert list(log.partition.held()) == []
        assert await try_all() == [task]
    log.away = set()
    list(log.partition.held())
    assert await try_all() == [keyed[1]]
    list(log.partition.held())
    assert set(await try_all()) == {*keyed} - {keyed[1]}


async def test_those_that_wait_are_tried_although_the_one_that_is_tried_does_not_come_back(
    log: Loopback,
) -> None:
    """It may have come to wait for something else."""
    for offset in range(3):
        log.partition.take_command(command(f"t{offset}", offset))
    works = [work for _ in range(3) if (work := log.partition.next(Lane.NORMAL))]
    for work in works:
        assert work.command is not None
        log.partition.park(work.command)
    list(log.partition.held())
    assert log.partition.next(Lane.NORMAL) is not None
    for _ in range(MAX_LOOKS):
        assert log.partition.next(Lane.NORMAL) is None
        list(log.partition.held())
    assert log.partition.next(Lane.NORMAL) is not None


async def test_a_task_that_the_fold_knows_is_claimed_without_asking(log: Loopback) -> None:
    log.land(Claimed(KEYED, Lane.NORMAL, 0, 1, "other", "n"))
    log.land(Deferred(KEYED, 0, 1, Reason.RETRY))
    assert await log.repeats.may_claim(log.partition, log.work(KEYED, repeatable=True, releases=1))
    assert not log.looked


async def test_a_cancel_of_what_has_come_and_gone_ends_nothing(log: Loopback) -> None:
    log.land(Claimed("b", Lane.LOW, 0, 1, "other", "n"))
    log.shown[KEYED] = ("COMPLETED", "0")
    log.partition.take_command(command(KEYED, 0, repeatable=True))
    log.land(CancelRequested(KEYED, Lane.NORMAL, 0))
    log.partition.release()
    chore = log.partition.next_chore()
    assert chore is not None
    await log.chores.run(log.partition, chore)
    assert len(log.events) == 2
    assert log.partition.next(Lane.NORMAL) is None
    copy = log.partition.next_chore()
    assert copy is not None
    await log.chores.run(log.partition, copy)
    assert log.partition.state(KEYED) is None
    assert log.partition.checkpoint().lanes[Lane.NORMAL] == (1, ())
    async with asyncio.timeout(DEADLINE_SECONDS):
        list(log.partition.held())
        log.partition.release()
    assert log.partition.next_chore() is None
