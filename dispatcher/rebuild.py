"""Writes a partition's part of the read model anew, from the whole log.

A reader of its own, beside the owner: what the owner projects meanwhile carries later positions, so it does
not matter which of the two comes first.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final, Protocol

from mayfly import view
from mayfly.events import decode_event
from mayfly.history import History
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

    async def project(self, commands: Iterable[QueuedTask], changes: Iterable[Change]) -> None: ...

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
    ) -> None:
        self._replay = replay
        self._read_model = read_model
        self._queue = queue
        self._lanes = {topic: lane for lane, topic in lane_topics.items()}
        self._events = events_topic
        self._dead_letters = dead_letter_topic

    async def partition(self, number: int) -> None:
        """Raises `LogUnavailable`, `ReadModelUnavailable`."""
        history = History(number)
        failed: set[str] = set()
        lately = (time.time() - LATELY_SECONDS) * 1000
        topics = [*self._lanes, self._events]
        async for batch in self._replay([(topic, number) for topic in topics]):
            commands, changes = [], []
            for entry in batch:
                if entry.topic != self._events:
                    if task := self._task(entry):
                        commands.append(task)
                elif change := self._change(history, entry):
                    changes.append(change)
                    if change.status is Status.FAILED and entry.timestamp < lately:
                        failed.add(change.task_id)
            await self._read_model.project(commands, changes)
        if failed:
            await self._read_model.not_dead(failed - await self._letters())

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

    def _change(self, history: History, entry: Entry) -> Change | None:
        event = decode_event(entry.value)
        if event is None:
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
