"""Who waits in records: each is released once, at its time or in its turn, and never before."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.waiting import ENDS, Room, Share, Waiting, WaitingRoom
from mayfly.events import DeferredRecord, Reason
from mayfly.placement import Limit
from mayfly.task import Envelope, Lane, Origin, encode

ONE = Limit("f", 1)


def add(
    room: WaitingRoom,
    task: str,
    *,
    due: int = 0,
    fence: int = 0,
    limit: Limit | None = None,
    reason: Reason | None = None,
    expires: int | None = None,
    attempt: int = 0,
    lane: Lane = Lane.LOW,
) -> None:
    reason = reason or (Reason.LIMIT if limit else Reason.SCHEDULE)
    envelope = Envelope("f", task, origin=Origin(lane, 0, 0))
    record = DeferredRecord(envelope, fence, attempt, reason, due)
    room.add(Waiting(task, f"{task}/{fence}", fence, encode(record), limit), record, expires)


def at_most(room: WaitingRoom, most: int, shares: Sequence[Share] = (*Lane, ENDS)) -> Room:
    """Room for so many more, of these shares."""
    before = room.released
    return lambda share: most - (room.released - before) if share in shares else 0


def due(room: WaitingRoom, now: int, most: int = 100, **shares: Sequence[Share]) -> list[str]:
    return [one.task_id for one in room.due(now, at_most(room, most, **shares))]


def turns(room: WaitingRoom, places: int, most: int = 100, **shares: Sequence[Share]) -> list[str]:
    return [one.task_id for one in room.turns(lambda _: places, at_most(room, most, **shares))]


def next_time(room: WaitingRoom, most: int = 100, **shares: Sequence[Share]) -> int | None:
    return room.next_time(at_most(room, most, **shares))


@pytest.fixture
def room() -> WaitingRoom:
    return WaitingRoom()


def test_a_task_is_released_when_it_is_due_and_only_once(room: WaitingRoom) -> None:
    add(room, "a", due=10)
    assert next_time(room) == 10
    assert due(room, 9) == []
    assert due(room, 10) == ["a"]
    assert due(room, 11) == []
    assert room.released == 1
    room.remove("a")
    assert room.released == 0


def test_no_more_are_released_than_may_be_and_the_rest_in_time(room: WaitingRoom) -> None:
    for number in range(5):
        add(room, f"t{number}", due=number)
    assert due(room, 10, most=2) == ["t0", "t1"]
    assert due(room, 10, most=2) == ["t2", "t3"]


def test_a_task_that_waits_again_is_released_by_its_new_time(room: WaitingRoom) -> None:
    add(room, "a", due=5, fence=1)
    room.remove("a")
    add(room, "a", due=50, fence=2)
    assert due(room, 10) == []
    assert due(room, 50) == ["a"]


def test_a_task_that_expires_is_released_before_its_time(room: WaitingRoom) -> None:
    add(room, "a", due=100, expires=20)
    add(room, "turn", limit=ONE, expires=30)
    assert next_time(room) == 20
    assert due(room, 20) == ["a"]
    assert due(room, 30) == ["turn"]
    assert due(room, 100) == []
    assert turns(room, 1) == []


def test_a_task_that_has_begun_expires_no_more(room: WaitingRoom) -> None:
    add(room, "a", due=100, expires=20, attempt=1)
    assert due(room, 50) == []


def test_a_task_that_is_hurried_is_released_whatever_it_waits_for(room: WaitingRoom) -> None:
    add(room, "a", due=100)
    add(room, "b", limit=ONE)
    room.hurry("a")
    room.hurry("b")
    room.hurry("nobody")
    assert next_time(room) == 0
    assert due(room, 0, most=0) == []
    assert due(room, 0) == ["a", "b"]


def test_as_many_have_their_turn_as_there_are_places_in_their_order(room: WaitingRoom) -> None:
    for number in range(4):
        add(room, f"t{number}", limit=ONE)
    assert turns(room, 2) == ["t0", "t1"]
    assert turns(room, 2) == [], "nothing was freed since"
    room.freed("f")
    assert turns(room, 1) == ["t2"]
    assert room.released_of("f") == 3
    room.remove("t0")
    assert room.released_of("f") == 2


def test_a_group_whose_turn_was_cut_short_is_looked_at_again(room: WaitingRoom) -> None:
    for number in range(3):
        add(room, f"t{number}", limit=ONE)
    assert turns(room, 5, most=1) == ["t0"]
    assert turns(room, 5, most=0) == []
    assert turns(room, 5) == ["t1", "t2"]
    assert not room.waits("f")


def test_a_group_does_not_wait_behind_another_that_has_no_place(room: WaitingRoom) -> None:
    add(room, "a", limit=ONE)
    add(room, "b", limit=Limit("g", 1))
    assert [one.task_id for one in room.turns(lambda one: one.task_id == "b", lambda _: 9)] == ["b"]


def test_one_that_waits_no_more_is_passed_over(room: WaitingRoom) -> None:
    add(room, "a", limit=ONE)
    add(room, "b", limit=ONE)
    room.remove("a")
    assert turns(room, 1) == ["b"]


def test_all_groups_are_looked_at_again_when_limits_change(room: WaitingRoom) -> None:
    add(room, "a", limit=ONE)
    assert turns(room, 0) == []
    assert turns(room, 1) == []
    room.all_may_be_ready()
    assert turns(room, 1) == ["a"]


def test_who_waits_for_a_turn_without_a_limit_any_more_is_due(room: WaitingRoom) -> None:
    add(room, "a", reason=Reason.LIMIT)
    assert due(room, 0) == ["a"]


def test_a_lane_without_room_holds_back_no_other(room: WaitingRoom) -> None:
    add(room, "low", due=1)
    add(room, "high", due=2, lane=Lane.HIGH)
    add(room, "low turn", limit=ONE)
    add(room, "high turn", limit=Limit("g", 1), lane=Lane.HIGH)
    assert next_time(room, shares=[Lane.HIGH]) == 2
    assert due(room, 5, shares=[Lane.HIGH]) == ["high"]
    assert turns(room, 1, shares=[Lane.HIGH]) == ["high turn"]
    assert next_time(room, shares=[Lane.HIGH]) is None
    assert due(room, 5) == ["low"]
    assert turns(room, 1) == ["low turn"]


def test_what_is_to_end_has_places_of_its_own_and_those_of_its_lane(room: WaitingRoom) -> None:
    for task in ("a", "b"):
        add(room, task, due=100)
        room.hurry(task)
    add(room, "late", due=100, expires=5)
    assert next_time(room, shares=[ENDS]) == 0
    assert due(room, 10, most=1, shares=[ENDS]) == ["a"]
    assert room.released_in[ENDS] == 1
    assert due(room, 10, shares=[Lane.HIGH]) == []
    assert due(room, 10, shares=[Lane.LOW]) == ["b", "late"]
    assert room.released_in[Lane.LOW] == 2
    for task in ("a", "b", "late"):
        room.remove(task)
    assert not any(room.released_in.values())


def test_a_group_whose_first_has_no_room_in_its_lane_keeps_its_order(room: WaitingRoom) -> None:
    add(room, "low", limit=ONE)
    add(room, "high", limit=ONE, lane=Lane.HIGH)
    assert turns(room, 2, shares=[Lane.HIGH]) == []
    assert turns(room, 2, shares=[Lane.LOW]) == ["low"]
    assert turns(room, 1, shares=[Lane.LOW]) == []
    assert turns(room, 1, shares=[Lane.HIGH]) == ["high"]
    room.all_may_be_ready()
    assert not room.waits("f")


def test_what_waits_no_more_takes_no_room_for_ever(room: WaitingRoom) -> None:
    """A schedule of a year, cancelled, would stand there for a year."""
    for number in range(20_000):
        add(room, f"t{number}", due=10**12, expires=10**13, fence=number)
        room.remove(f"t{number}")
    assert sum(map(len, room._due.values())) < 3_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "release", "turns", "hurry"]),
            st.integers(0, 4),
            st.integers(0, 20),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_whoever_waits_is_released_in_the_end_exactly_once(steps: list[tuple[str, int, int, bool]]) -> None:
    room, now, released, fence = WaitingRoom(), 0, [], 0
    waits: dict[str, int] = {}
    for what, number, time, limited in steps:
        task = f"t{number}"
        if what == "add" and task not in waits:
            fence += 1
            waits[task] = now + time
            add(room, task, due=waits[task], fence=fence, limit=ONE if limited else None)
        elif what == "remove" and waits.pop(task, None) is not None:
            room.remove(task)
            released = [one for one in released if one != task]
        elif what == "hurry":
            room.hurry(task)
        else:
            now += time
            found = due(room, now, most=2) if what == "release" else turns(room, number, most=2)
            released += found
    released += due(room, 10**9)
    while found := turns(room, 99):
        released += found
        room.all_may_be_ready()
    room.all_may_be_ready()
    released += turns(room, 99)
    assert sorted(released) == sorted(waits)
    assert room.released == len(waits)
    for task in waits:
        room.remove(task)
    assert room.released == room.released_of("f") == 0
