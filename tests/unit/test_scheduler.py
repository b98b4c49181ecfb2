"""Lanes share the slots by weight, and an idle lane's share is borrowed."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.scheduler import LaneShares
from mayfly.task import Lane


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
