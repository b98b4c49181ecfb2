"""Lanes share the slots by weight, and an idle lane's share is borrowed."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from owner_world import command, owner

from dispatcher.scheduler import LaneShares, Scheduler
from mayfly.events import Claimed, Finished
from mayfly.task import NO_FENCE, Lane, Outcome


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
