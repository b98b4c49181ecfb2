"""Whether the read model has all that the log has: while it has not, reads are answered 503.

The owner of each partition leaves a mark in the read model when it has told it everything, and takes it away
when it finds that something was lost. A flush takes all marks. A queue that never had a dispatcher has none
either, and nothing to miss: only one that was served needs its marks.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol

from mayfly.errors import LogUnavailable, ReadModelUnavailable

UNUSED_SECONDS: Final = 1.0
"""For so long a queue that no dispatcher has served is taken to be without one."""


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
        self._unused_until: dict[str, float] = {}

    async def require(self) -> None:
        """Raises `ReadModelUnavailable` while anything is missing."""
        if missing := await self.missing():
            raise ReadModelUnavailable(f"the read model of queue {missing[0]} is being rebuilt")

    async def missing(self) -> list[str]:
        """The queues of which not everything is there."""
        marked = await self._marks.marked(sorted(set(self._queues())))
        self._used.update(queue for queue, count in marked.items() if count >= self._partitions)
        return [
            queue
            for queue, count in marked.items()
            if count < self._partitions and await self._is_used(queue)
        ]

    async def start_over(self) -> list[str]:
        """Have all of it written anew; the queues whose dispatchers are to do that."""
        queues = [queue for queue in sorted(set(self._queues())) if await self._is_used(queue)]
        for queue in queues:
            await self._marks.unmark_all(queue)
        return queues

    async def _is_used(self, queue: str) -> bool:
        if queue in self._used:
            return True
        if self._unused_until.get(queue, 0) > self._clock():
            return False
        try:
            if await self._was_served(queue):
                self._used.add(queue)
                return True
        except LogUnavailable as error:
            if queue not in self._unused_until:
                message = f"whether queue {queue} has tasks cannot be told: {error}"
                raise ReadModelUnavailable(message) from error
            # Nobody had served it before, and while the log is away nobody does.
        self._unused_until[queue] = self._clock() + UNUSED_SECONDS
        return False
