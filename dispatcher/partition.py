"""One partition that this dispatcher owns: its fold, its lanes, and who waits for an event to count.

Lives on the event loop. It is made when the partition is assigned and dropped, whole, when it is revoked.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dispatcher.offsets import MAX_PENDING, Checkpoint, Offsets
from mayfly import view
from mayfly.task import (
    Claim,
    Claimed,
    Done,
    Envelope,
    Event,
    Finished,
    Fold,
    Held,
    Lane,
    Position,
    Step,
    next_step,
)

MAX_BUFFERED: Final = 4000
MIN_BUFFERED: Final = 1000
MAX_BUFFERED_BYTES: Final = 16 * 1024 * 1024
"""Pausing throws away what librdkafka fetched ahead, so a lane is paused only when thousands wait, and
resumed when most of them are gone."""


@dataclass(frozen=True, slots=True, eq=False)
class Command:
    """A command as it was read. `invalid` says why one cannot be run; its envelope then has only an id."""

    envelope: Envelope
    partition: int
    position: Position
    at: int
    """The broker's append time, milliseconds since 1970."""
    size: int
    invalid: str | None = None

    @property
    def task_id(self) -> str:
        return self.envelope.task_id


class Projection(Protocol):
    """Where a partition tells what its readers should see."""

    def command(self, partition: int, task: view.QueuedTask) -> None: ...

    def change(self, change: view.Change) -> None: ...


class PartitionLost(Exception):
    """The partition went to another dispatcher while an event of ours was waited for."""


class LaneBuffer:
    """A lane's commands that were read and not taken up."""

    def __init__(self) -> None:
        self._commands: deque[Command] = deque()
        self._bytes = 0
        self.paused = False

    def __len__(self) -> int:
        return len(self._commands)

    def append(self, command: Command) -> None:
        self._commands.append(command)
        self._bytes += command.size

    def popleft(self) -> Command:
        command = self._commands.popleft()
        self._bytes -= command.size
        return command

    @property
    def first(self) -> Command:
        return self._commands[0]

    @property
    def should_pause(self) -> bool:
        return len(self) >= MAX_BUFFERED or self._bytes >= MAX_BUFFERED_BYTES

    @property
    def should_resume(self) -> bool:
        return len(self) <= MIN_BUFFERED and self._bytes <= MAX_BUFFERED_BYTES // 4


