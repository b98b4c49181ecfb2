"""What a partition has of its dispatcher, and what it asks of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mayfly import view
from mayfly.events import DeadLetter, DeferredRecord
from mayfly.placement import Limit
from mayfly.task import Envelope, Lane
from mayfly.webhooks.notice import Notice


class Asking(Protocol):
    """A partition, as far as who runs its errands sees it."""

    number: int
    lost: bool

    def tombstoned(self, key: str, task_id: str) -> None: ...

    def buried(self, task_id: str) -> None: ...

    def notified(self, task_id: str) -> None: ...


class Errands(Protocol):
    """What a partition has appended for it: tried until it is acknowledged or the partition is lost."""

    def keep(self, partition: Asking, record: DeferredRecord) -> None:
        """Append the record under a key that was never used."""

    def tombstone(self, partition: Asking, key: str, task_id: str) -> None:
        """Tells the partition when it is acknowledged: `tombstoned`."""

    def release(self, partition: Asking, lane: Lane, envelope: Envelope) -> None: ...

    def bury(self, partition: Asking, letter: DeadLetter) -> None:
        """Append the dead letter. Tells the partition when it is acknowledged: `buried`."""

    def notify(self, partition: Asking, notice: Notice) -> None:
        """Append the notice of a task's end. Tells the partition when it is acknowledged: `notified`."""


class Projection(Protocol):
    """Where a partition tells what its readers should see."""

    def command(self, partition: int, task: view.QueuedTask) -> None: ...

    def change(self, change: view.Change) -> None: ...


@dataclass(frozen=True)
class World:
    """What a partition needs of its dispatcher."""

    queue: str
    projection: Projection
    errands: Errands
    limit_of: Callable[[Envelope], Limit | None]
    limits_revision: Callable[[], int]
    """Another number whenever limits may have changed."""
    share: Callable[[Limit, int], int]
    """How many of a limit's tasks may run in a partition at once."""
    now: Callable[[], int]
    """Milliseconds since 1970."""
    on_cancel: Callable[[str], None]
    """Told of a task whose end is asked for while somebody holds it."""
    callback_of: Callable[[Envelope], str | None] = lambda envelope: envelope.callback_url
    """Where the task's end is posted to."""
