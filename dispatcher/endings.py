"""How a partition's tasks end: which are to be ended, when one is over, and when it can be forgotten."""

from collections import deque

from dispatcher.buffers import Command
from dispatcher.holdings import Holdings
from dispatcher.letters import Letters
from dispatcher.waiting import Waiting
from mayfly.events import CancelRequested
from mayfly.fold import Phase, TaskState
from mayfly.task import Position


class Endings:
    def __init__(self, known: Holdings) -> None:
        self._known = known
        self._letters = Letters(known.world.queue)
        self.due: deque[tuple[str, Position]] = deque()
        """Tasks to end that nobody holds, each with the command to claim it by."""
        self.left: dict[str, Waiting] = {}
        """Of tasks that came out of their records: the records, until the log does without them."""
        self._asked: dict[str, Position] = {}

    # --- to be ended

    def cancel(self, event: CancelRequested, after: TaskState) -> None:
        """A task's end is asked for; `after` is its state by then."""
        task_id, position = event.task_id, Position(event.lane, event.offset)
        if after.phase is Phase.CLAIMED:
            self._known.world.on_cancel(task_id)
        elif after.phase is Phase.ASKED:
            self._asked[task_id] = position
            self.due.append((task_id, position))
        else:
            self.end_wait(task_id, after)

    def end_wait(self, task_id: str, state: TaskState) -> None:
        """The task waits, and is to end: that it is claimed by its release, as any other that waits."""
        if release := self._known.commands.release_of(task_id, state.fence):
            self.due.append((task_id, release.position))
        else:
            self._known.waiting.hurry(task_id)

    def release_read(self, command: Command) -> None:
        """If its task is to end, it does not wait for its turn in the lane."""
        state = self._known.fold.get(command.task_id)
        if state is not None and state.cancelled:
            self.due.append((command.task_id, command.position))

    # --- dead letters

    def finished(self, task_id: str, after: TaskState) -> None:
        if self.needs_letter(task_id, after):
            self._bury(task_id, after)
        else:
            self._settle(task_id)

    def needs_letter(self, task_id: str, state: TaskState) -> bool:
        """Whether it failed, and its dead letter is not acknowledged. Its command is done only then."""
        done = state.command is not None and self._known.is_done(state.command)
        return self._letters.is_due(task_id, state) and not done

    def _bury(self, task_id: str, state: TaskState) -> None:
        """Have the dead letter written, if what it is to hold is at hand. If not, the command comes yet."""
        envelope = next((command.envelope for command in self._known.commands.started(task_id)), None)
        if envelope is None and (left := self.left.get(task_id)):
            envelope = left.record.envelope
        if letter := self._letters.write(task_id, state, envelope):
            self._known.world.errands.bury(self._known.partition, letter)

    def buried(self, task_id: str) -> None:
        """The dead letter is acknowledged: the task's commands are done."""
        self._letters.acknowledged(task_id)
        self._settle(task_id)

    # --- over

    def done(self, command: Command) -> None:
        """The command's task went on, or is over."""
        state = self._known.fold.get(command.task_id)
        if state is not None and self.needs_letter(command.task_id, state):
            self._bury(command.task_id, state)
        else:
            self.mark_done(command.task_id, command.position)

    def _settle(self, task_id: str) -> None:
        """The task is terminal: its commands that were taken up are done. One that is still in a buffer is
        seen to when its turn comes, so that the pending list stays short."""
        for command in self._known.commands.started(task_id):
            self.mark_done(task_id, command.position)
        self.record_gone(task_id)

    def record_gone(self, task_id: str) -> None:
        """Nothing is left of the record that the task came out of. Its release may not be read yet: of a task
        that is forgotten it is done all the same."""
        state = self._known.fold.get(task_id)
        if state is not None and state.resumed is not None:
            self._forget(task_id)

    def mark_done(self, task_id: str, position: Position) -> None:
        self._known.commands.done(task_id, position)
        self._known.not_starting(position)
        asked = self._asked.get(task_id)
        if asked is None or self._known.is_done(asked):
            self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        """Forget the task if it is over, in every respect, and its commands are done. A release that is not
        is no hindrance: it names a wait that is over."""
        state = self._known.fold.get(task_id)
        if state is None or self._known.commands.asked(task_id) or self.needs_letter(task_id, state):
            return
        if self._known.fold.forget(task_id):
            self._asked.pop(task_id, None)
            self.left.pop(task_id, None)
            self._letters.forget(task_id)
