"""The ledger: what the whole log, folded from its start, makes of every task. Pure.

`mayfly.fold` decides which events count, as it does for the dispatchers. A fold from the log's start needs
neither a checkpoint nor the deferred records. Of a task that has ended only its outcome is kept, some
hundred bytes: whatever follows it is void, unless it came when the task may have been swept. Then its id was
used anew: it is the second task that is judged, and the first one is over.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mayfly.audit.report import Finding, Kind, QueueCounts
from mayfly.events import Claimed, Deferred, DeferredRecord, Event, Finished, Purpose, Reason
from mayfly.fold import Fold, Phase, TaskState
from mayfly.history import begins_anew
from mayfly.retention import FOR_EVER, Retention
from mayfly.task import (
    DEFAULT_TENANT,
    NO_FENCE,
    BlobRef,
    MalformedCommand,
    Outcome,
    Status,
    accepted_at,
    decode_envelope,
    due_at,
    place_id,
)


class Place(NamedTuple):
    """A queue's partition: what one fold is of."""

    queue: str
    partition: int


class Accepted(NamedTuple):
    """A task that stands in a lane. `scheduled`: its first attempt was due later than its acceptance. `at` is
    its command's append time, milliseconds since 1970; `tenant` says whose it is."""

    place: Place
    scheduled: bool
    at: int = 0
    tenant: str = DEFAULT_TENANT


class Ended(NamedTuple):
    """A task's outcome. `offset` is that of the `Finished` which counted, `at` when the attempt ended,
    `began` when the first event that counted was appended, both in milliseconds since 1970."""

    place: Place
    offset: int
    fence: int
    attempt: int
    status: Status
    at: int
    result: BlobRef | None
    fences: tuple[int, ...]
    """Of every claim that counted."""
    attempts: int
    """How many of those were for an attempt."""
    began: int = 0


@dataclass(slots=True)
class Course:
    """A task that has not ended: the last event that counted, and the claims that did."""

    began: int = 0
    last: int = NO_FENCE
    fences: tuple[int, ...] = ()
    attempts: int = 0


class Record(NamedTuple):
    """A deferred record that is live."""

    place: Place
    task_id: str
    fence: int


class _Partition:
    def __init__(self) -> None:
        self.fold = Fold(lambda _: False)
        self.courses: dict[str, Course] = {}
        self.ended: dict[str, Ended] = {}
        """Also those whose ids were used anew since."""
        self.read_to = 0


