"""Waiting for a task: one subscription for the whole process, and whoever waits for its end or for any change
of it, by task. While nobody waits there is none: to hear of every change of every task costs.

A message can be lost, and the subscription can break: so whoever waits reads again every few seconds, and
whenever the subscription stands anew. What was lost then only costs time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import Final

from gateway.ports import ReadModel
from mayfly.errors import ReadModelUnavailable
from mayfly.task import TERMINAL

log = logging.getLogger(__name__)

RESUBSCRIBE_SECONDS: Final = 0.5
IDLE_SECONDS: Final = 5.0
"""How long the subscription outlives whoever waited last: the next may be about to come."""
_ANY: Final = ""
"""No task's id: for those who watch all of them."""
Record = dict[str, str]


class Waiters:
    """Those who wait for tasks. `follow` runs as long as the process does."""

    def __init__(self, read_model: ReadModel, *, recheck_seconds: float = 3.0) -> None:
        self._read_model = read_model
        self._recheck = recheck_seconds
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._watching: dict[str, set[asyncio.Event]] = {}
        self._closing = False
        self._needed = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(events) for of in (self._waiting, self._watching) for events in of.values())

    @property
    def closing(self) -> bool:
        """Whether the process is about to end."""
        return self._closing

    async def follow(self) -> None:
        while True:
            await self._needed.wait()
            try:
                async with aclosing(self._read_model.changes()) as changes:
                    await self._hear(changes)
            except ReadModelUnavailable as error:
                log.warning("changes are not heard just now", extra={"reason": str(error)})
                await asyncio.sleep(RESUBSCRIBE_SECONDS)

    async def _hear(self, changes: AsyncIterator[tuple[str, str]]) -> None:
        """Returns when nobody has waited for a while."""
        clock = asyncio.get_running_loop().time
        idle_at = clock() + IDLE_SECONDS
        async for task_id, status in changes:
            if self._waiting or self._watching:
                idle_at = clock() + IDLE_SECONDS
            elif clock() > idle_at:
                self._needed.clear()
                return
            if not task_id:
                self._wake_all()
                continue
            _wake(self._watching, task_id)
            _wake(self._watching, _ANY)
            if status in TERMINAL:
                _wake(self._waiting, task_id)

    async def until_terminal(
        self, task_id: str, seconds: float, gone: Callable[[], Awaitable[bool]]
    ) -> Record | None:
        """The task at its end, or as it is after `seconds`, or when nobody is there to hear it any more.

        Raises `ReadModelUnavailable`.
        """
        record = await self._read_model.get(task_id)
        if seconds == 0 or _settled(record):
            return record
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        with self._enlisted(self._waiting, task_id) as woken:
            while True:
                # Read after enlisting: an end in between would not be told again.
                record = await self._read_model.get(task_id)
                left = deadline - loop.time()
                if _settled(record) or left <= 0 or self._closing or await gone():
                    return record
                await _wait(woken, min(left, self._recheck))
                woken.clear()

    def close(self) -> None:
        """Let everybody go with what is known: the process is about to end."""
        self._closing = True
        self._wake_all()

    def watching(self, task_id: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set whenever something of the task may have changed, and at the process's end."""
        return self._enlisted(self._watching, task_id)

    def watching_all(self) -> AbstractContextManager[asyncio.Event]:
        """The same of any task."""
        return self._enlisted(self._watching, _ANY)

    async def next_change(self, woken: asyncio.Event) -> None:
        """Returns when the event is set, and after a few seconds even so. Clears it."""
        await _wait(woken, self._recheck)
        woken.clear()

    def _wake_all(self) -> None:
        for of in (self._waiting, self._watching):
            for task_id in of:
                _wake(of, task_id)

    @contextmanager
    def _enlisted(self, of: dict[str, set[asyncio.Event]], task_id: str) -> Iterator[asyncio.Event]:
        woken = asyncio.Event()
        events = of.setdefault(task_id, set())
        events.add(woken)
        self._needed.set()
        try:
            yield woken
        finally:
            events.discard(woken)
            if not events:
                del of[task_id]


def _wake(of: dict[str, set[asyncio.Event]], task_id: str) -> None:
    for event in of.get(task_id, ()):
        event.set()


def _settled(record: Record | None) -> bool:
    return record is None or record.get("status") in TERMINAL


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
