"""The fold: whatever is in the log, in whatever order it got there, a task has one outcome."""

from collections import defaultdict
from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.offsets import Checkpoint, Offsets
from mayfly.events import Claimed, Deferred, Event, Finished, Reason, decode_event
from mayfly.fold import Fold
from mayfly.steps import Claim, Done, Held, next_step
from mayfly.task import (
    MAX_TIMEOUT_SECONDS,
    NO_FENCE,
    NOTHING,
    BlobRef,
    Envelope,
    Failure,
    FailureType,
    Lane,
    Log,
    Outcome,
    Position,
    Result,
    decode_envelope,
    encode,
)

TASKS = ["a", "b"]
COMMAND = {task: Position(Lane.NORMAL, offset) for offset, task in enumerate(TASKS)}


def claimed(
    task: str, *, follows: int = NO_FENCE, attempt: int = 1, by: str = "d1", losses: int = 0
) -> Claimed:
    lane, offset = COMMAND[task]
    return Claimed(task, lane, offset, attempt, by, nonce="n", follows=follows, losses=losses)


def finished(task: str, fence: int, attempt: int = 1) -> Finished:
    return Finished(task, fence, attempt, Outcome(started_at=0, finished_at=1))


def nothing_done(_: Position) -> bool:
    return False


def test_the_first_claim_counts_and_a_second_that_follows_nothing_is_void() -> None:
    fold = Fold(nothing_done)
    assert fold.apply(10, claimed("a"))
    assert not fold.apply(11, claimed("a", by="d2"))
    state = fold.get("a")
    assert state is not None
    assert (state.fence, state.holder, state.attempt, state.terminal) == (10, "d1", 1, False)


def test_a_claim_that_names_the_current_fence_takes_over_and_counts_a_loss() -> None:
    fold = Fold(nothing_done)
    fold.apply(10, claimed("a"))
    assert fold.apply(12, claimed("a", follows=10, attempt=2, by="d2", losses=1))
    state = fold.get("a")
    assert state is not None
    assert (state.fence, state.holder, state.attempt, state.losses, state.first) == (12, "d2", 2, 1, 10)
    (lost,) = state.history
    assert (lost.attempt, lost.fence, lost.dispatcher) == (1, 10, "d1")
    assert lost.failure is not None
    assert lost.failure.type is FailureType.LOST


def test_an_outcome_under_a_stale_fence_is_void() -> None:
    fold = Fold(nothing_done)
    fold.apply(10, claimed("a"))
    fold.apply(12, claimed("a", follows=10, attempt=2, by="d2"))
    assert not fold.apply(13, finished("a", 10))
    assert fold.apply(14, finished("a", 12, 2))


def test_nothing_counts_after_the_outcome() -> None:
    fold = Fold(nothing_done)
    fold.apply(10, claimed("a"))
    fold.apply(11, finished("a", 10))
    assert not fold.apply(12, finished("a", 10))
    assert not fold.apply(13, claimed("a", follows=10, attempt=2))
    assert not fold.apply(14, claimed("a"))


def test_a_claim_for_a_task_that_is_not_known_is_void_when_its_command_is_done() -> None:
    fold = Fold(lambda position: position == COMMAND["a"])
    assert not fold.apply(10, claimed("a"))
    assert fold.apply(11, claimed("b"))


def test_an_outcome_without_a_claim_is_void() -> None:
    assert not Fold(nothing_done).apply(10, finished("a", NO_FENCE))


def test_a_task_that_is_not_terminal_is_not_forgotten() -> None:
    fold = Fold(nothing_done)
    fold.apply(10, claimed("a"))
    fold.forget("a")
    assert fold.get("a") is not None
    fold.apply(11, finished("a", 10))
    fold.forget("a")
    assert fold.get("a") is None


def test_first_is_the_oldest_event_that_the_fold_still_needs() -> None:
    fold = Fold(nothing_done)
    assert fold.first is None
    fold.apply(10, claimed("a"))
    fold.apply(11, claimed("b"))
    fold.apply(12, claimed("a", follows=10, attempt=2))
    assert fold.first == 10
    fold.apply(13, finished("a", 12, 2))
    fold.forget("a")
    assert fold.first == 11


def test_a_command_is_claimed_once_held_while_it_runs_and_done_at_the_end() -> None:
    fold = Fold(nothing_done)
    assert next_step(fold.get("a")) == Claim(follows=NO_FENCE, attempt=1, losses=0)
    fold.apply(10, claimed("a"))
    takeover = Claim(follows=10, attempt=2, losses=1, state=fold.get("a"))
    assert next_step(fold.get("a")) == Held("d1", 10, takeover)
    fold.apply(11, finished("a", 10))
    assert next_step(fold.get("a")) == Done()


def test_a_tasks_history_quotes_only_so_much_of_a_failure() -> None:
    """A hundred attempts are to fit one record of the log."""
    fold = Fold(nothing_done)
    fold.apply(10, claimed("a"))
    failure = Failure(FailureType.ERROR, "x" * 4000, error="E" * 4000, traceback="t")
    fold.apply(11, Deferred("a", 10, 1, Reason.RETRY, 0, Outcome(0, 1, failure=failure)))
    state = fold.get("a")
    assert state is not None
    (kept,) = state.history
    assert kept.failure == Failure(FailureType.ERROR, "x" * 200, error="E" * 200)


