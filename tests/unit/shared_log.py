"""A partition's topics in memory, and owners of it that read them: one after the other, or at once."""

from dataclasses import dataclass, field
from typing import Any

from owner_world import NUMBER, Asked, Clock, Told, world

from dispatcher.buffers import Command
from dispatcher.offsets import Checkpoint
from dispatcher.partition import Partition
from dispatcher.work import Work
from mayfly.events import CancelRequested, Claimed, Deferred, DeferredRecord, Event, Finished, Reason
from mayfly.fold import TaskState
from mayfly.task import NO_FENCE, Envelope, Failure, FailureType, Lane, Origin, Outcome, Position, encode
from mayfly.webhooks.notice import Notice

FAILED = Outcome(0, 1, failure=Failure(FailureType.ERROR, "no"))
DONE = Outcome(0, 1)


@dataclass
class SharedLog:
    """What stands in the topics. `committed` is the last checkpoint."""

    events: list[Event] = field(default_factory=list)
    commands: dict[Lane, list[Envelope]] = field(default_factory=lambda: {lane: [] for lane in Lane})
    records: list[tuple[str, bytes | None]] = field(default_factory=list)
    committed: str = ""

    def command(self, task: str, lane: Lane = Lane.NORMAL, task_type: str = "f", **fields: Any) -> Position:
        return self.append_command(lane, Envelope(task_type=task_type, task_id=task, **fields))

    def append_command(self, lane: Lane, envelope: Envelope) -> Position:
        self.commands[lane].append(envelope)
        return Position(lane, len(self.commands[lane]) - 1)

    def append(self, event: Event) -> int:
        self.events.append(event)
        return len(self.events) - 1

    def claim(
        self, task: str, command: Position, follows: int = NO_FENCE, *, by: str = "another", **fields: Any
    ) -> int:
        """A `Claimed` by whom it may be; its fence."""
        attempt = fields.pop("attempt", 1)
        return self.append(Claimed(task, *command, attempt, by, f"{by}{len(self.events)}", follows, **fields))

    def defer(self, task: str, claim: int, due: int = 0, reason: Reason = Reason.RETRY) -> int:
        """The fence of the wait."""
        return self.append(Deferred(task, claim, 1, reason, due, FAILED))

    def finish(self, task: str, claim: int, outcome: Outcome = DONE) -> int:
        return self.append(Finished(task, claim, 1, outcome))

    def cancel(self, task: str, command: Position) -> int:
        return self.append(CancelRequested(task, *command))

    def record(self, task: str, fence: int, key: str, command: Position, **fields: Any) -> int:
        """A deferred record, by whom it may be."""
        envelope = Envelope("f", task, origin=Origin(*command, accepted_at=0))
        record = DeferredRecord(envelope, fence, 1, fields.pop("reason", Reason.RETRY), **fields)
        self.records.append((key, encode(record)))
        return len(self.records) - 1

    def tombstone(self, key: str) -> None:
        self.records.append((key, None))


class Owner:
    """A partition that reads the log when it is told to, and whose errands are run when they are told to."""

    def __init__(self, log: SharedLog, clock: Clock | None = None, **fields: Any) -> None:
        self.log = log
        self.told, self.asked, self.clock = Told(), Asked(), clock or Clock()
        self.cancelled: list[str] = []
        self.delivered: list[Notice] = []
        self.partition = Partition(
            NUMBER,
            checkpoint=Checkpoint.decode(log.committed),
            events_end=len(log.events),
            world=world(self.told, self.asked, now=self.clock, on_cancel=self.cancelled.append, **fields),
        )
        self._records = 0
        self._read = {lane: self.partition.origin.of(lane).start for lane in Lane}
        self._events = self.partition.origin.start

    def read(self, *, events: bool = True, records: bool = True, commands: bool = True) -> None:
        """All that stands there."""
        log, mine = self.log, self.partition
        if records:
            for number, (key, value) in enumerate(log.records[self._records :], self._records):
                mine.take_record(number, key, value)
            self._records = len(log.records)
            mine.take_records_end(self._records)
        if events:
            for offset in range(self._events, len(log.events)):
                mine.take_event(offset, log.events[offset], self.clock.now)
            self._events = len(log.events)
            mine.take_events_end(self._events)
        if commands:
            for lane in Lane:
                for offset in range(self._read[lane], len(log.commands[lane])):
                    envelope = log.commands[lane][offset]
                    mine.take_command(Command(envelope, NUMBER, Position(lane, offset), at=0, size=10))
                self._read[lane] = len(log.commands[lane])
        self.act()

    def act(self) -> None:
        """As a scheduler without a free slot does."""
        self.partition.release()
        self.partition.pass_over()

    def next(self, lane: Lane = Lane.NORMAL) -> Work | None:
        return self.partition.next(lane)

    def run_errands(self) -> None:
        """All that was asked for lands, is acknowledged, and is read."""
        while self.asked.some:
            kept, self.asked.kept = self.asked.kept, []
            for record in kept:
                self.log.records.append(
                    (f"{record.envelope.task_id}/{len(self.log.records)}", encode(record))
                )
            releases, self.asked.releases = self.asked.releases, []
            for lane, envelope in releases:
                self.log.append_command(lane, envelope)
            tombstones, self.asked.tombstones = self.asked.tombstones, []
            for key, task_id in tombstones:
                self.log.tombstone(key)
                self.partition.tombstoned(key, task_id)
            letters, self.asked.letters = self.asked.letters, []
            for letter in letters:
                self.partition.buried(letter.task_id)
            notices, self.asked.notices = self.asked.notices, []
            for notice in notices:
                self.delivered.append(notice)
                self.partition.notified(notice.task_id)
            self.read()

    def commit(self) -> Checkpoint:
        checkpoint = self.partition.checkpoint()
        self.partition.before_commit()
        self.log.committed = checkpoint.encode()
        self.partition.committed(checkpoint)
        return checkpoint

    def state(self, task: str) -> TaskState | None:
        return self.partition.state(task)

    def is_done(self, command: Position) -> bool:
        lane, offset = command
        base, pending = self.partition.checkpoint().lanes[lane]
        return offset < base and offset not in pending
