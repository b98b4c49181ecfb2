"""A partition's whole log, folded from its beginning: for whoever reads it all, and owns nothing.

Pure. A fold that starts at the beginning needs no checkpoint and no deferred records: every claim that counts
follows one that it has seen.
"""

from mayfly import view
from mayfly.events import CancelRequested, Claimed, Deferred, Event, Finished, Purpose
from mayfly.fold import Fold, TaskState


class History:
    """`apply` in log order. A task that has ended is remembered by its id alone."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._fold = Fold(lambda _: False)
        self._ended: set[str] = set()

    def apply(self, offset: int, event: Event, at: int) -> TaskState | None:
        """The task's state after an event that counts; None for one that is void.

        `at` is the event's append time, milliseconds since 1970.
        """
        task_id = event.task_id
        if task_id in self._ended or not self._fold.apply(offset, event, at):
            return None
        state = self._fold.get(task_id)
        if state is not None and state.terminal:
            self._fold.forget(task_id)
            self._ended.add(task_id)
        return state

    def change(self, offset: int, event: Event, at: int) -> view.Change | None:
        """What the event makes of the task as readers see it, if it counts and they see it."""
        state = self.apply(offset, event, at)
        return None if state is None else change_of(event, state, self._partition, offset, at)


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
