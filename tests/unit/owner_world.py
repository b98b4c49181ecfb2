"""A partition's owner as its tests see it: what it tells its readers, and what it has appended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dispatcher.buffers import Command
from dispatcher.offsets import Checkpoint
from dispatcher.partition import Partition
from dispatcher.world import Asking, Errands, Projection, World
from mayfly import view
from mayfly.events import Claimed, DeadLetter, DeferredRecord, Finished
from mayfly.placement import Limit, limit_of
from mayfly.task import NO_FENCE, Envelope, Lane, Outcome, Position, Status
from mayfly.webhooks.notice import Notice

NUMBER = 3
"""The partition's."""


class Told:
    """Implements `Projection`: what the read model would be told."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.changes: list[tuple[str, Status | None]] = []

    def command(self, partition: int, task: view.QueuedTask) -> None:
        self.commands.append(task.task_id)

    def change(self, change: view.Change) -> None:
        self.changes.append((change.task_id, change.status))


@dataclass
class Asked:
    """Implements `Errands`: what is to be appended. A test appends it, or does not."""

    kept: list[DeferredRecord] = field(default_factory=list)
    tombstones: list[tuple[str, str]] = field(default_factory=list)
    releases: list[tuple[Lane, Envelope]] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    @property
    def some(self) -> bool:
        return bool(self.kept or self.tombstones or self.releases or self.letters or self.notices)

    def keep(self, partition: Asking, record: DeferredRecord) -> None:
        self.kept.append(record)

    def tombstone(self, partition: Asking, key: str, task_id: str) -> None:
        self.tombstones.append((key, task_id))

    def release(self, partition: Asking, lane: Lane, envelope: Envelope) -> None:
        self.releases.append((lane, envelope))

    def bury(self, partition: Asking, letter: DeadLetter) -> None:
        self.letters.append(letter)

    def notify(self, partition: Asking, notice: Notice) -> None:
        self.notices.append(notice)


@dataclass
class Clock:
    """Milliseconds since 1970, as a test wants them."""

    now: int = 1_000_000

    def __call__(self) -> int:
        return self.now


def world(
    projection: Projection | None = None,
    errands: Errands | None = None,
    *,
    now: Callable[[], int] | None = None,
    limits_revision: Callable[[], int] = lambda: 0,
    concurrency: Callable[[str], int | None] = lambda _: None,
    on_cancel: Callable[[str], None] = lambda _: None,
    callback_of: Callable[[Envelope], str | None] = lambda envelope: envelope.callback_url,
) -> World:
    """`concurrency` tells a function's; a partition's share of a limit is all of it."""

    def limit(envelope: Envelope) -> Limit | None:
        return limit_of(envelope.task_type, concurrency(envelope.task_type), envelope.concurrency_key)

    return World(
        queue="q",
        projection=projection or Told(),
        errands=errands or Asked(),
        limit_of=limit,
        limits_revision=limits_revision,
        share=lambda limit, partition: limit.most,
        now=now or Clock(),
        on_cancel=on_cancel,
        callback_of=callback_of,
    )


def owner(
    of: World | None = None,
    checkpoint: Checkpoint | None = None,
    *,
    events_end: int = 0,
    records_end: int = 0,
) -> Partition:
    """A partition whose deferred topic is read to its end, with nothing in it."""
    mine = Partition(
        NUMBER, checkpoint=checkpoint or Checkpoint(), events_end=events_end, world=of or world()
    )
    mine.take_records_end(records_end)
    return mine


def command(task: str, offset: int, lane: Lane = Lane.NORMAL, **fields: Any) -> Command:
    own = {name: fields.pop(name) for name in ("repeatable",) if name in fields}
    envelope = Envelope(task_type=fields.pop("task_type", "f"), task_id=task, **fields)
    return Command(envelope, NUMBER, Position(lane, offset), at=0, size=10, **own)


def claimed(
    task: str, offset: int, *, follows: int = NO_FENCE, nonce: str = "n", by: str = "me", **fields: Any
) -> Claimed:
    return Claimed(task, Lane.NORMAL, offset, fields.pop("attempt", 1), by, nonce, follows, **fields)


def finished(task: str, fence: int) -> Finished:
    return Finished(task, fence, 1, Outcome(0, 1))
