"""How many requests are begun in a round of the gateway's loop."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway.pace import LEAST, MOST, ROUND_SECONDS, Pace


def begin(pace: Pace, wanted: int) -> int:
    return sum(pace.begins() for _ in range(wanted))


def test_a_gateway_with_time_refuses_nobody():
    pace = Pace()
    for _ in range(100):
        assert begin(pace, 1000) == 1000
        pace.look(ROUND_SECONDS / 2)
    assert pace.refused == 0


@given(cost=st.floats(0.0001, 0.003), wanted=st.integers(500, MOST))
def test_a_round_comes_down_to_what_there_is_time_for_and_stays_there(cost, wanted):
    pace = Pace()
    work = 0.0
    for number in range(200):
        begun = begin(pace, wanted)
        # What is begun in a round is done in the next one.
        pace.look(work)
        work = begun * cost
        if number > 10:
            assert work <= max(ROUND_SECONDS * 9 / 8 * 9 / 8, LEAST * cost), (number, begun)


@given(st.lists(st.tuples(st.integers(0, 2 * MOST), st.floats(0, 60)), max_size=50))
def test_some_are_always_let_in_and_it_opens_again(rounds):
    pace = Pace()
    for wanted, worked in rounds:
        assert begin(pace, wanted) >= min(wanted, LEAST)
        pace.look(worked)
    for _ in range(60):
        pace.look(0.0)
    assert begin(pace, MOST) == MOST


async def test_it_looks_by_itself():
    pace = Pace()
    pace.follow(asyncio.get_running_loop())
    pace.begins()
    async with asyncio.timeout(60):
        while pace.begun:
            await asyncio.sleep(0.01)