class Partition:
    """The owner's view. `events_end` is where the events ended when the partition was assigned: before the
    fold has come there, it knows too little to act."""

    def __init__(
        self, number: int, *, queue: str, checkpoint: Checkpoint, events_end: int, projection: Projection
    ) -> None:
        self.number = number
        self.queue = queue
        self.origin = checkpoint
        self.buffers = {lane: LaneBuffer() for lane in Lane}
        self.parked: dict[Position, Command] = {}
        self.lost = False
        self._offsets = Offsets(checkpoint)
        self._fold = Fold(self._offsets.is_done)
        self._end = checkpoint.start
        self._events_end = events_end
        self._projection = projection
        self._again: deque[Command] = deque()
        # Positions of a task's commands that were read and are not done. Usually there is one.
        self._open: dict[str, set[Position]] = {}
        self._started: set[Position] = set()
        self._claims: dict[str, asyncio.Future[int | None]] = {}
        self._finishes: dict[tuple[str, int], asyncio.Future[bool]] = {}

    # --- reading

    def take_command(self, command: Command) -> None:
        position = command.position
        if not self._offsets.read(position) or position in self._open.get(command.task_id, ()):
            return
        self._open.setdefault(command.task_id, set()).add(position)
        task = view.queued(
            command.envelope,
            queue=self.queue,
            lane=position.lane,
            partition=self.number,
            offset=position.offset,
            at=command.at,
        )
        self._projection.command(self.number, task)
        self.buffers[position.lane].append(command)

    def take_event(self, offset: int, event: Event | None, at: int) -> None:
        """Fold an event; `at` is its append time in milliseconds."""
        if offset < self._end:
            return
        self._end = offset + 1
        if event is None:
            return
        counts = self._fold.apply(offset, event)
        match event:
            case Claimed():
                if counts:
                    change = view.claimed(event, partition=self.number, offset=offset, at=at)
                    self._projection.change(change)
                if claim := self._claims.pop(event.nonce, None):
                    _resolve(claim, offset if counts else None)
            case Finished():
                if counts:
                    self._projection.change(view.finished(event, partition=self.number, offset=offset))
                    self._settle(event.task_id)
                if finish := self._finishes.pop((event.task_id, event.fence), None):
                    _resolve(finish, counts)

    @property
    def caught_up(self) -> bool:
        return self._end >= self._events_end

    def checkpoint(self) -> Checkpoint:
        """What may be committed now: the fold's start and the lanes of one and the same moment."""
        first = self._fold.first
        return self._offsets.checkpoint(self._end if first is None else first)

    # --- acting

    def has_work(self, lane: Lane) -> bool:
        if self.lost or not self.caught_up:
            return False
        again = bool(self._again) and self._again[0].position.lane == lane
        return again or (bool(self.buffers[lane]) and len(self._started) < MAX_PENDING)

    def next(self, lane: Lane) -> tuple[Command, Claim] | None:
        """A command of the lane to claim now. Those that are done or held on the way are seen to."""
        while self.has_work(lane):
            if self._again and self._again[0].position.lane == lane:
                command = self._again.popleft()
            else:
                command = self.buffers[lane].popleft()
            if claim := self._consider(command):
                return command, claim
        return None

    def pass_over(self) -> None:
        """See to the commands that need no slot and have none to claim before them in their lane.

        After a flush of the read model a lane is read from its start, and goes on only as it is emptied:
        were that left to the slots, the rebuild would wait for the tasks that run.
        """
        if self.lost or not self.caught_up:
            return
        for buffer in self.buffers.values():
            while buffer and len(self._started) < MAX_PENDING:
                if isinstance(self.step(buffer.first), Claim):
                    break
                self._consider(buffer.popleft())

    def _consider(self, command: Command) -> Claim | None:
        self._started.add(command.position)
        match self.step(command):
            case Done():
                self._mark_done(command.task_id, command.position)
            case Held():
                self.parked[command.position] = command
            case Claim() as claim:
                return claim
        return None

    def step(self, command: Command) -> Step:
        return next_step(self._fold.get(command.task_id))

    def put_back(self, command: Command) -> None:
        """An attempt at the command is over. If the fold did not count its outcome, look at it again."""
        if not self.lost and command.position in self._started:
            self._again.append(command)

    def held(self) -> Iterator[tuple[Command, Held]]:
        """The parked commands, each with who holds its task. Those that nobody holds any more move on."""
        for command in list(self.parked.values()):
            step = self.step(command)
            if isinstance(step, Held):
                yield command, step
            else:
                self.unpark(command)
                self._again.append(command)

    def unpark(self, command: Command) -> None:
        del self.parked[command.position]

    def expect_claim(self, nonce: str) -> "asyncio.Future[int | None]":
        """Resolves when the `Claimed` with that nonce is read: to its fence, or None if it is void.

        Raises `PartitionLost` when the partition goes before that.
        """
        return self._expect(self._claims, nonce)

    def expect_finish(self, task_id: str, fence: int) -> "asyncio.Future[bool]":
        """Resolves when the `Finished` with that fence is read: whether it counts. Raises `PartitionLost`."""
        return self._expect(self._finishes, (task_id, fence))

    def _expect(self, waiting: dict[Any, asyncio.Future[Any]], key: object) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.lost:
            future.set_exception(PartitionLost())
        else:
            waiting[key] = future
        return future

    def drop(self) -> None:
        """The partition is no longer ours. What runs goes on, but nothing here may act any more."""
        self.lost = True
        waiting: list[asyncio.Future[Any]] = [*self._claims.values(), *self._finishes.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(PartitionLost())
                # Taken note of: whoever waited may be gone.
                future.exception()
        self._claims.clear()
        self._finishes.clear()

    def _settle(self, task_id: str) -> None:
        """The task is terminal: its commands that were taken up are done. One that is still in a buffer is
        seen to when its turn comes, so that the pending list stays short."""
        for position in list(self._open.get(task_id, ())):
            if position in self._started:
                self._mark_done(task_id, position)

    def _mark_done(self, task_id: str, position: Position) -> None:
        self._offsets.done(position)
        self._started.discard(position)
        self.parked.pop(position, None)
        still_open = self._open[task_id]
        still_open.discard(position)
        if not still_open:
            del self._open[task_id]
            self._fold.forget(task_id)


def _resolve(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)