class Ledger:
    """Each partition's events must come in the order of the log; all else may come in any."""

    def __init__(self, retention: Retention = FOR_EVER) -> None:
        self.retention = retention
        self.accepted: dict[str, Accepted] = {}
        """By id, and of those that one id had, the last one."""
        self.ended: dict[str, Ended] = {}
        """Of those, the ones that have."""
        self.records: dict[tuple[str, str], Record] = {}
        self.dead_letters: set[str] = set()
        self.cleared: set[str] = set()
        """Tasks whose dead letter was purged or redriven."""
        self.void: Counter[str] = Counter()
        """Events that do not count, by queue."""
        self.attempts: Counter[str] = Counter()
        self.trimmed: set[str] = set()
        """Queues whose log does not begin at its beginning: what was cut off cannot be judged."""
        self.dead_letters_compacted = False
        """Whether the broker may have taken the trace of a purged dead letter away."""
        self._partitions: defaultdict[Place, _Partition] = defaultdict(_Partition)
        self._wrong: list[Finding] = []

    # --- reading

    def command(self, place: Place, value: bytes | None, *, topic: str, offset: int, at: int) -> str:
        """A lane's record, appended `at` milliseconds since 1970. Returns the task's id, as all these do."""
        try:
            envelope = decode_envelope(value, topic=topic, partition=place.partition, offset=offset)
        except MalformedCommand:
            task_id, scheduled, releases = place_id(topic, place.partition, offset), False, False
            tenant = DEFAULT_TENANT
        else:
            tenant = sys.intern(envelope.tenant)
            task_id, scheduled = envelope.task_id, due_at(envelope, at) > accepted_at(envelope, at)
            releases = envelope.releases != NO_FENCE
        before = self.accepted.get(task_id)
        # A copy, and a release, are the same task.
        if before is None or (not releases and self.retention.is_anew(at, before.at)):
            self.accepted[sys.intern(task_id)] = Accepted(place, scheduled, at, tenant)
        ended = self.ended.get(task_id)
        if ended is not None and self.retention.is_anew(at, ended.at):
            del self.ended[task_id]
        return task_id

    def event(self, place: Place, offset: int, event: Event, at: int) -> str:
        partition = self._partitions[place]
        partition.read_to = offset + 1
        task_id = sys.intern(event.task_id)
        if (ended := partition.ended.get(task_id)) is not None:
            if not begins_anew(event, at, ended.at, self.retention):
                self._after_the_end(ended, event)
                return task_id
            del partition.ended[task_id]
            if self.ended.get(task_id) is ended:
                del self.ended[task_id]
        course = partition.courses.setdefault(task_id, Course())
        if not partition.fold.apply(offset, event, at):
            self.void[place.queue] += 1
            if isinstance(event, Finished | Deferred):
                self._check_fence(place, event, course.fences)
            return task_id
        course.last = offset
        course.began = course.began or at
        match event:
            case Claimed():
                course.fences += (offset,)
                course.attempts += event.purpose is Purpose.RUN
                self.attempts[place.queue] += event.purpose is Purpose.RUN
            case Finished():
                self._end(place, offset, event, course)
        return task_id

    def passed(self, place: Place, offset: int) -> None:
        """Take note of a record among the events that is none."""
        self._partitions[place].read_to = offset + 1

    def record(self, place: Place, key: str, record: DeferredRecord | None) -> str | None:
        """A deferred record, or the end of one."""
        if record is None:
            gone = self.records.pop((place.queue, key), None)
            return gone.task_id if gone else None
        task_id = sys.intern(record.envelope.task_id)
        self.records[place.queue, key] = Record(place, task_id, record.fence)
        return task_id

    def dead_letter(self, task_id: str, *, live: bool) -> str:
        """A dead letter, or the end of one."""
        (self.dead_letters.add if live else self.dead_letters.discard)(task_id)
        if not live:
            self.cleared.add(task_id)
        return task_id

    def _end(self, place: Place, offset: int, event: Finished, course: Course) -> None:
        task_id = sys.intern(event.task_id)
        partition = self._partitions[place]
        partition.fold.forget(task_id)
        del partition.courses[task_id]
        ended = partition.ended[task_id] = Ended(
            place,
            offset,
            event.fence,
            event.attempt,
            event.outcome.status,
            event.outcome.finished_at,
            _blob(event.outcome),
            course.fences,
            course.attempts,
            course.began,
        )
        before, accepted = self.ended.get(task_id), self.accepted.get(task_id)
        if accepted is not None and self.retention.is_anew(accepted.at, ended.at):
            # Its id was used anew since: that task is the one to judge.
            return
        if before is not None and self.retention.is_anew(before.began, ended.at):
            # So it was, in another partition.
            return
        if before is not None and not self.retention.is_anew(ended.began, before.at):
            there = f"{_at(before.place, before.offset)} and {_at(place, offset)}"
            self._wrong.append(Finding(Kind.TWO_OUTCOMES, task_id, place.queue, there))
            return
        self.ended[task_id] = ended

    def _after_the_end(self, ended: Ended, event: Event) -> None:
        """A terminal task stays terminal: every event of it is void, and some should not even be there."""
        self.void[ended.place.queue] += 1
        if not isinstance(event, Finished | Deferred):
            return
        self._check_fence(ended.place, event, ended.fences)
        # A copy of the outcome is what an append leaves that was made again for want of an answer.
        if isinstance(event, Finished) and event.fence == ended.fence:
            outcome = event.outcome
            if (outcome.status, outcome.finished_at, _blob(outcome)) != (
                ended.status,
                ended.at,
                ended.result,
            ):
                detail = f"{outcome.status} after {ended.status}, both under fence {ended.fence}"
                self._wrong.append(Finding(Kind.CONTRADICTED, event.task_id, ended.place.queue, detail))

    def _check_fence(self, place: Place, event: Finished | Deferred, fences: tuple[int, ...]) -> None:
        if event.fence not in fences and place.queue not in self.trimmed:
            name = type(event).__name__
            detail = f"{name} under fence {event.fence} in partition {place.partition}"
            self._wrong.append(Finding(Kind.UNCLAIMED, event.task_id, place.queue, detail))

    # --- what it amounts to

    def state(self, task_id: str) -> TaskState | None:
        """Of an accepted task that has not ended."""
        return self._partitions[self.accepted[task_id].place].fold.get(task_id)

    def last(self, task_id: str) -> int:
        """The offset of the last event that counts of an accepted task that has not ended, or -1."""
        course = self._partitions[self.accepted[task_id].place].courses.get(task_id)
        return course.last if course else NO_FENCE

    def read_to(self, place: Place) -> int:
        return self._partitions[place].read_to

    def status(self, task_id: str) -> Status | None:
        """What readers should see of an accepted task. None while it is claimed for something else than an
        attempt: that shows nowhere."""
        if ended := self.ended.get(task_id):
            return ended.status
        state = self.state(task_id)
        match state.phase if state else None:
            case Phase.CLAIMED if state is not None:
                return Status.IN_PROGRESS if state.runs else None
            case Phase.WAITING if state is not None:
                return {Reason.SCHEDULE: Status.SCHEDULED, Reason.RETRY: Status.RETRYING}.get(
                    state.reason or Reason.SCHEDULE, Status.QUEUED
                )
        return Status.SCHEDULED if self.accepted[task_id].scheduled else Status.QUEUED

    def counts(self, queue: str) -> QueueCounts:
        counted: Counter[str] = Counter()
        for task_id, accepted in self.accepted.items():
            if accepted.place.queue != queue:
                continue
            counted["accepted"] += 1
            if ended := self.ended.get(task_id):
                counted[ended.status.value.lower()] += 1
                continue
            state = self.state(task_id)
            claimed = state is not None and state.phase is Phase.CLAIMED
            counted["running" if claimed else "waiting"] += 1
        return QueueCounts(queue, **counted, attempts=self.attempts[queue], void=self.void[queue])

    def findings(self) -> Iterator[Finding]:
        """What is off by the log alone, its dead letters aside."""
        yield from self._wrong
        for place, partition in self._partitions.items():
            for task_id in partition.courses.keys() - self.accepted.keys():
                if place.queue not in self.trimmed:
                    yield Finding(Kind.UNACCEPTED, task_id, place.queue, f"partition {place.partition}")
        for task_id, ended in self.ended.items():
            if task_id not in self.accepted and ended.place.queue not in self.trimmed:
                yield Finding(Kind.UNACCEPTED, task_id, ended.place.queue, _at(ended.place, ended.offset))
        for record in self.records.values():
            queue = record.place.queue
            if record.task_id in self.ended:
                yield Finding(Kind.LEFT_RECORD, record.task_id, queue, f"under fence {record.fence}")
            elif record.task_id not in self.accepted and queue not in self.trimmed:
                yield Finding(Kind.UNACCEPTED, record.task_id, queue, "a deferred record")


def _blob(outcome: Outcome) -> BlobRef | None:
    return outcome.result.blob if outcome.result else None


def _at(place: Place, offset: int) -> str:
    return f"partition {place.partition}, offset {offset}"
