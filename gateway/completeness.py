"""Whether the read model has all that the log has: while it has not, reads are answered 503.

The owner of each partition leaves a mark in the read model when it has told it everything, and takes it away
when it finds that something was lost. A flush takes all marks. A queue that never had a dispatcher has none
either, and nothing to miss: only one that was served needs its marks.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import compress
from math import inf
from typing import Final, Protocol

from mayfly.errors import LogUnavailable, ReadModelUnavailable

UNUSED_SECONDS: Final = 1.0
"""Between two questions to the log whether a queue that no dispatcher had served has one now."""
TRUSTED_SECONDS: Final = 30.0
"""So old the last answer may be for a read that comes while the log is asked again: that takes longer than a
read does, and a queue that is new has little to miss."""


class Marks(Protocol):
    async def marked(self, queues: Iterable[str]) -> Mapping[str, int]:
        """How many partitions of each queue are marked. Raises `ReadModelUnavailable`."""

    async def unmark_all(self, queue: str) -> None:
        """Take a queue's marks away. Raises `ReadModelUnavailable`."""


class Completeness:
    """`queues` are those that there are; `was_served` asks the log about one, and raises `LogUnavailable`."""

    def __init__(
        self,
        marks: Marks,
        *,
        partitions: int,
        queues: Callable[[], Iterable[str]],
        was_served: Callable[[str], Awaitable[bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._marks = marks
        self._partitions = partitions
        self._queues = queues
        self._was_served = was_served
        self._clock = clock
        self._used: set[str] = set()
        self._unused_at: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[bool]] = {}

    async def require(self) -> None:
        """Raises `ReadModelUnavailable` while anything is missing."""
        if missing := await self.missing():
            raise ReadModelUnavailable(f"the read model of queue {missing[0]} is being rebuilt")

    async def missing(self) -> list[str]:
        """The queues of which not everything is there."""
        lacking = await self._lacking()
        known = self._used.issuperset(lacking)
        used = await self._used_of(lacking)
        if known or not used:
            return used
        # The log was asked after the marks were read, and may have told of what has come since.
        lacking = await self._lacking()
        return [queue for queue in used if queue in lacking]

    async def _lacking(self) -> list[str]:
        """The queues that do not have all of their marks."""
        marked = await self._marks.marked(sorted(set(self._queues())))
        self._used.update(queue for queue, count in marked.items() if count >= self._partitions)
        return [queue for queue, count in marked.items() if count < self._partitions]

    async def start_over(self) -> list[str]:
        """Have all of it written anew; the queues whose dispatchers are to do that."""
        queues = await self._used_of(sorted(set(self._queues())), trusted=UNUSED_SECONDS)
        for queue in queues:
            await self._marks.unmark_all(queue)
        return queues

    async def _used_of(self, queues: Iterable[str], *, trusted: float = TRUSTED_SECONDS) -> list[str]:
        some = list(queues)
        used = await asyncio.gather(*(self._is_used(queue, trusted) for queue in some))
        return list(compress(some, used))

    async def _is_used(self, queue: str, trusted: float) -> bool:
        if queue in self._used:
            return True
        age = self._clock() - self._unused_at.get(queue, -inf)
        if age < UNUSED_SECONDS:
            return False
        if (asking := self._asking.get(queue)) is None:
            asking = self._asking[queue] = asyncio.create_task(self._ask(queue))
            asking.add_done_callback(lambda _: self._asking.pop(queue))
        # Others may wait for the same answer.
        return False if age < trusted else await asyncio.shield(asking)

    async def _ask(self, queue: str) -> bool:
        served = False
        try:
            served = await self._was_served(queue)
        except LogUnavailable as error:
            if queue not in self._unused_at:
                message = f"whether queue {queue} has tasks cannot be told: {error}"
                raise ReadModelUnavailable(message) from error
            # Nobody had served it before, and while the log is away nobody does.
        if served:
            self._used.add(queue)
        else:
            self._unused_at[queue] = self._clock()
        return served
