"""A partition's whole log, folded from its beginning: for whoever reads it all, and owns nothing.

Pure. A fold that starts at the beginning needs no checkpoint and no deferred records: every claim that counts
follows one that it has seen.

An id may have several lives: once a task was swept, its Idempotency-Key may be used anew, and the owner,
which has forgotten the first one, runs the second. An owner knows the two apart by their commands, of which
the first one's are done; who reads everything, by their times.
"""

from typing import NamedTuple

from mayfly import view
from mayfly.events import CancelRequested, Claimed, Deferred, Event, Finished, Purpose
from mayfly.fold import Fold, TaskState
from mayfly.retention import FOR_EVER, Retention
from mayfly.task import NO_FENCE


class End(NamedTuple):
    """How a life ended: the offset of the `Finished` that counted, when (ms since 1970), and whether as a
    dead letter."""

    offset: int
    at: int
    failed: bool


class History:
    """`apply` in log order. Of a task that has ended only the end is remembered."""

    def __init__(self, partition: int, retention: Retention = FOR_EVER) -> None:
        self._partition = partition
        self._retention = retention
        self._fold = Fold(lambda _: False)
        self.ended: dict[str, End] = {}
        """By id, the tasks that have ended."""
        self.before: dict[str, End] = {}
        """Of each id that was used anew, the end of the life before."""

    def apply(self, offset: int, event: Event, at: int) -> TaskState | None:
        """The task's state after an event that counts; None for one that is void.

        `at` is the event's append time, milliseconds since 1970.
        """
        task_id = event.task_id
        if (end := self.ended.get(task_id)) is not None:
            if not begins_anew(event, at, end.at, self._retention):
                return None
            self.before[task_id] = self.ended.pop(task_id)
        if not self._fold.apply(offset, event, at):
            return None
        state = self._fold.get(task_id)
        if state is not None and state.terminal:
            self._fold.forget(task_id)
            self.ended[task_id] = End(offset, state.ended_at, state.failed)
        return state

    def change(self, offset: int, event: Event, at: int) -> view.Change | None:
        """What the event makes of the task as readers see it, if it counts and they see it."""
        state = self.apply(offset, event, at)
        return None if state is None else change_of(event, state, self._partition, offset, at)


def begins_anew(event: Event, at: int, ended: int, retention: Retention) -> bool:
    """Whether the event, appended at `at`, begins another life of a task that ended at `ended`."""
    first = isinstance(event, CancelRequested) or (isinstance(event, Claimed) and event.follows == NO_FENCE)
    return first and retention.is_anew(at, ended)


def change_of(event: Event, after: TaskState, partition: int, offset: int, at: int) -> view.Change | None:
    """What an event that counts makes of a task as readers see it; `after` is its state by then."""
    history = after.history
    match event:
        case Claimed(purpose=Purpose.RUN):
            return view.claimed(event, partition=partition, offset=offset, at=at, history=history)
        case Claimed(purpose=Purpose.DEFER):
            return view.postponed(event, partition=partition, offset=offset, history=history)
        case Deferred():
            return view.deferred(event, partition=partition, offset=offset, history=history)
        case CancelRequested():
            return view.cancel_requested(event, partition=partition, offset=offset, at=at)
        case Finished():
            return view.finished(event, partition=partition, offset=offset, history=history)
        case _:
            # A claim to end it: what follows at once is shown.
            return None
