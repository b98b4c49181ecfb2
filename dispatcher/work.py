"""A claim to make, and what for."""

from typing import Final, NamedTuple

from dispatcher.buffers import Command
from mayfly.events import Purpose, Reason
from mayfly.steps import Claim
from mayfly.task import Failure, FailureType, Position

CANCELLED: Final = Failure(FailureType.CANCELLED, "the task was cancelled before it ran")
EXPIRED: Final = Failure(FailureType.EXPIRED, "the task waited for longer than its ttlSeconds")


class Work(NamedTuple):
    """`command` is None for a task that is ended while its command, at that position, is not at hand."""

    task_id: str
    position: Position
    claim: Claim
    purpose: Purpose
    command: Command | None = None
    group: str | None = None
    reason: Reason = Reason.SCHEDULE
    due: int = 0
    """Of a claim to let it wait: until when, milliseconds since 1970."""
    failure: Failure | None = None
    """Of a claim to end it: the outcome."""

    @property
    def key(self) -> Position | str:
        """What tells one claim without an attempt from another."""
        return self.task_id if self.command is None else self.position
