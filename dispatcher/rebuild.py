"""Writes a partition's part of the read model anew, from the whole log.

A reader of its own, beside the owner: what the owner projects meanwhile carries later positions, so it does
not matter which of the two comes first.

What was swept stays away. Its key may have been used anew since: shown again, it would be taken for what
became of a task that nobody has run yet.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final, Protocol

from mayfly import view
from mayfly.events import decode_event
from mayfly.history import End, History
from mayfly.retention import FOR_EVER, Retention
from mayfly.task import Lane, MalformedCommand, Status, decode_envelope
from mayfly.view import Change, QueuedTask

BATCH: Final = 1000
LATELY_SECONDS: Final = 60.0
"""A dead letter that young may not be in its topic yet."""


class Entry(Protocol):
    """A record as it stands in its topic."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> str: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def timestamp(self) -> int: ...


class ReadModel(Protocol):
    """Raises `ReadModelUnavailable`."""

    async def project(
        self, commands: Iterable[QueuedTask], changes: Iterable[Change], *, quiet: bool
    ) -> None:
        """`quiet`: without telling those who follow what happens."""

    async def not_dead(self, task_ids: Iterable[str]) -> None: ...


Replay = Callable[[Sequence[tuple[str, int]]], AsyncIterator[Sequence[Entry]]]
"""Every record of these (topic, partition) pairs, in batches. Raises `LogUnavailable`."""


class Rebuild:
    def __init__(
        self,
        replay: Replay,
        read_model: ReadModel,
        *,
        queue: str,
        lane_topics: dict[Lane, str],
        events_topic: str,
        dead_letter_topic: str,
        retention: Retention = FOR_EVER,
    ) -> None:
        self._replay = replay
        self._read_model = read_model
        self._queue = queue
        self._lanes = {topic: lane for lane, topic in lane_topics.items()}
        self._events = events_topic
        self._dead_letters = dead_letter_topic
        self._retention = retention

    async def partition(self, number: int) -> None:
        """Raises `LogUnavailable`, `ReadModelUnavailable`."""
        now = time.time() * 1000
        history = History(number, self._retention)
        failed: set[str] = set()
        swept: dict[str, End] | None = None
        topics = [*self._lanes, self._events]
        async for batch in self._replay([(topic, number) for topic in topics]):
            if swept is None and any(entry.timestamp < now - self._retention.shortest for entry in batch):
                # Before anything that old is written. A log that is younger is read only once.
                swept = await self._swept(number, now)
            commands, changes = [], []
            for entry in batch:
                if entry.topic != self._events:
                    if (task := self._task(entry)) and not self._is_swept(swept, task.task_id, entry):
                        commands.append(task)
                elif change := self._change(history, swept, entry):
                    changes.append(change)
                    if change.status is Status.FAILED and entry.timestamp < now - LATELY_SECONDS * 1000:
                        failed.add(change.task_id)
            await self._read_model.project(commands, changes, quiet=True)
        if failed:
            await self._read_model.not_dead(failed - await self._letters())

    async def _swept(self, number: int, now: float) -> dict[str, End]:
        """The tasks that are to be left out up to their ends: kept for long enough, or followed by others
        with their ids."""
        letters = await self._letters()
        history = History(number, self._retention)
        async for batch in self._replay([(self._events, number)]):
            for entry in batch:
                if (event := decode_event(entry.value)) is not None:
                    history.apply(entry.offset, event, entry.timestamp)
        over = {
            task_id: end
            for task_id, end in history.ended.items()
            if self._retention.is_over(end.at, now, failed=end.failed, letter=task_id in letters)
        }
        return history.before | over

    def _is_swept(self, swept: dict[str, End] | None, task_id: str, entry: Entry) -> bool:
        """Whether the record is of a task that is left out, or a late copy of one of its records."""
        end = swept.get(task_id) if swept else None
        return end is not None and not self._retention.is_anew(entry.timestamp, end.at)

    def _task(self, entry: Entry) -> QueuedTask | None:
        try:
            envelope = decode_envelope(
                entry.value, topic=entry.topic, partition=entry.partition, offset=entry.offset
            )
        except MalformedCommand as error:
            envelope = error.envelope
        return view.queued(
            envelope,
            queue=self._queue,
            lane=self._lanes[entry.topic],
            partition=entry.partition,
            offset=entry.offset,
            at=entry.timestamp,
        )

    def _change(self, history: History, swept: dict[str, End] | None, entry: Entry) -> Change | None:
        event = decode_event(entry.value)
        if event is None or self._is_swept(swept, event.task_id, entry):
            return None
        return history.change(entry.offset, event, entry.timestamp)

    async def _letters(self) -> set[str]:
        """The ids of the dead letters that there are."""
        found: set[str] = set()
        async for batch in self._replay([(self._dead_letters, 0)]):
            for entry in batch:
                if entry.value is None:
                    found.discard(entry.key)
                else:
                    found.add(entry.key)
        return found
