"""A partition's commands: those that were read, those that were taken up, and where each of them is now.

Pure. What becomes of them is for the partition to say.
"""

from collections import deque
from collections.abc import Collection, Iterator

from dispatcher.buffers import Command, LaneBuffer
from dispatcher.offsets import MAX_PENDING, Checkpoint, Offsets
from mayfly.task import NO_FENCE, Lane, Position


class Commands:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.buffers = {lane: LaneBuffer() for lane in Lane}
        self.offsets = Offsets(checkpoint)
        self.parked: dict[Position, Command] = {}
        """To be looked at when their tasks move on, or their holders are gone."""
        # Of each task the commands that were read and are not done. Usually there is one.
        self._open: dict[str, dict[Position, Command]] = {}
        self._started: dict[Position, Command] = {}
        # Not taken up, and pending all the same: a checkpoint names them already.
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
        self._open.setdefault(command.task_id, {})[position] = command
        self.buffers[position.lane].append(command)
        return True

    # --- taking up

    @property
    def _full(self) -> bool:
        """Whether a checkpoint could not name more of them as pending."""
        return len(self._started) + len(self._inherited) >= MAX_PENDING

    def idle(self, lane: Lane) -> bool:
        """Whether there is nothing to take up in it, nor anything that was put back, whatever its lane."""
        return not (self._put_back or self._again[lane] or self.buffers[lane])

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
        if not buffer:
            return None
        position = buffer.first.position
        # One that is done, or pending already, makes nothing more pending.
        goes = not self._full or position in self._inherited or self.offsets.is_done(position)
        return buffer.first if goes else None

    def take_read(self, lane: Lane) -> Command:
        command = self.buffers[lane].popleft()
        if not self.offsets.is_done(command.position):
            self._started[command.position] = command
            self._inherited.discard(command.position)
        return command

    def is_started(self, command: Command) -> bool:
        return command.position in self._started

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

    # --- of one task: its commands that were read and are not done

    def _of(self, task_id: str) -> Collection[Command]:
        return self._open.get(task_id, {}).values()

    def started(self, task_id: str) -> list[Command]:
        """Those that were taken up."""
        return [command for command in self._of(task_id) if command.position in self._started]

    def source(self, task_id: str, claimed: Position | None) -> Command | None:
        """What the task was asked for with: the command that was claimed, or another one, taken up or not."""
        open_ones = self._open.get(task_id, {})
        if claimed is not None and claimed in open_ones:
            return open_ones[claimed]
        return next(iter(open_ones.values()), None)

    def release_of(self, task_id: str, fence: int) -> Command | None:
        """One that releases that fence."""
        return next((command for command in self._of(task_id) if command.releases == fence), None)

    def before(self, task_id: str, fence: int) -> Command | None:
        """One that the task had before it came to wait under that fence."""
        return next((command for command in self._of(task_id) if command.releases < fence), None)

    def named(self, task_id: str, claimed: Position, fence: int) -> list[Command]:
        """Those that led to a wait under that fence; `claimed` is the one that was claimed last. Of those
        that were not taken up, the ones before it."""
        return [
            command
            for command in self._of(task_id)
            if command.releases < fence
            and (
                command.position in self._started
                or (command.position.lane == claimed.lane and command.position <= claimed)
            )
        ]

    def asked(self, task_id: str) -> bool:
        """Whether there is one that is no release."""
        return any(command.releases == NO_FENCE for command in self._of(task_id))

    def earliest(self, task_id: str) -> Position | None:
        """The first of those."""
        firsts = (command.position for command in self._of(task_id) if command.releases == NO_FENCE)
        return min(firsts, default=None)

    def comes_second(self, command: Command) -> bool:
        """Whether the task has an earlier command that is not done. That one goes first: a claim for a copy,
        landing when the task is over and forgotten, would count."""
        own = command.position
        return any(
            other.releases == NO_FENCE
            and other.position < own
            and (other.position.lane == own.lane or other.position in self._started)
            for other in self._of(command.task_id)
        )

    def was_read(self, task_id: str, position: Position) -> bool:
        """Whether that command of the task was read, so that it can be marked done."""
        return position in self._open.get(task_id, ()) or self.offsets.is_done(position)

    def need(self, position: Position) -> None:
        """It is waited for: its lane is to be read up to there, however much that is."""
        self.buffers[position.lane].needed = max(self.buffers[position.lane].needed, position.offset)

    def done(self, task_id: str, position: Position) -> None:
        self._inherited.update(one for one in self.offsets.done(position) if one not in self._started)
        self._started.pop(position, None)
        self.parked.pop(position, None)
        self._inherited.discard(position)
        of_task = self._open[task_id]
        del of_task[position]
        if not of_task:
            del self._open[task_id]
