"""The fold: what a partition's events, in the order of the log, make of its tasks. It alone decides.

Pure: no I/O, no clock. Every owner of a partition that starts from a committed checkpoint comes to the same
state, so nothing has to be agreed on by any other way.

A task that waits needs no event for it: once its owner has read its deferred record back, the record is its
state (it *backs* the task), and the log may go on without it. What brings such a task back, and on which of
its traces a new owner may rely, is written in `docs/protocol.md` and checked by `tests/model`.
"""

import enum
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from mayfly.events import (
    Attempt,
    CancelRequested,
    Claimed,
    Deferred,
    DeferredRecord,
    Event,
    Finished,
    Purpose,
    Reason,
)
from mayfly.task import NO_FENCE, Failure, FailureType, Lane, Outcome, Position

HISTORY_CHARS: Final = 200
"""Of each failure's message in a task's history: a hundred attempts are to fit one record of the log."""


class Phase(enum.Enum):
    """Where a task is, and what moves it on."""

    ASKED = "asked"
    """No claim yet, but its end was asked for. Its owner's claim moves it on."""
    CLAIMED = "claimed"
    """Its holder's `Finished` or `Deferred` moves it on, or another claim that names its fence."""
    WAITING = "waiting"
    """A claim that names its fence moves it on."""
    TERMINAL = "terminal"


class Resumed(NamedTuple):
    """A claim that took a task out of its record, by its offset; and whether its end had been asked for."""

    claim: int
    cancelled: bool = False


class TaskState(msgspec.Struct, frozen=True):
    """What a task's events so far amount to. A task that no event has counted for has no state."""

    phase: Phase
    fence: int
    """Of a task that is claimed, the offset of that claim; of one that waits, that of what let it wait."""
    attempt: int
    """Attempts begun."""
    holder: str
    first: int | None
    """Offset of the first event that is needed to come to this state; None for a task that a record backs."""
    command: Position | None = None
    """The command that its last claim named."""
    started_at: int = 0
    """When its claim was appended, milliseconds since 1970."""
    losses: int = 0
    """How many attempts were lost with their infrastructure."""
    cancelled: bool = False
    """Whether its end was asked for."""
    purpose: Purpose = Purpose.RUN
    group: str | None = None
    image: str | None = None
    history: tuple[Attempt, ...] = ()
    """The attempts that are over."""
    reason: Reason | None = None
    due: int = 0
    """Of a task that waits: why, and until when."""
    record: str | None = None
    """Key of the record that backs it while it waits."""
    stale: str | None = None
    """Key of the record that it came out of, until that one is gone."""
    resumed: Resumed | None = None
    """The claim that took it out of its record."""
    failure: Failure | None = None
    """Of a task that ended without a result: why."""
    ended_at: int = 0
    """Of a task that is terminal: when, milliseconds since 1970."""

    @property
    def terminal(self) -> bool:
        return self.phase is Phase.TERMINAL

    @property
    def failed(self) -> bool:
        """Whether it is a dead letter."""
        return self.failure is not None and self.failure.type is not FailureType.CANCELLED

    @property
    def runs(self) -> bool:
        return self.phase is Phase.CLAIMED and self.purpose is Purpose.RUN


