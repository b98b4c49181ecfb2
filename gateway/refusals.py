"""What was refused, for the audit log: the first of each kind at once, and of the rest how many there were.

Nobody who asks in vain makes the log longer than so many records a minute.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from mayfly.errors import LogUnavailable
from mayfly.identity.chain import Entry

log = logging.getLogger(__name__)

WINDOW_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 5.0
MOST_KINDS: Final = 100
"""Kinds that are told apart within that time: what comes beyond them is counted as one."""
OTHERS: Final = Entry("access.refused", outcome="refused", reason="of many kinds, too many to tell apart")

Write = Callable[[Entry], Awaitable[None]]
"""Raises `LogUnavailable`."""


@dataclass
class _Kind:
    entry: Entry
    more: int = 0
    """How many came after the first one, which has a record of its own."""


class Refusals:
    def __init__(self, write: Write, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._write = write
        self._sleep = sleep
        self._kinds: dict[Entry, _Kind] = {}
        self._first: deque[Entry] = deque(maxlen=10 * MOST_KINDS)
        self._telling: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None

    def note(self, entry: Entry) -> None:
        """Costs whoever is refused no time."""
        kind = msgspec.structs.replace(entry, request_id="", at=0)
        if (known := self._kinds.get(kind)) is not None:
            known.more += 1
        elif len(self._kinds) < MOST_KINDS:
            self._kinds[kind] = _Kind(kind)
            self._first.append(entry)
        else:
            self._kinds.setdefault(OTHERS, _Kind(OTHERS)).more += 1
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_first())
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count())

    async def close(self) -> None:
        """Tell what is left, as far as the log takes it soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._tell_rest()

    async def _tell_rest(self) -> None:
        if running := {task for task in (self._telling, self._counting) if task is not None}:
            if self._counting is not None:
                self._counting.cancel()
            await asyncio.wait(running)
        await self._tell_counts()

    async def _tell_first(self) -> None:
        while self._first:
            await self._told(self._first.popleft())

    async def _count(self) -> None:
        await self._sleep(WINDOW_SECONDS)
        await self._tell_counts()

    async def _tell_counts(self) -> None:
        kinds, self._kinds = self._kinds, {}
        for kind in kinds.values():
            if kind.more:
                await self._told(msgspec.structs.replace(kind.entry, count=kind.more))

    async def _told(self, entry: Entry) -> None:
        try:
            await self._write(entry)
        except LogUnavailable as error:
            log.warning("a refusal is not in the audit log", extra={"reason": str(error)})
