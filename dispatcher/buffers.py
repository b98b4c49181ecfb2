"""A partition's commands as they were read, and as much of them in memory as is good."""

from collections import deque
from typing import Final

import msgspec

from mayfly.task import Envelope, Position, accepted_at, due_at, expires_at

MAX_BUFFERED: Final = 4000
MIN_BUFFERED: Final = 1000
MAX_BUFFERED_BYTES: Final = 16 * 1024 * 1024
"""Pausing throws away what librdkafka fetched ahead, so a lane is paused only when thousands wait, and
resumed when most of them are gone."""


class Command(msgspec.Struct, frozen=True, eq=False):
    """A command as it was read. `invalid` says why one cannot be run; its envelope then has only an id."""

    envelope: Envelope
    partition: int
    position: Position
    at: int
    """The broker's append time, milliseconds since 1970."""
    size: int
    invalid: str | None = None
    repeatable: bool = False
    """Whether its client may have posted it before: the task may have come and gone."""

    @property
    def task_id(self) -> str:
        return self.envelope.task_id

    @property
    def releases(self) -> int:
        return self.envelope.releases

    @property
    def accepted_at(self) -> int:
        return accepted_at(self.envelope, self.at)

    @property
    def due_at(self) -> int:
        """When the first attempt is due. What cannot be run has nothing to wait for."""
        return self.at if self.invalid else due_at(self.envelope, self.at)

    @property
    def expires_at(self) -> int | None:
        return expires_at(self.envelope, self.at)


class LaneBuffer:
    """A lane's commands that were read and not taken up."""

    def __init__(self) -> None:
        self._commands: deque[Command] = deque()
        self._bytes = 0
        self._read = -1
        self.paused = False
        self.needed = -1
        """The offset that the lane is to be read up to, whatever waits."""

    def __len__(self) -> int:
        return len(self._commands)

    def append(self, command: Command) -> None:
        self._commands.append(command)
        self._bytes += command.size
        self._read = command.position.offset

    def popleft(self) -> Command:
        command = self._commands.popleft()
        self._bytes -= command.size
        return command

    @property
    def first(self) -> Command:
        return self._commands[0]

    @property
    def should_pause(self) -> bool:
        full = len(self) >= MAX_BUFFERED or self._bytes >= MAX_BUFFERED_BYTES
        return full and self._read >= self.needed

    @property
    def should_resume(self) -> bool:
        empty = len(self) <= MIN_BUFFERED and self._bytes <= MAX_BUFFERED_BYTES // 4
        return empty or self._read < self.needed
