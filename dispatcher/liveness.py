"""Who is alive: this dispatcher's own heartbeat, and how long others have been missing.

A heartbeat lists the fences that its dispatcher holds. A claim may be taken over only by who has seen its
holder, or the fence in the holder's heartbeat, absent for a whole heartbeat's life on its own monotonic
clock, with Redis answering all the while. So a flush of Redis starts no stampede.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from mayfly.errors import ReadModelUnavailable
from mayfly.steps import Held

log = logging.getLogger(__name__)

FORGET_AFTER: Final = 10
"""Lives after which an absence that nobody asks about is dropped."""


class Heartbeats(Protocol):
    """Both raise `ReadModelUnavailable`."""

    async def beat(self, dispatcher_id: str, heartbeat: dict[str, Any], life_seconds: float) -> None: ...

    async def dispatchers(self) -> list[dict[str, Any]]: ...


class Liveness:
    """`held` are the fences that this process holds, as (partition, fence)."""

    def __init__(
        self,
        dispatcher_id: str,
        heartbeats: Heartbeats,
        *,
        describe: Callable[[], dict[str, Any]],
        interval: float,
        life: float,
        clock: Callable[[], float],
    ) -> None:
        self._id = dispatcher_id
        self._heartbeats = heartbeats
        self._describe = describe
        self._interval = interval
        self._life = life
        self._clock = clock
        self.held: set[tuple[int, int]] = set()
        self._alive: dict[str, set[str]] = {}
        self._looked_at = clock()
        # Since when, by our clock, an id or one of its fences has been absent.
        self._missing: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        # Apart: each question to a Redis that answers slowly takes its time, and no beat is to wait for them.
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again_and_again(self._beat))
            group.create_task(self._again_and_again(self._look))

    async def _again_and_again(self, call: Callable[[], Awaitable[None]]) -> None:
        while True:
            await call()
            await asyncio.sleep(self._interval)

    async def refresh(self) -> None:
        """Beat, and look at who else does."""
        await self._beat()
        await self._look()

    async def _beat(self) -> None:
        heartbeat = {"id": self._id, **self._describe(), "fences": sorted(_name(*one) for one in self.held)}
        try:
            await self._heartbeats.beat(self._id, heartbeat, self._life)
        except ReadModelUnavailable as error:
            self._unseen(error)

    async def _look(self) -> None:
        try:
            alive = {one["id"]: set(one["fences"]) for one in await self._heartbeats.dispatchers()}
        except ReadModelUnavailable as error:
            self._unseen(error)
            return
        now = self._looked_at = self._clock()
        for gone in self._alive.keys() - alive.keys():
            self._missing.setdefault((gone, ""), now)
        self._alive = alive
        self._missing = {
            key: since
            for key, since in self._missing.items()
            if not self._present(*key) and now - since < FORGET_AFTER * self._life
        }

    def _unseen(self, error: ReadModelUnavailable) -> None:
        # What could not be seen was not absent.
        self._missing.clear()
        log.warning("no heartbeat: %s", error)

    def is_gone(self, held: Held, partition: int) -> bool:
        """Whether the holder of a claim has been seen absent for a whole life. Asking starts the watch."""
        if (partition, held.fence) in self.held:
            return False
        fence = _name(partition, held.fence)
        if self._present(held.holder, fence):
            return False
        since = self._missing.setdefault((held.holder, fence), self._clock())
        # Up to the last look and not to now: while Redis hangs, nobody is seen to be absent.
        return self._looked_at - min(since, self._missing.get((held.holder, ""), since)) >= self._life

    def _present(self, holder: str, fence: str) -> bool:
        fences = self._alive.get(holder)
        return fences is not None and (not fence or fence in fences)


def _name(partition: int, fence: int) -> str:
    return f"{partition}:{fence}"
