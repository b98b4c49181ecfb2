"""A partition's deferred topic as it was read: which records count, and how far they are settled.

Pure. A record that the checkpoint vouches for (its offset is below the checkpoint's) is a task's state. Every
other one is judged by the fold: it backs a task that waits, or is stale and goes. What is not settled holds
the checkpoint's offset back, and a record backs its task only when that offset passes it: what rests on a
record alone must be vouched for.
"""

import enum
import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from dispatcher.waiting import Waiting
from mayfly.events import decode_record


@dataclass(slots=True)
class _Unsettled:
    offset: int
    waiting: Waiting
    backs: bool = False
    """Whether the fold said so when it was judged."""


class Stale(NamedTuple):
    """A record that is to go."""

    key: str
    task_id: str


class Restored(NamedTuple):
    """A task's record that is vouched for, as far as the topic was read; None where it is gone again."""

    task_id: str
    waiting: Waiting | None


class Verdict(enum.Enum):
    """Of a record that was found good, once those before it are settled."""

    BACKS = "backs"
    WAITS = "waits"
    """What it takes to back its task is not at hand yet."""
    STALE = "stale"
    """The task went on in the meantime."""


def key_of(task_id: str, fence: int, nonce: str) -> str:
    """A record's key: `nonce` was never used."""
    return f"{task_id}/{fence}/{nonce}"


def task_of(key: str) -> str:
    """The task that a record with that key was written for."""
    return key.partition("/")[0]


def _fence(waiting: Waiting) -> int:
    return waiting.fence


