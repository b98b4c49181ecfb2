"""A partition's commands: those that were read, those that were taken up, and where each of them is now.

Pure. What becomes of them is for the partition to say.
"""

from collections import deque
from collections.abc import Iterator

from dispatcher.buffers import Command, LaneBuffer
from dispatcher.offsets import MAX_PENDING, Checkpoint, Offsets
from mayfly.task import NO_FENCE, Lane, Position


class Commands:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.buffers = {lane: LaneBuffer() for lane in Lane}
        self.offsets = Offsets(checkpoint)
        self.parked: dict[Position, Command] = {}
        """To be looked at when their tasks move on, or their holders are gone."""
        # What each of a task's commands releases that was read and is not done. Usually there is one.
        self._open: dict[str, dict[Position, int]] = {}
        self._started: dict[Position, Command] = {}
        # The checkpoint names them as pending already, so they take no more room there.
        self._inherited = {
            Position(lane, offset) for lane, (_, pending) in checkpoint.lanes.items() for offset in pending
        }
        self._put_back: deque[Command] = deque()
        self._again: dict[Lane, deque[Command]] = {lane: deque() for lane in Lane}

    def read(self, command: Command) -> bool:
        """Take note of a command; False if there is nothing to do for it."""
        position = command.position
        if not self.offsets.read(position) or position in self._open.get(command.task_id, ()):
            return False
        self._open.setdefault(command.task_id, {})[position] = command.envelope.releases
        self.buffers[position.lane].append(command)
        return True

    # --- taking up

    @property
    def _full(self) -> bool:
        """Whether a checkpoint could not name more of them as pending."""
        return len(self._started) + len(self._inherited) >= MAX_PENDING

    def first(self, lane: Lane) -> Command | None:
        """The next to be taken up."""
        again = self._again[lane]
        return again[0] if again else self.first_read(lane)

    def take(self, lane: Lane) -> Command:
        """That one, taken up."""
        again = self._again[lane]
        return again.popleft() if again else self.take_read(lane)

    def first_read(self, lane: Lane) -> Command | None:
        """The next of those that were not taken up before."""
        buffer = self.buffers[lane]
        if not buffer or (self._full and buffer.first.position not in self._inherited):
            return None
        return buffer.first

    def take_read(self, lane: Lane) -> Command:
        command = self.buffers[lane].popleft()
        if not self.offsets.is_done(command.position):
            self._started[command.position] = command
            self._inherited.discard(command.position)
        return command

    def is_started(self, command: Command) -> bool:
        return command.position in self._started

    def is_started_at(self, position: Position) -> bool:
        return position in self._started

    # --- putting aside

    def park(self, command: Command) -> None:
        self.parked[command.position] = command

    def unpark(self, command: Command) -> None:
        del self.parked[command.position]

    def put_back(self, command: Command) -> None:
        """It is to be looked at again."""
        self.parked.pop(command.position, None)
        self._put_back.append(command)

    def hand_back(self) -> Iterator[Command]:
        """Those that were put back. Whoever takes one sees to it, or has it wait for a slot."""
        while self._put_back:
            yield self._put_back.popleft()

    def wait(self, command: Command) -> None:
        """It is to be taken up in its lane's turn, before what was not taken up yet."""
        self._again[command.position.lane].append(command)

    # --- of one task

    def started(self, task_id: str) -> list[Command]:
        """Its commands that were taken up and are not done."""
        found = (self._started.get(position) for position in self._open.get(task_id, ()))
        return [command for command in found if command is not None]

    def release_of(self, task_id: str, fence: int) -> Position | None:
        """A command that was read, is not done, and releases that fence."""
        of_task = self._open.get(task_id, {})
        return next((position for position, releases in of_task.items() if releases == fence), None)

    def asked(self, task_id: str) -> bool:
        """Whether a command of the task was read, is not done, and is no release."""
        return NO_FENCE in self._open.get(task_id, {}).values()

    def earliest(self, task_id: str) -> Position | None:
        """The first of those."""
        of_task = self._open.get(task_id, {}).items()
        return min((position for position, releases in of_task if releases == NO_FENCE), default=None)

    def comes_second(self, command: Command) -> bool:
        """Whether the task has an earlier command that is not done. That one goes first: a claim for a copy,
        landing when the task is over and forgotten, would count."""
        own = command.position
        return any(
            releases == NO_FENCE and other < own and (other.lane == own.lane or other in self._started)
            for other, releases in self._open.get(command.task_id, {}).items()
        )

    def done(self, task_id: str, position: Position) -> None:
        self.offsets.done(position)
        self._started.pop(position, None)
        self.parked.pop(position, None)
        self._inherited.discard(position)
        of_task = self._open[task_id]
        del of_task[position]
        if not of_task:
            del self._open[task_id]
