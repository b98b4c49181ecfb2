"""How a partition's tasks end: which are to be ended, when one is over, and when it can be forgotten."""

from collections import deque

from dispatcher.buffers import Command
from dispatcher.holdings import Holdings
from dispatcher.letters import Letters
from dispatcher.notices import Asked, Notices
from dispatcher.waiting import Waiting
from mayfly.events import CancelRequested, Finished
from mayfly.fold import Phase, TaskState
from mayfly.task import Position


class Endings:
    def __init__(self, known: Holdings) -> None:
        self._known = known
        self._letters = Letters(known.world.queue)
        self._notices = Notices(known.world.queue, known.partition.number, known.world.callback_of)
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

    # --- what is to be written of an end: its dead letter, and the notice for who is to be told

    def finished(self, event: Finished, after: TaskState) -> None:
        """The task has ended; `after` is its state by then."""
        self._notices.ended(event)
        self._write(event.task_id, after)
        if not self.is_owed(event.task_id, after):
            self._settle(event.task_id)

    def is_owed(self, task_id: str, state: TaskState) -> bool:
        """Whether something of its end is not acknowledged. Its command is done only then."""
        done = state.command is not None and self._known.is_done(state.command)
        return not done and (self._letters.is_due(task_id, state) or self._notices.is_due(task_id, state))

    def _write(self, task_id: str, state: TaskState) -> None:
        """Have written what is owed, if what it is to hold is at hand. If not, the command comes yet."""
        if not self.is_owed(task_id, state):
            return
        asked = self._asked_for(task_id, state)
        errands, partition = self._known.world.errands, self._known.partition
        if self._letters.is_due(task_id, state) and (
            letter := self._letters.write(task_id, state, asked and asked.envelope)
        ):
            errands.bury(partition, letter)
        if self._notices.is_due(task_id, state) and (notice := self._notices.write(task_id, state, asked)):
            errands.notify(partition, notice)

    def _asked_for(self, task_id: str, state: TaskState) -> Asked | None:
        """What the task was asked for with, of a command or of the record that it came out of."""
        if command := self._known.commands.source(task_id, state.command):
            return Asked(command.envelope, command.position, command.at)
        if (left := self.left.get(task_id)) is None:
            return None
        envelope = left.record.envelope
        assert envelope.origin is not None
        origin = envelope.origin
        return Asked(envelope, Position(origin.lane, origin.offset), origin.accepted_at)

    def buried(self, task_id: str) -> None:
        """The dead letter is acknowledged."""
        self._letters.acknowledged(task_id)
        self._written(task_id)

    def notified(self, task_id: str) -> None:
        """The notice is acknowledged."""
        self._notices.acknowledged(task_id)
        self._written(task_id)

    def _written(self, task_id: str) -> None:
        """Once all of it is, the task's commands are done."""
        state = self._known.fold.get(task_id)
        if state is None or not self.is_owed(task_id, state):
            self._settle(task_id)

    # --- over

    def done(self, command: Command) -> None:
        """The command's task went on, or is over."""
        state = self._known.fold.get(command.task_id)
        if state is not None:
            self._write(command.task_id, state)
        if state is None or not self.is_owed(command.task_id, state):
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
        if state is None or self._known.commands.asked(task_id) or self.is_owed(task_id, state):
            return
        if self._known.fold.forget(task_id):
            self._asked.pop(task_id, None)
            self.left.pop(task_id, None)
            self._letters.forget(task_id)
            self._notices.forget(task_id)