class Records:
    """`vouched` is the offset of the checkpoint that the partition started from."""

    def __init__(self, vouched: int) -> None:
        self._vouched = vouched
        self.end = 0
        """The topic was read up to there."""
        # Until the topic was read to its end: those that are vouched for, of each task, and the others.
        self._of_task: dict[str, dict[str, tuple[int, Waiting]]] = {}
        self._task_of: dict[str, str] = {}
        self._late: dict[str, tuple[int, Waiting]] = {}
        # In the order of their offsets.
        self._unsettled: OrderedDict[str, _Unsettled] = OrderedDict()
        # By fence: to be judged, as soon as the fold has come that far.
        self._unjudged: list[tuple[int, int, str]] = []
        # Of each wait, how many records were found good and are not settled.
        self._to_back = Counter[tuple[str, int]]()
        self._stale: list[Stale] = []
        self._leaving: list[Stale] = []
        self.loaded = False
        """Whether the topic was read to the end that it had."""

    @property
    def settled(self) -> int:
        """The offset before which every record backs its task or is gone. It never goes back: that would
        take a record's word away."""
        if not self.loaded:
            return self._vouched
        first = next(iter(self._unsettled.values()), None)
        return max(self._vouched, self.end if first is None else first.offset)

    def read(self, offset: int, key: str, value: bytes | None) -> Restored | None:
        """Take note of a record, or of a tombstone. What it makes of a task's state, if anything: a record
        that is vouched for is restored as it comes, so that its end has not all of them at once."""
        if offset < self.end:
            return None
        self.end = offset + 1
        record = decode_record(value) if value is not None else None
        waiting = None
        # A tombstone settles what was read before it; garbage is nobody's state.
        if record is not None and value is not None and record.envelope.origin is not None:
            waiting = Waiting(record.envelope.task_id, key, record.fence, value)
        # What comes under the same key takes its place, whatever it is.
        self.gone(key)
        if self.loaded:
            if waiting is not None:
                self._judge_later(offset, waiting)
            return None
        self._late.pop(key, None)
        if waiting is not None and offset >= self._vouched:
            self._late[key] = offset, waiting
            waiting = None
        return self._vouch(offset, key, waiting)

    def _vouch(self, offset: int, key: str, waiting: Waiting | None) -> Restored | None:
        """Of each task the record with the latest fence is its state; what that becomes, if it changes."""
        before = self._task_of.pop(key, None)
        if before is not None:
            del self._of_task[before][key]
        if waiting is not None:
            self._task_of[key] = waiting.task_id
            self._of_task.setdefault(waiting.task_id, {})[key] = offset, waiting
        task_id = before if waiting is None else waiting.task_id
        if task_id is None:
            return None
        latest = max((one for _, one in self._of_task[task_id].values()), key=_fence, default=None)
        if latest is None:
            del self._of_task[task_id]
        return Restored(task_id, latest)

    def reached(self, offset: int) -> None:
        """The topic was read up to there, although there is no record just before."""
        self.end = max(self.end, offset)

    def load(self) -> None:
        """The topic was read to its end: what was not restored is to be judged."""
        self.loaded = True
        left = list(self._late.values())
        for vouched in self._of_task.values():
            if len(vouched) == 1:
                continue
            latest = max((one for _, one in vouched.values()), key=_fence)
            left += [(offset, one) for offset, one in vouched.values() if one is not latest]
        for offset, waiting in sorted(left):
            self._judge_later(offset, waiting)
        self._late.clear()
        self._of_task.clear()
        self._task_of.clear()

    # --- judging

    def judge(self, end: int, backs: Callable[[Waiting], bool]) -> None:
        """Judge what the fold, having come to `end`, can tell of: `backs` is what it says."""
        while self._unjudged and self._unjudged[0][0] < end:
            _, _, key = heapq.heappop(self._unjudged)
            one = self._unsettled.get(key)
            if one is not None:
                one.backs = backs(one.waiting)
                if one.backs:
                    self._to_back[one.waiting.task_id, one.waiting.fence] += 1
                else:
                    self._condemn(one.waiting)

    def settle(self, back: Callable[[Waiting], Verdict]) -> None:
        """Pass over the records that back their tasks, up to the first of which that is not known. `back` has
        the record back its task from here on, if it can."""
        while self._unsettled:
            key, first = next(iter(self._unsettled.items()))
            if not first.backs:
                return
            verdict = back(first.waiting)
            if verdict is Verdict.WAITS:
                return
            self._no_more_to_back(first.waiting)
            if verdict is Verdict.STALE:
                first.backs = False
                self._condemn(first.waiting)
                return
            del self._unsettled[key]

    def is_to_back(self, task_id: str, fence: int) -> bool:
        """Whether a record of that wait was found good, and those before it are waited for."""
        return (task_id, fence) in self._to_back

    def gone(self, key: str) -> None:
        """The record is there no more."""
        one = self._unsettled.pop(key, None)
        if one is not None and one.backs:
            self._no_more_to_back(one.waiting)

    def _no_more_to_back(self, waiting: Waiting) -> None:
        of = waiting.task_id, waiting.fence
        self._to_back[of] -= 1
        if not self._to_back[of]:
            del self._to_back[of]

    def _judge_later(self, offset: int, waiting: Waiting) -> None:
        self._unsettled[waiting.key] = _Unsettled(offset, waiting)
        heapq.heappush(self._unjudged, (waiting.fence, offset, waiting.key))

    def _condemn(self, waiting: Waiting) -> None:
        self._stale.append(Stale(waiting.key, waiting.task_id))

    # --- what goes

    @property
    def some_stale(self) -> bool:
        """Whether a commit is wanted for the sake of the stale ones."""
        return bool(self._stale or self._leaving)

    def before_commit(self) -> None:
        """A commit is about to be made: what is stale by now may go after it.

        Who can commit is the owner, and what it commits vouches for none of them. One that has lost the
        partition, and does not know, may have found stale what its successor's checkpoint rests on.
        """
        self._leaving += self._stale
        self._stale = []

    def after_commit(self) -> list[Stale]:
        """It was made: these are to be tombstoned."""
        leaving, self._leaving = self._leaving, []
        return leaving
