"""Who waits in records: each is released once, at its time or in its turn, and never before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.waiting import Waiting, WaitingRoom
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
) -> None:
    reason = reason or (Reason.LIMIT if limit else Reason.SCHEDULE)
    envelope = Envelope("f", task, origin=Origin(Lane.LOW, 0, 0))
    record = DeferredRecord(envelope, fence, attempt, reason, due)
    room.add(Waiting(task, f"{task}/{fence}", fence, encode(record), limit), record, expires)


def due(room: WaitingRoom, now: int, most: int = 100) -> list[str]:
    return [one.task_id for one in room.due(now, most)]


def turns(room: WaitingRoom, places: int, most: int = 100) -> list[str]:
    return [one.task_id for one in room.turns(lambda _: places, most)]


@pytest.fixture
def room() -> WaitingRoom:
    return WaitingRoom()


def test_a_task_is_released_when_it_is_due_and_only_once(room: WaitingRoom) -> None:
    add(room, "a", due=10)
    assert room.next_time == 10
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
    assert room.next_time == 20
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
    assert room.next_time == 0
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
    assert [one.task_id for one in room.turns(lambda one: one.task_id == "b", 9)] == ["b"]


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


def test_what_waits_no_more_takes_no_room_for_ever(room: WaitingRoom) -> None:
    """A schedule of a year, cancelled, would stand there for a year."""
    for number in range(20_000):
        add(room, f"t{number}", due=10**12, expires=10**13, fence=number)
        room.remove(f"t{number}")
    assert len(room._due) < 3_000
    assert len(room._expiries) < 3_000


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