class Fold:
    """One partition's tasks. `apply` in log order; whatever it answers is what every other fold answers.

    `is_done` tells whether a command is done by the checkpoint that this fold started from or has come to:
    a first claim for a task that the fold does not know counts only if its command is not. `resumed` are the
    claims of that checkpoint which took a task out of a record that may be gone since.
    """

    def __init__(self, is_done: Callable[[Position], bool], resumed: Iterable[Resumed] = ()) -> None:
        self._is_done = is_done
        self._resumed = {one.claim: one for one in resumed}
        # Insertion order is the order of `first`, and a task keeps its place when its state is replaced.
        self._tasks: OrderedDict[str, TaskState] = OrderedDict()
        self._backed: dict[str, TaskState] = {}
        self._came_out: dict[str, Resumed] = {}
        self.running: Counter[str] = Counter()
        """How many attempts run, by the group whose limit they count against."""
        self.resumed_in: Counter[Lane] = Counter()
        """How many claims took a task out of its record, by the lane of the command that they named."""

    def __len__(self) -> int:
        return len(self._tasks) + len(self._backed)

    def get(self, task_id: str) -> TaskState | None:
        return self._tasks.get(task_id) or self._backed.get(task_id)

    @property
    def first(self) -> int | None:
        """The first event of the tasks that need one, or None if none does."""
        return next(iter(self._tasks.values())).first if self._tasks else None

    @property
    def in_the_log(self) -> list[str]:
        """The tasks that need events of theirs."""
        return list(self._tasks)

    @property
    def resumed(self) -> list[Resumed]:
        """The claims that took tasks out of their records, ascending: what a checkpoint has to list."""
        return sorted(self._came_out.values())

    @property
    def resumed_count(self) -> int:
        return len(self._came_out)

    def apply(self, offset: int, event: Event, at: int = 0) -> bool:
        """Whether the event counts; one that does not is void, and changes nothing.

        `at` is its append time, milliseconds since 1970.
        """
        state = self.get(event.task_id)
        match event:
            case Claimed():
                after = self._claim(offset, event, at, state)
            case CancelRequested():
                after = self._ask(offset, event, state)
            case _ if state is None or state.phase is not Phase.CLAIMED or event.fence != state.fence:
                after = None
            case Deferred():
                # Its own offset is the fence from here on: a takeover of the claim, which may be on its way,
                # does not end the wait that came of it.
                after = replace(
                    _ended(state, event.outcome),
                    phase=Phase.WAITING,
                    fence=offset,
                    reason=event.reason,
                    due=event.due,
                )
            case Finished():
                after = replace(
                    _ended(state, event.outcome),
                    phase=Phase.TERMINAL,
                    failure=event.outcome.failure,
                    ended_at=event.outcome.finished_at,
                )
        if after is None:
            return False
        self._put(event.task_id, state, after)
        return True

    def _claim(self, offset: int, event: Claimed, at: int, state: TaskState | None) -> TaskState | None:
        listed = None
        if state is None:
            if event.follows == NO_FENCE:
                if self._is_done(Position(event.lane, event.offset)):
                    return None
            elif (listed := self._resumed.get(offset)) is None:
                return None
        elif state.terminal or event.follows != state.fence:
            return None
        cancelled = (
            event.cancelled
            or (state is not None and state.cancelled)
            # The request may lie before it, where nothing was known of the task without its record.
            or (listed is not None and listed.cancelled)
        )
        held = state is not None and state.phase is Phase.CLAIMED
        history = event.history if state is None else state.history
        if state is not None and held and state.runs:
            history = (*history, _lost(state, at))
        from_record = listed is not None or (state is not None and state.record is not None)
        return TaskState(
            phase=Phase.WAITING if event.purpose is Purpose.DEFER else Phase.CLAIMED,
            fence=offset,
            attempt=event.attempt,
            holder=event.dispatcher,
            first=offset if state is None or state.first is None else state.first,
            command=Position(event.lane, event.offset),
            started_at=at,
            losses=event.losses,
            cancelled=cancelled,
            purpose=event.purpose,
            group=event.group,
            image=event.image,
            history=history,
            reason=event.reason,
            due=event.due,
            stale=(state.record or state.stale) if state else None,
            resumed=Resumed(offset, cancelled) if from_record else state.resumed if state else None,
        )

    def _ask(self, offset: int, event: CancelRequested, state: TaskState | None) -> TaskState | None:
        if state is None:
            if self._is_done(Position(event.lane, event.offset)):
                return None
            return TaskState(Phase.ASKED, NO_FENCE, 0, holder="", first=offset, cancelled=True)
        if state.terminal or state.cancelled:
            return None
        # From here on a task that a record backs needs the log: the record does not say this.
        return replace(state, cancelled=True, first=offset if state.first is None else state.first)

    def _put(self, task_id: str, before: TaskState | None, after: TaskState) -> None:
        if before is not None and before.runs and before.group is not None:
            self.running[before.group] -= 1
            if not self.running[before.group]:
                del self.running[before.group]
        if after.runs and after.group is not None:
            self.running[after.group] += 1
        self._stay_in(task_id, before)
        if after.resumed is not None and after.command is not None:
            self._came_out[task_id] = after.resumed
            self.resumed_in[after.command.lane] += 1
        if after.first is None:
            self._tasks.pop(task_id, None)
            self._backed[task_id] = after
        else:
            self._backed.pop(task_id, None)
            self._tasks[task_id] = after

    def _stay_in(self, task_id: str, state: TaskState | None) -> None:
        """The task came out of no record, or that is over."""
        if self._came_out.pop(task_id, None) and state is not None and state.command is not None:
            self.resumed_in[state.command.lane] -= 1

    # --- records

    def restore(self, key: str, record: DeferredRecord) -> None:
        """A record that the checkpoint vouches for: the task waits, whatever the log before it said."""
        task_id = record.envelope.task_id
        state = TaskState(
            phase=Phase.WAITING,
            fence=record.fence,
            attempt=record.attempt,
            holder="",
            first=None,
            losses=record.losses,
            cancelled=record.cancelled,
            history=record.history,
            group=record.group,
            reason=record.reason,
            due=record.due,
            record=key,
        )
        self._put(task_id, self.get(task_id), state)

    def unrestore(self, task_id: str) -> None:
        """That record is gone: the task went on."""
        self._backed.pop(task_id, None)

    def back(self, task_id: str, fence: int, key: str) -> bool:
        """A record was read back: whether it now backs the task, which waits under that fence with none."""
        state = self.get(task_id)
        if state is None or not needs_record(state) or state.fence != fence:
            return False
        # Whose end was asked for needs its events still: the record may have been written before.
        first = state.first if state.cancelled else None
        self._put(task_id, state, replace(state, record=key, first=first, resumed=None))
        return True

    def unbacked(self, task_id: str, key: str) -> None:
        """The record that the task came out of is gone for good."""
        state = self.get(task_id)
        if state is not None and state.stale == key:
            self._put(task_id, state, replace(state, stale=None))

    def forget(self, task_id: str) -> bool:
        """Drop a task that is over, unless its record is still to go; whether it did. Only for whoever knows
        that each of its commands is done."""
        state = self._tasks.get(task_id)
        # One whose end was asked for too late has no more than that request.
        over = state is not None and state.phase in (Phase.TERMINAL, Phase.ASKED)
        if state is None or not over or state.stale is not None:
            return False
        del self._tasks[task_id]
        self._stay_in(task_id, state)
        return True


