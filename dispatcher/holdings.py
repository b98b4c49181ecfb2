"""What an owner knows of its partition. What acts on it is in `endings`, `keeping` and `intake`."""

from dispatcher.buffers import Command
from dispatcher.commands import Commands
from dispatcher.limits import Turns
from dispatcher.offsets import Checkpoint
from dispatcher.records import Records
from dispatcher.waiting import WaitingRoom
from dispatcher.world import Asking, World
from mayfly.fold import Fold
from mayfly.steps import Step, next_step
from mayfly.task import Position


class Holdings:
    def __init__(self, partition: Asking, checkpoint: Checkpoint, events_end: int, world: World) -> None:
        self.partition = partition
        self.world = world
        self.commands = Commands(checkpoint)
        self.fold = Fold(self.commands.offsets.is_done, checkpoint.resumed)
        self.records = Records(checkpoint.deferred)
        self.waiting = WaitingRoom()
        self.turns = Turns()
        self.end = checkpoint.start
        """How far the events were read."""
        self._events_end = events_end

    @property
    def caught_up(self) -> bool:
        """Whether the records and the events were read to the ends that they had at the beginning."""
        return self.records.loaded and self.end >= self._events_end

    def is_done(self, position: Position) -> bool:
        return self.commands.offsets.is_done(position)

    def step(self, command: Command) -> Step:
        return next_step(self.fold.get(command.task_id), command.releases, self.end)

    def not_starting(self, position: Position) -> None:
        """The command's attempt takes no place of its limit any more."""
        if group := self.turns.started(position):
            self.waiting.freed(group)