# --- properties ---------------------------------------------------------------------------------------------


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """What dispatchers that lag, die and come back may append: events under any fence that there ever was."""
    log: list[Event] = []
    fences: dict[str, list[int]] = {task: [NO_FENCE] for task in TASKS}
    for offset in range(draw(st.integers(0, 25))):
        task = draw(st.sampled_from(TASKS))
        fence = draw(st.sampled_from(fences[task]))
        if draw(st.booleans()):
            log.append(claimed(task, follows=fence, attempt=len(fences[task]), by=f"d{offset}"))
            fences[task].append(offset)
        else:
            log.append(finished(task, fence))
    return log


def outcomes(log: list[Event]) -> dict[str, list[int]]:
    """The offsets of the outcomes that count, by task."""
    fold = Fold(nothing_done)
    counted = defaultdict(list)
    for offset, event in enumerate(log):
        if fold.apply(offset, event) and isinstance(event, Finished):
            counted[event.task_id].append(offset)
    return counted


@given(logs())
def test_any_log_gives_each_task_at_most_one_outcome(log: list[Event]) -> None:
    assert all(len(offsets) == 1 for offsets in outcomes(log).values())


@given(logs(), st.data())
def test_what_comes_later_never_changes_an_outcome(log: list[Event], data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(log)))
    assert outcomes(log[:end]).items() <= outcomes(log).items()


blobs = st.builds(BlobRef, st.text(), st.integers(0, 2**40), st.text())
inlines = st.sampled_from([NOTHING, msgspec.Raw(b"null"), msgspec.Raw(b'{"a":[1,2.5,"x"]}')])
times = st.integers(0, 2**45)


@given(
    st.builds(
        Outcome,
        started_at=times,
        finished_at=times,
        result=st.none() | st.builds(Result, blobs, st.text(), inlines),
        failure=st.none() | st.builds(Failure, st.sampled_from(FailureType), st.text(), traceback=st.text()),
        log=st.none() | st.builds(Log, blobs, st.integers(0)),
    )
)
def test_an_outcome_survives_the_wire(outcome: Outcome) -> None:
    event = Finished("a", 7, 2, outcome)
    assert decode_event(encode(event)) == event


@given(logs())
def test_events_survive_the_wire(log: list[Event]) -> None:
    assert [decode_event(encode(event)) for event in log] == log


@given(
    st.builds(
        Envelope,
        task_type=st.text(),
        task_id=st.just("01a20d95-a793-7451-bb42-c188ec8c0cdd"),
        payload=inlines,
        content_type=st.text(),
        name=st.none() | st.text(),
        timeout_seconds=st.none() | st.floats(0.1, MAX_TIMEOUT_SECONDS),
        tags=st.lists(st.text()).map(tuple),
    )
)
def test_an_envelope_survives_the_wire(envelope: Envelope) -> None:
    assert decode_envelope(encode(envelope), topic="t", partition=0, offset=0) == envelope


@dataclass
class Owner:
    """An owner of the partition as it acts on the fold: it reads, forgets, and takes checkpoints."""

    checkpoint: Checkpoint
    counted: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.offsets = Offsets(self.checkpoint)
        self.fold = Fold(self.offsets.is_done)
        self.end = self.checkpoint.start
        self.read_commands = [task for task in TASKS if self.offsets.read(COMMAND[task])]

    def read(self, log: list[Event], until: int) -> None:
        for offset in range(self.end, until):
            event = log[offset]
            if self.fold.apply(offset, event) and isinstance(event, Finished):
                self.counted[event.task_id].append(offset)
        self.end = until

    def settle(self) -> None:
        """Mark done what is terminal, and forget it: at any moment, in any order with reading."""
        for task in list(self.read_commands):
            if next_step(self.fold.get(task)) == Done():
                self.offsets.done(COMMAND[task])
                self.fold.forget(task)
                self.read_commands.remove(task)

    def take_checkpoint(self) -> Checkpoint:
        first = self.fold.first
        taken = self.offsets.checkpoint(self.end if first is None else first, 0, self.fold.resumed)
        return Checkpoint.decode(taken.encode())


@settings(max_examples=400)
@given(logs(), st.data())
def test_owners_that_restart_from_any_earlier_checkpoint_agree_on_the_outcomes(
    log: list[Event], data: st.DataObject
) -> None:
    truth = outcomes(log)
    owner, checkpoints = Owner(Checkpoint()), [Checkpoint()]
    restarts = 0
    while owner.end < len(log):
        owner.read(log, owner.end + 1)
        if data.draw(st.booleans()):
            owner.settle()
            checkpoints.append(owner.take_checkpoint())
        if restarts < 5 and data.draw(st.integers(0, 9)) == 0:
            restarts += 1
            owner = Owner(data.draw(st.sampled_from(checkpoints)))
    owner.settle()
    for task, counted in owner.counted.items():
        assert counted == truth[task], "an owner counted an outcome that the log does not have"
    for task in TASKS:
        position = COMMAND[task]
        assert owner.offsets.is_done(position) == (task in truth), "done means that an outcome counted"