def needs_record(state: TaskState) -> bool:
    """Whether the task waits, and no record backs it yet. The one that it came out of before goes first."""
    return state.phase is Phase.WAITING and state.record is None and state.stale is None


def _ended(state: TaskState, outcome: Outcome | None) -> TaskState:
    """The state with the attempt that has ended in its history, if there was one."""
    if outcome is None or not state.runs:
        return state
    failure = outcome.failure
    if failure is not None:
        error = failure.error and failure.error[:HISTORY_CHARS]
        message = failure.message[:HISTORY_CHARS]
        failure = msgspec.structs.replace(failure, message=message, error=error, traceback=None)
    over = Attempt(
        attempt=state.attempt,
        fence=state.fence,
        dispatcher=state.holder,
        image=state.image,
        started_at=outcome.started_at,
        finished_at=outcome.finished_at,
        failure=failure,
        log=outcome.log,
    )
    return replace(state, history=(*state.history, over))


def _lost(state: TaskState, at: int) -> Attempt:
    """The attempt of a claim that another one followed."""
    failure = Failure(FailureType.LOST, "its dispatcher or its sandbox was lost")
    return Attempt(
        attempt=state.attempt,
        fence=state.fence,
        dispatcher=state.holder,
        image=state.image,
        started_at=state.started_at,
        finished_at=at,
        failure=failure,
    )
