"""The checkpoint: which commands are done, in a string that fits an offset's metadata."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.offsets import MAX_METADATA, MAX_PENDING, MAX_RESUMED, Checkpoint, LaneOffsets, Offsets
from mayfly.fold import Resumed
from mayfly.task import Lane, Position

offset_sets = st.sets(st.integers(0, 10**12), max_size=50)


@st.composite
def checkpoints(draw: st.DrawFn) -> Checkpoint:
    lanes = {}
    for lane in Lane:
        pending = tuple(sorted(draw(offset_sets)))
        lanes[lane] = (draw(st.integers(pending[-1] + 1 if pending else 0, 10**13)), pending)
    start = draw(st.integers(0, 10**13))
    resumed = tuple(Resumed(start + gap, draw(st.booleans())) for gap in sorted(draw(offset_sets)))
    return Checkpoint(start, lanes, draw(st.integers(0, 10**13)), resumed)


@given(checkpoints())
def test_a_checkpoint_survives_its_encoding(checkpoint: Checkpoint) -> None:
    assert Checkpoint.decode(checkpoint.encode()) == checkpoint


def test_no_metadata_is_the_start_of_the_log() -> None:
    assert Checkpoint.decode(None) == Checkpoint.decode("") == Checkpoint()


def test_a_checkpoint_of_the_first_version_names_no_record() -> None:
    lanes = {Lane.HIGH: (1, ()), Lane.NORMAL: (9, (3, 5)), Lane.LOW: (0, ())}
    assert Checkpoint.decode("1:2LS*H0s{g700") == Checkpoint(7, lanes)


@pytest.mark.parametrize("text", ["3:x", "2:x", "garbage", "1:", "1:0", "1:~~~~~~"])
def test_what_no_dispatcher_wrote_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Checkpoint.decode(text)


def test_as_much_as_may_be_pending_and_resumed_fits_the_metadata() -> None:
    """At a distance of two million commands, and a million events, between one and the next."""
    third = MAX_PENDING // 3 + 1
    lanes = {}
    for lane in Lane:
        pending = tuple(range(10**12, 10**12 + third * 2_000_000, 2_000_000))
        lanes[lane] = (10**13, pending)
    start = 10**12
    resumed = tuple(Resumed(start + number * 1_000_000, True) for number in range(MAX_RESUMED))
    checkpoint = Checkpoint(start, lanes, 10**12, resumed)
    assert len(checkpoint.encode()) <= MAX_METADATA
    assert Checkpoint.decode(checkpoint.encode()) == checkpoint


def test_what_was_read_and_passed_over_is_pending() -> None:
    lane = LaneOffsets()
    for offset in range(5):
        assert lane.read(offset)
    lane.done(3)
    assert (lane.base, lane.pending) == (4, {0, 1, 2})
    lane.done(1)
    assert lane.pending == {0, 2}
    assert lane.start == 0


def test_a_command_that_is_done_tells_what_is_pending_because_of_it() -> None:
    lane = LaneOffsets()
    for offset in range(4):
        lane.read(offset)
    assert lane.done(2) == [0, 1]
    assert lane.done(0) == []
    assert lane.done(3) == []


def test_an_offset_that_holds_no_command_is_never_pending() -> None:
    lane = LaneOffsets()
    lane.read(0)
    lane.read(7)
    lane.done(7)
    assert lane.pending == {0}
    assert lane.is_done(3)


def test_what_is_done_already_is_not_read_again() -> None:
    lane = LaneOffsets(base=10, pending=[4])
    assert [offset for offset in range(3, 12) if lane.read(offset)] == [4, 10, 11]


def test_reading_an_offset_twice_takes_note_of_it_once() -> None:
    lane = LaneOffsets()
    lane.read(0)
    lane.read(0)
    lane.done(0)
    assert (lane.base, lane.pending) == (1, set())


@given(
    st.lists(st.integers(0, 60), unique=True, min_size=1).map(sorted),
    st.data(),
)
def test_done_is_exactly_what_was_marked(offsets: list[int], data: st.DataObject) -> None:
    """In whatever order, and however often the lane is taken up again from a checkpoint."""
    lanes = Offsets(Checkpoint())
    marked: set[int] = set()
    for offset in offsets:
        lanes.read(Position(Lane.HIGH, offset))
    for offset in data.draw(st.permutations(offsets))[: data.draw(st.integers(0, len(offsets)))]:
        lanes.done(Position(Lane.HIGH, offset))
        marked.add(offset)
        if data.draw(st.booleans()):
            lanes = Offsets(Checkpoint.decode(lanes.checkpoint(0, 0, ()).encode()))
            for again in offsets:
                assert lanes.read(Position(Lane.HIGH, again)) == (again not in marked)
    for offset in offsets:
        assert lanes.is_done(Position(Lane.HIGH, offset)) == (offset in marked)


@given(checkpoints(), checkpoints())
def test_of_two_checkpoints_at_most_one_is_older(one: Checkpoint, other: Checkpoint) -> None:
    assert not (one.is_older(other) and other.is_older(one))
    assert not one.is_older(one)


@given(st.integers(1, 20), st.data())
def test_of_two_checkpoints_the_one_that_was_taken_first_is_older(count: int, data: st.DataObject) -> None:
    """Also where they differ by nothing but a command that was passed over, and is done now."""
    lanes = Offsets(Checkpoint())
    taken = [lanes.checkpoint(0, 0, ())]
    for offset in range(count):
        lanes.read(Position(Lane.NORMAL, offset))
    for offset in data.draw(st.permutations(range(count))):
        lanes.done(Position(Lane.NORMAL, offset))
        taken.append(lanes.checkpoint(0, 0, ()))
    assert all(before.is_older(after) for before, after in pairwise(taken))
