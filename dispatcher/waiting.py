"""The tasks of one partition that wait in deferred records, and which of them is to be released next.

Pure: it holds what was read back, and is told the time.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from mayfly.events import DeferredRecord, Reason, decode_record
from mayfly.placement import Limit

_SLACK: Final = 1024
"""Entries of tasks that wait no more, beyond as many as do wait, before a heap is made anew."""


class Waiting(NamedTuple):
    """A task that waits. `value` is its record as it stands in the topic: it is decoded again on release."""

    task_id: str
    key: str
    fence: int
    value: bytes
    limit: Limit | None = None

    def limited(self, limit: Limit | None) -> "Waiting":
        return Waiting(self.task_id, self.key, self.fence, self.value, limit)

    @property
    def record(self) -> DeferredRecord:
        record = decode_record(self.value)
        assert record is not None
        return record


class WaitingRoom:
    """Who waits for a time is in a heap, who waits for a turn in a queue of its group."""

    def __init__(self) -> None:
        self._tasks: dict[str, Waiting] = {}
        self._due: list[tuple[int, int, str]] = []
        self._expiries: list[tuple[int, int, str]] = []
        self._hurried: deque[tuple[str, int]] = deque()
        self._turns: dict[str, deque[tuple[str, int]]] = {}
        # The groups that may have room, in the order in which they are looked at: each has its turn.
        self._ready: dict[str, None] = {}
        self._released: dict[str, str | None] = {}
        self._released_of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, task_id: str) -> Waiting | None:
        return self._tasks.get(task_id)

    @property
    def released(self) -> int:
        """Tasks whose release is on its way."""
        return len(self._released)

    def released_of(self, group: str) -> int:
        return self._released_of[group]

    def waits(self, group: str) -> bool:
        """Whether some wait for their turn. Rather than to pass them, others wait behind them."""
        return group in self._turns

    def add(self, waiting: Waiting, record: DeferredRecord, expires: int | None) -> None:
        """`expires` is when a first attempt would be too late, milliseconds since 1970."""
        task_id, fence = waiting.task_id, waiting.fence
        self._tasks[task_id] = waiting
        if record.reason is Reason.LIMIT and waiting.limit is not None:
            self._turns.setdefault(waiting.limit.group, deque()).append((task_id, fence))
            self.freed(waiting.limit.group)
        else:
            self._due = self._pushed(self._due, (record.due, fence, task_id))
        if expires is not None and record.attempt == 0:
            self._expiries = self._pushed(self._expiries, (expires, fence, task_id))

    def remove(self, task_id: str) -> Waiting | None:
        """It waits no more. What stands of it elsewhere is passed over."""
        if task_id in self._released:
            group = self._released.pop(task_id)
            if group is not None:
                self._released_of[group] -= 1
                if not self._released_of[group]:
                    del self._released_of[group]
        return self._tasks.pop(task_id, None)

    # --- whose time or turn has come; each of them is marked as released

    def due(self, now: int, most: int) -> Iterator[Waiting]:
        """Those whose time has come, or is over."""
        while self._expiries and self._expiries[0][0] <= now:
            _, fence, task_id = heapq.heappop(self._expiries)
            self._hurried.append((task_id, fence))
        while most > 0 and self._hurried:
            if waiting := self._release(*self._hurried.popleft()):
                most -= 1
                yield waiting
        while most > 0 and self._due and self._due[0][0] <= now:
            _, fence, task_id = heapq.heappop(self._due)
            if waiting := self._release(task_id, fence):
                most -= 1
                yield waiting

    def hurry(self, task_id: str) -> None:
        """It is to be released whatever it waits for."""
        if waiting := self._tasks.get(task_id):
            self._hurried.append((task_id, waiting.fence))

    def turns(self, room: Callable[[Waiting], int], most: int) -> Iterator[Waiting]:
        """Those whose turn has come: of each group as many as there is `room` for."""
        for group in list(self._ready):
            if most <= 0:
                return
            del self._ready[group]
            queue = self._turns[group]
            free: int | None = None
            while queue and most > 0:
                waiting = self._still(*queue[0])
                if waiting is None:
                    queue.popleft()
                    continue
                free = room(waiting) if free is None else free
                if free <= 0:
                    break
                queue.popleft()
                free -= 1
                most -= 1
                self._mark(waiting, group)
                yield waiting
            if not queue:
                del self._turns[group]
            elif most <= 0:
                self._ready[group] = None

    def freed(self, group: str) -> None:
        """There may be room for one of the group."""
        if group in self._turns:
            self._ready[group] = None

    def all_may_be_ready(self) -> None:
        """A limit may have been raised: every group is looked at again."""
        self._ready.update(dict.fromkeys(self._turns))

    @property
    def next_time(self) -> int | None:
        """When something is due or expires next, milliseconds since 1970."""
        times = [heap[0][0] for heap in (self._due, self._expiries) if heap]
        return 0 if self._hurried else min(times, default=None)

    def _release(self, task_id: str, fence: int) -> Waiting | None:
        if waiting := self._still(task_id, fence):
            self._mark(waiting, waiting.limit.group if waiting.limit else None)
        return waiting

    def _mark(self, waiting: Waiting, group: str | None) -> None:
        self._released[waiting.task_id] = group
        if group is not None:
            self._released_of[group] += 1

    def _still(self, task_id: str, fence: int) -> Waiting | None:
        waiting = self._tasks.get(task_id)
        gone = waiting is None or waiting.fence != fence or task_id in self._released
        return None if gone else waiting

    def _pushed(
        self, heap: list[tuple[int, int, str]], entry: tuple[int, int, str]
    ) -> list[tuple[int, int, str]]:
        if len(heap) > 2 * len(self._tasks) + _SLACK:
            heap = [(time, fence, task_id) for time, fence, task_id in heap if self._still(task_id, fence)]
            heapq.heapify(heap)
        heapq.heappush(heap, entry)
        return heap
