"""Lanes share the slots by weight, and an idle lane's share is borrowed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from owner_world import command, owner
from shared_log import Owner, SharedLog

from dispatcher.offsets import MAX_RESUMED
from dispatcher.partition import Partition
from dispatcher.scheduler import LaneShares, Scheduler
from dispatcher.work import Work
from mayfly.events import Claimed, Finished, Purpose
from mayfly.steps import Held
from mayfly.task import NO_FENCE, Lane, Outcome, Position


def test_lanes_that_are_all_busy_get_their_weights() -> None:
    shares = LaneShares()
    assert Counter(shares.turn(list(Lane)) for _ in range(1000)) == {
        Lane.HIGH: 600,
        Lane.NORMAL: 300,
        Lane.LOW: 100,
    }


def test_a_lane_that_is_alone_gets_everything() -> None:
    shares = LaneShares()
    assert {shares.turn([Lane.LOW]) for _ in range(100)} == {Lane.LOW}


def test_an_idle_lanes_share_goes_to_the_others_by_their_weights() -> None:
    shares = LaneShares()
    counts = Counter(shares.turn([Lane.NORMAL, Lane.LOW]) for _ in range(400))
    assert counts == {Lane.NORMAL: 300, Lane.LOW: 100}


@given(st.lists(st.sets(st.sampled_from(Lane), min_size=1).map(sorted), min_size=1, max_size=200))
def test_a_lane_with_work_waits_no_longer_than_its_weight_allows(turns: list[list[Lane]]) -> None:
    """Whatever the others do: within 100 / weight turns of its own having work, give or take one."""
    shares = LaneShares()
    waited = Counter[Lane]()
    for with_work in turns:
        winner = shares.turn(with_work)
        assert winner in with_work
        for lane in with_work:
            waited[lane] = 0 if lane is winner else waited[lane] + 1
            assert waited[lane] <= 2 * 100 / lane.weight + 1


async def test_a_lane_is_read_on_through_what_is_done_although_no_slot_is_free() -> None:
    """Or the read model, once flushed, would be rebuilt no further than a lane's buffer."""
    partition = owner(events_end=3)
    partition.take_event(0, Claimed("done", Lane.LOW, 0, 1, "other", "n", NO_FENCE), 0)
    partition.take_event(1, Claimed("running", Lane.LOW, 1, 1, "other", "n", NO_FENCE), 0)
    partition.take_event(2, Finished("done", 0, 1, Outcome(0, 1)), 0)
    for offset, task in enumerate(["done", "running", "queued", "behind"]):
        partition.take_command(command(task, offset, Lane.LOW))
    held_back: Any = SimpleNamespace(storing_fails=True)
    scheduler = Scheduler(1, executor=held_back, chores=held_back, liveness=held_back, interval=1)
    scheduler.partitions[partition.number] = partition
    running = asyncio.create_task(scheduler.run())
    await asyncio.sleep(0)
    await scheduler.stop(grace=0)
    await running
    assert partition.checkpoint().lanes[Lane.LOW] == (1, ())
    assert [command.task_id for command in partition.parked.values()] == ["running"]
    assert partition.buffers[Lane.LOW].popleft().task_id == "queued"


class Deadline:
    """A scheduler's world in which nothing runs for long, unless a test says so."""

    def __init__(self, slots: int = 1) -> None:
        self.now = 0.0
        self.log = SharedLog()
        self.owner = Owner(self.log)
        self.owner.read()
        self.ran: list[Work] = []
        self.chored: list[Work] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.storing_fails = False
        self.scheduler = Scheduler(
            slots,
            executor=self,  # type: ignore[arg-type]
            chores=SimpleNamespace(run=self.chore),  # type: ignore[arg-type]
            liveness=self,  # type: ignore[arg-type]
            interval=1.0,
            clock=lambda: self.now,
        )
        self.scheduler.partitions[self.owner.partition.number] = self.owner.partition

    async def run(self, partition: Partition, work: Work) -> None:
        self.ran.append(work)
        await self.ends.setdefault(work.task_id, asyncio.Event()).wait()

    async def chore(self, partition: Partition, work: Work) -> None:
        self.chored.append(work)

    def is_gone(self, held: Held, partition: int) -> bool:
        return held.holder == "gone"

    async def settle(self) -> None:
        """Until nothing more happens by itself."""
        self.scheduler.wake()
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def deadline() -> AsyncIterator[Deadline]:
    world = Deadline()
    running = asyncio.create_task(world.scheduler.run())
    yield world
    for end in world.ends.values():
        end.set()
    await world.scheduler.stop(grace=30)
    await running


async def test_a_takeover_gets_the_next_slot_however_long_the_backlog(deadline: Deadline) -> None:
    """No slot was free when the holder was found to be gone."""
    log = deadline.log
    log.claim("abandoned", log.command("abandoned"), by="gone")
    for number in range(10):
        log.command(f"t{number}")
    deadline.owner.read()
    await deadline.settle()
    deadline.scheduler.wake()
    assert [work.task_id for work in deadline.ran] == ["t0"]
    deadline.now = 1.0
    await deadline.settle()
    for _ in range(3):
        # Whatever wakes it meanwhile.
        await deadline.settle()
    deadline.ends["t0"].set()
    await deadline.settle()
    assert [work.task_id for work in deadline.ran] == ["t0", "abandoned"]
    assert deadline.ran[-1].claim.losses == 1


async def test_a_task_that_is_to_end_is_taken_over_without_a_slot(deadline: Deadline) -> None:
    log = deadline.log
    command = log.command("abandoned")
    log.claim("abandoned", command, by="gone")
    log.command("t0")
    deadline.owner.read()
    await deadline.settle()
    log.cancel("abandoned", command)
    deadline.owner.read()
    deadline.now = 1.0
    await deadline.settle()
    assert [(work.task_id, work.purpose) for work in deadline.chored] == [("abandoned", Purpose.END)]


async def test_a_takeover_that_came_too_late_is_let_be(deadline: Deadline) -> None:
    log = deadline.log
    claim = log.claim("abandoned", log.command("abandoned"), by="gone")
    log.command("t0")
    deadline.owner.read()
    await deadline.settle()
    deadline.now = 1.0
    await deadline.settle()
    log.claim("abandoned", Position(Lane.NORMAL, 0), follows=claim, by="quick")
    deadline.owner.read()
    deadline.ends["t0"].set()
    await deadline.settle()
    assert [work.task_id for work in deadline.ran] == ["t0"]


async def test_what_is_due_while_nothing_more_can_be_released_makes_no_hurry(deadline: Deadline) -> None:
    log = deadline.log
    for number in range(MAX_RESUMED + 1):
        command = log.command(f"t{number}")
        log.defer(f"t{number}", log.claim(f"t{number}", command), due=0)
    deadline.owner.read()
    deadline.owner.run_errands()
    deadline.owner.act()
    assert deadline.scheduler._pause() == 1.0


async def test_a_clock_that_is_set_back_delays_no_takeover(deadline: Deadline) -> None:
    deadline.now = 3600.0
    await deadline.settle()
    log = deadline.log
    log.claim("abandoned", log.command("abandoned"), by="gone")
    deadline.owner.read()
    deadline.now = 0.0
    for _ in range(3):
        await deadline.settle()
    assert [work.task_id for work in deadline.ran] == ["abandoned"]
