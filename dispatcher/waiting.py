"""The tasks of one partition that wait in deferred records, and which of them is to be released next.

Pure: it holds what was read back, and is told the time.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

from mayfly.events import DeferredRecord, Reason, decode_record
from mayfly.placement import Limit
from mayfly.task import Lane

ENDS: Final = "ends"
Share = Lane | Literal["ends"]
"""What a release counts against: its lane, or what is set aside for tasks that are to end."""
Room = Callable[[Share], int]
"""How many more may be released of a share."""

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

    @property
    def lane(self) -> Lane:
        return _lane(self.record)


class WaitingRoom:
    """Who waits for a time is in a heap of its lane, who waits for a turn in a queue of its group.

    A lane whose releases stand behind a long backlog has no room for more: the others are not to wait for it.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, Waiting] = {}
        # When each is due, and when it would be too late for it, if it has not begun.
        self._due: dict[Lane, list[tuple[int, int, str]]] = {lane: [] for lane in Lane}
        self._hurried: dict[Lane, deque[tuple[str, int]]] = {lane: deque() for lane in Lane}
        self._turns: dict[str, deque[tuple[str, int, Lane]]] = {}
        # The groups that may have room, by the lane of the first that waits, in the order in which they are
        # looked at: each has its turn.
        self._ready: dict[Lane, dict[str, None]] = {lane: {} for lane in Lane}
        self._released: dict[str, tuple[str | None, Share]] = {}
        self._released_of: Counter[str] = Counter()
        self.released_in: Counter[Share] = Counter()
        """Tasks whose release is on its way, by what it counts against."""

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
        task_id, fence, lane = waiting.task_id, waiting.fence, _lane(record)
        self._tasks[task_id] = waiting
        if record.reason is Reason.LIMIT and waiting.limit is not None:
            self._turns.setdefault(waiting.limit.group, deque()).append((task_id, fence, lane))
            self.freed(waiting.limit.group)
        else:
            self._push(lane, (record.due, fence, task_id))
        if expires is not None and record.attempt == 0:
            self._push(lane, (expires, fence, task_id))

    def remove(self, task_id: str) -> Waiting | None:
        """It waits no more. What stands of it elsewhere is passed over."""
        if task_id in self._released:
            group, share = self._released.pop(task_id)
            self.released_in[share] -= 1
            if group is not None:
                self._released_of[group] -= 1
                if not self._released_of[group]:
                    del self._released_of[group]
        return self._tasks.pop(task_id, None)

    # --- whose time or turn has come; each of them is marked as released

    def due(self, now: int, room: Room) -> Iterator[Waiting]:
        """Those whose time has come, or is over, and before them those that are hurried."""
        for lane, hurried in self._hurried.items():
            while hurried and (share := _share_of_an_end(lane, room)) is not None:
                if waiting := self._release(*hurried.popleft(), share):
                    yield waiting
        for lane in Lane:
            while (heap := self._due[lane]) and heap[0][0] <= now and room(lane) > 0:
                _, fence, task_id = heapq.heappop(heap)
                if waiting := self._release(task_id, fence, lane):
                    yield waiting

    def hurry(self, task_id: str) -> None:
        """It is to be released whatever it waits for: it is to end."""
        if waiting := self._tasks.get(task_id):
            self._hurried[waiting.lane].append((task_id, waiting.fence))

    def turns(self, places: Callable[[Waiting], int], room: Room) -> Iterator[Waiting]:
        """Those whose turn has come: of each group as many as there are `places` for."""
        for lane, ready in self._ready.items():
            for group in list(ready):
                if room(lane) <= 0:
                    break
                del ready[group]
                yield from self._turns_of(group, places, room)

    def _turns_of(self, group: str, places: Callable[[Waiting], int], room: Room) -> Iterator[Waiting]:
        queue = self._turns.get(group)
        free: int | None = None
        while queue:
            task_id, fence, lane = queue[0]
            waiting = self._still(task_id, fence)
            if waiting is None:
                queue.popleft()
                continue
            free = places(waiting) if free is None else free
            if free <= 0:
                return
            if room(lane) <= 0:
                self._ready[lane][group] = None
                return
            queue.popleft()
            free -= 1
            self._mark(waiting, group, lane)
            yield waiting
        self._turns.pop(group, None)

    def freed(self, group: str) -> None:
        """There may be room for one of the group."""
        if queue := self._turns.get(group):
            _, _, lane = queue[0]
            self._ready[lane][group] = None

    def all_may_be_ready(self) -> None:
        """A limit may have been raised: every group is looked at again."""
        for group in self._turns:
            self.freed(group)

    def next_time(self, room: Room) -> int | None:
        """When something is due or too late next, milliseconds since 1970, as far as there is room for it."""
        if any(queue and _share_of_an_end(lane, room) for lane, queue in self._hurried.items()):
            return 0
        times = (heap[0][0] for lane, heap in self._due.items() if heap and room(lane) > 0)
        return min(times, default=None)

    def _release(self, task_id: str, fence: int, share: Share) -> Waiting | None:
        if waiting := self._still(task_id, fence):
            self._mark(waiting, waiting.limit.group if waiting.limit else None, share)
        return waiting

    def _mark(self, waiting: Waiting, group: str | None, share: Share) -> None:
        self._released[waiting.task_id] = group, share
        self.released_in[share] += 1
        if group is not None:
            self._released_of[group] += 1

    def _still(self, task_id: str, fence: int) -> Waiting | None:
        waiting = self._tasks.get(task_id)
        gone = waiting is None or waiting.fence != fence or task_id in self._released
        return None if gone else waiting

    def _push(self, lane: Lane, entry: tuple[int, int, str]) -> None:
        heap = self._due[lane]
        if len(heap) > 4 * len(self._tasks) + _SLACK:
            heap = [(time, fence, task_id) for time, fence, task_id in heap if self._still(task_id, fence)]
            heapq.heapify(heap)
            self._due[lane] = heap
        heapq.heappush(heap, entry)


def _lane(record: DeferredRecord) -> Lane:
    assert record.envelope.origin is not None
    return record.envelope.origin.lane


def _share_of_an_end(lane: Lane, room: Room) -> Share | None:
    """What the release of a task that is to end counts against; None where there is no room."""
    if room(ENDS) > 0:
        return ENDS
    return lane if room(lane) > 0 else None
