"""Kafka and Redis as the dispatchers see them, in memory: both lose, delay and forget as the dice say."""

import asyncio
import bisect
import json
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from virtual import VirtualLoop

from mayfly.errors import LogUnavailable, ReadModelUnavailable
from mayfly.task import TERMINAL, Status
from mayfly.view import Change, QueuedTask

EVENTS, DEFERRED, LETTERS, WEBHOOKS = "events", "deferred", "letters", "webhooks"
TIMEOUT = 2.0
"""Seconds until a sender gives up."""


class Entry(NamedTuple):
    topic: str
    partition: int
    offset: int
    key: str
    value: bytes | None
    timestamp: int


class Broker:
    """One partition of each topic. `calm` is a broker that never fails."""

    def __init__(self, loop: VirtualLoop, dice: random.Random) -> None:
        self._loop = loop
        self._dice = dice
        self.topics: dict[str, list[Entry]] = {}
        self.ends: dict[str, int] = {}
        self.calm = False
        self.late = 0.0
        self.down_until = 0.0
        self.in_flight = 0
        self.on_landed: Any = None

    def land(self, topic: str, key: str, value: bytes | None) -> Entry:
        offset = self.ends.get(topic, 0)
        entry = Entry(topic, 0, offset, key, value, self._loop.milliseconds())
        self.topics.setdefault(topic, []).append(entry)
        # Now and then an offset holds no record.
        self.ends[topic] = offset + 1 + (self._dice.random() < 0.02)
        self.on_landed(entry)
        return entry

    def read(self, topic: str, start: int, most: int) -> list[Entry]:
        entries = self.topics.get(topic, [])
        first = bisect.bisect_left(entries, start, key=lambda entry: entry.offset)
        return entries[first : first + most]

    def end(self, topic: str) -> int:
        return self.ends.get(topic, 0)

    def compact(self, topic: str) -> None:
        """Tombstones stay: the broker keeps them for a day, so that who reads from the start sees them."""
        entries = self.topics.get(topic, [])
        latest = {entry.key: entry for entry in entries}
        self.topics[topic] = [entry for entry in entries if latest[entry.key] is entry]

    async def append(self, sender: Any, topic: str, key: str, value: bytes | None) -> None:
        """Raises `LogUnavailable`: then it may have landed, may land later, or never."""
        dice = self._dice
        way, back = dice.expovariate(200), dice.expovariate(200)
        fate = 1.0 if self.calm else dice.random()
        if self.down_until > self._loop.time() or fate < 0.02:
            await asyncio.sleep(TIMEOUT)
            raise LogUnavailable("it never landed")
        if fate < 0.05:
            self._later(way, sender, topic, key, value)
            await asyncio.sleep(TIMEOUT)
            raise LogUnavailable("it landed")
        if fate < 0.05 + self.late:
            self._later(TIMEOUT + dice.uniform(0, 8), sender, topic, key, value)
            await asyncio.sleep(TIMEOUT)
            raise LogUnavailable("it lands later")
        if fate < 0.09 + self.late:
            way += dice.uniform(0, 0.5)
        self._later(way, sender, topic, key, value)
        await asyncio.sleep(way + back)

    def _later(self, way: float, sender: Any, topic: str, key: str, value: bytes | None) -> None:
        self.in_flight += 1
        # What a sender that dies has sent may be on the wire, or still in its memory.
        survives = self._dice.random() < 0.5

        def land() -> None:
            self.in_flight -= 1
            if sender.alive or survives:
                self.land(topic, key, value)

        self._loop.call_later(way, land)

    async def replay(self, places: Sequence[tuple[str, int]]) -> AsyncIterator[Sequence[Entry]]:
        for topic, _ in places:
            end, at = self.end(topic), 0
            while batch := self.read(topic, at, 50):
                await asyncio.sleep(0.001)
                yield [entry for entry in batch if entry.offset < end]
                at = batch[-1].offset + 1


class Redis:
    """The read model and the heartbeats."""

    def __init__(self, loop: VirtualLoop, dice: random.Random) -> None:
        self._loop = loop
        self._dice = dice
        self.calm = False
        self.away_until = 0.0
        self.flush()

    def flush(self) -> None:
        self.tasks: dict[str, dict[str, str]] = {}
        self.there: dict[int, str] = {}
        self.tokens: dict[int, str] = {}
        self.beats: dict[str, tuple[float, str]] = {}

    async def _answer(self) -> None:
        await asyncio.sleep(self._dice.expovariate(1000))
        if self.away_until > self._loop.time() or (not self.calm and self._dice.random() < 0.002):
            await asyncio.sleep(0.5)
            raise ReadModelUnavailable("away")

    async def project(
        self, commands: Iterable[QueuedTask], changes: Iterable[Change], *, quiet: bool = False
    ) -> None:
        await self._answer()
        for task in commands:
            fields = self.tasks.setdefault(task.task_id, {})
            fields |= task.fields()
            fields.setdefault("status", task.status.value)
        for change in changes:
            self._change(change)

    def _change(self, change: Change) -> None:
        fields = self.tasks.setdefault(change.task_id, {})
        status = fields.get("status", Status.QUEUED.value)
        if int(fields.get("position", -1)) >= change.offset or Status(status) in TERMINAL:
            return
        for name in change.removed:
            fields.pop(name, None)
        told = change.status.value if change.status else status
        fields |= change.fields | {"position": str(change.offset), "status": told}

    async def mark(self, queue: str, partition: int, before: str, after: str) -> bool:
        await self._answer()
        if self.there.get(partition, "") not in (before, after):
            return False
        self.there[partition] = after
        return True

    async def begin_rebuild(self, queue: str, partition: int, token: str) -> None:
        await self._answer()
        self.there.pop(partition, None)
        self.tokens[partition] = token

    async def end_rebuild(self, queue: str, partition: int, token: str, mark: str) -> bool:
        await self._answer()
        if self.there.get(partition) == mark:
            return True
        if self.tokens.get(partition) != token:
            return False
        del self.tokens[partition]
        self.there[partition] = mark
        return True

    async def marks(self, queue: str) -> dict[int, str]:
        await self._answer()
        return dict(self.there)

    async def not_dead(self, task_ids: Iterable[str]) -> None:
        await self._answer()

    async def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None: ...

    async def append_log(self, task_id: str, fence: int, text: str) -> None: ...

    async def known(self, task_id: str) -> tuple[str | None, str | None]:
        await self._answer()
        fields = self.tasks.get(task_id, {})
        return fields.get("status"), fields.get("fence")

    async def beat(self, dispatcher_id: str, heartbeat: dict[str, Any], life_seconds: float) -> None:
        await self._answer()
        self.beats[dispatcher_id] = (self._loop.time() + life_seconds, json.dumps(heartbeat))

    async def dispatchers(self) -> list[dict[str, Any]]:
        await self._answer()
        now = self._loop.time()
        return [json.loads(beat) for until, beat in self.beats.values() if until > now]
