"""Takes a backup while everything runs: what is read when, so that it is one state that could have been.

Each thing is read before what it follows from, so that nothing is there without its cause: records that wait
before the checkpoint that vouches for them; both, and what follows from the events, before the events; the
events before the commands that they name; commands before the catalog by which they were accepted; and the
objects in the store, which are put there before they are named, last of all.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from mayfly.adapters.kafka import (
    AUDIT_TOPIC,
    CONTROL_TOPIC,
    DEAD_LETTER_TOPIC,
    FUNCTIONS_TOPIC,
    deferred_topic,
    events_topic,
    lane_topic,
    webhooks_topic,
)
from mayfly.adapters.kafka_offsets import Slot
from mayfly.backup.files import BackupError, Record, RecordFiles
from mayfly.backup.manifest import Committed, Span
from mayfly.backup.source import Source
from mayfly.task import LAST_OFFSET, NO_FENCE, Lane

ROUNDS: Final = 200
"""How often it looks for a moment in which a partition's checkpoint stays as it is."""


class _Released(msgspec.Struct):
    """What there is to know of a command."""

    releases: int = NO_FENCE


_decoder: Final = msgspec.json.Decoder(_Released)


class Backup:
    def __init__(self, source: Source, files: RecordFiles) -> None:
        self._source = source
        self._files = files
        self.queues = source.queues()
        self.checkpoints: dict[str, tuple[Committed | None, ...]] = {}
        self._starts: dict[Slot, int] = {}
        self._ends: dict[Slot, int] = {}
        self._counts: Counter[Slot] = Counter()
        self._known: dict[Slot, int] = {}
        """Of a lane's partition, up to where its events were read: no fence from there on is known."""
        self._cut: set[Slot] = set()

    def take(self) -> None:
        """Raises `LogUnavailable`, and `BackupError`."""
        if not self.queues:
            raise BackupError(
                "Kafka has nothing that Mayfly has written", mend="look whether it is the right one"
            )
        queues = sorted(self.queues)
        for queue in queues:
            self.checkpoints[queue] = self._waiting(queue)
        self._all(DEAD_LETTER_TOPIC, *map(webhooks_topic, queues))
        self._all(*map(events_topic, queues))
        for queue in queues:
            for slot in self._source.slots([lane_topic(queue, lane) for lane in Lane]):
                self._known[slot] = self._ends[events_topic(queue), slot[1]]
        self._all(*(lane_topic(queue, lane) for queue in queues for lane in Lane))
        self._all(FUNCTIONS_TOPIC, CONTROL_TOPIC, AUDIT_TOPIC)

    def topics(self) -> dict[str, tuple[Span, ...]]:
        found: dict[str, list[Span]] = {}
        for slot in sorted(self._starts):
            span = Span(self._starts[slot], self._ends[slot], self._counts[slot])
            found.setdefault(slot[0], []).append(span)
        return {topic: tuple(spans) for topic, spans in found.items()}

    def _waiting(self, queue: str) -> tuple[Committed | None, ...]:
        """The records of the tasks that wait, and the checkpoints to them.

        A checkpoint that is older than they are may rest on a record that is gone by now, since one that does
        without it was committed meanwhile; one that is newer, on a record that was not read. So it is one
        that is the same before and after.
        """
        topic = deferred_topic(queue)
        self._all(topic)
        before = self._source.checkpoints(queue)
        settled: dict[int, Committed | None] = {}
        for _ in range(ROUNDS):
            open_ = [slot for slot in self._source.slots([topic]) if slot[1] not in settled]
            self._on(open_)
            after = self._source.checkpoints(queue)
            settled |= {number: after[number] for _, number in open_ if after[number] == before[number]}
            if len(settled) == len(after):
                return tuple(settled[number] for number in range(len(after)))
            before = after
        raise BackupError(f"{topic} changes faster than it can be read", mend="try again when less waits")

    def _all(self, *topics: str) -> None:
        slots = self._source.slots(topics)
        starts = self._source.starts(slots)
        for slot in slots:
            self._files.add(*slot)
        self._starts |= starts
        self._ends |= starts
        self._on(slots)

    def _on(self, slots: Iterable[Slot]) -> None:
        """From where they were read to, to the ends that they have now."""
        starts = {slot: self._ends[slot] for slot in slots}
        ends = self._source.ends(starts)
        self._ends |= ends
        self._source.read(starts, ends, self._take)

    def _take(self, slot: Slot, record: Record) -> None:
        if slot in self._cut:
            return
        if _fence(record) >= self._known.get(slot, LAST_OFFSET + 1):
            # It releases a task under a fence that is not in the backup, and that another event will have.
            # What came after it in its lane came after the backup's events as well.
            self._cut.add(slot)
            self._ends[slot] = record.offset
            return
        self._files.write(*slot, record)
        self._counts[slot] += 1


def _fence(command: Record) -> int:
    """That a command releases; -1 for all else."""
    if command.value is None or b"releases" not in command.value:
        return NO_FENCE
    try:
        return _decoder.decode(command.value).releases
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NO_FENCE
