"""A partition's checkpoint: where the fold starts, and which commands of each lane are done.

Pure. It is one string, committed as the metadata of the events topic's offset, because a commit over
several partitions is not atomic. An older checkpoint is always a safe place to start from: what it says
is not done is read again, and the fold says that it is.
"""

import base64
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from mayfly.fold import Resumed
from mayfly.task import Lane, Position

MAX_METADATA: Final = 4096
"""Bytes that the broker takes as an offset's metadata (offset.metadata.max.bytes)."""
MAX_PENDING: Final = 800
"""Commands that may be pending in a partition before no more are started: three bytes each, at worst, fit
the metadata beside as many claims as may be resumed."""
MAX_RESUMED: Final = 200
"""Tasks of a partition that were released and are to be listed, before no more are released."""


class LaneOffsets:
    """Which commands of a lane are done: all below `base` but the pending ones, and none from it on.

    Commands are read in order of their offsets and come to be done in any order. Offsets that hold no
    command (a transaction's markers) are never read, so nothing waits for them.
    """

    def __init__(self, base: int = 0, pending: Iterable[int] = ()) -> None:
        self.base = base
        self.pending = set(pending)
        self._ahead: deque[int] = deque()

    @property
    def start(self) -> int:
        """Where to read from after a restart."""
        return min(self.pending, default=self.base)

    def read(self, offset: int) -> bool:
        """Take note of a command; False if it is done already, and only came along in reading."""
        if offset < self.base:
            return offset in self.pending
        if not self._ahead or offset > self._ahead[-1]:
            self._ahead.append(offset)
        return True

    def done(self, offset: int) -> list[int]:
        """Mark a command that was read; those that are pending because of it."""
        if offset < self.base:
            self.pending.discard(offset)
            return []
        passed = []
        while self._ahead and self._ahead[0] <= offset:
            passed.append(self._ahead.popleft())
        passed = [one for one in passed if one != offset]
        self.pending.update(passed)
        self.base = offset + 1
        return passed

    def is_done(self, offset: int) -> bool:
        return offset < self.base and offset not in self.pending


@dataclass(frozen=True)
class Checkpoint:
    """One partition's state as it is committed. `start` is the offset of the event to fold from."""

    start: int = 0
    lanes: dict[Lane, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    """Of each lane its base and its pending offsets, ascending."""
    deferred: int = 0
    """The deferred records before this offset are vouched for: one that is still there is a task's state."""
    resumed: tuple[Resumed, ...] = ()
    """The claims, ascending, that took a task out of its record, from the start on."""

    def encode(self) -> str:
        """Varints: the events' start, each lane's base and the gaps between its pending offsets, then the
        deferred records' offset and the gaps between the resumed claims, each doubled to take its flag."""
        numbers = [self.start]
        for lane in Lane:
            base, pending = self.lanes.get(lane, (0, ()))
            numbers += [base, len(pending), *_gaps(pending)]
        gaps = _gaps((one.claim for one in self.resumed), self.start)
        flagged = (gap << 1 | one.cancelled for gap, one in zip(gaps, self.resumed, strict=True))
        numbers += [self.deferred, len(self.resumed), *flagged]
        return "2:" + base64.b85encode(b"".join(_varint(number) for number in numbers)).decode()

    @classmethod
    def decode(cls, text: str | None) -> "Checkpoint":
        """Raises `ValueError` for what `encode` did not write. None and "" are the log's start."""
        if not text:
            return cls()
        version, _, body = text.partition(":")
        if version not in ("1", "2"):
            raise ValueError(f"a checkpoint of version {version!r}: written by a newer dispatcher")
        numbers = deque(_varints(base64.b85decode(body)))
        lanes = {}
        try:
            start = numbers.popleft()
            for lane in Lane:
                base, count = numbers.popleft(), numbers.popleft()
                lanes[lane] = (base, _offsets(numbers, count))
            if version == "1":
                return cls(start, lanes)
            deferred, count = numbers.popleft(), numbers.popleft()
            flagged = [numbers.popleft() for _ in range(count)]
            claims = _offsets(deque(one >> 1 for one in flagged), count, start)
            resumed = tuple(Resumed(claim, bool(one & 1)) for claim, one in zip(claims, flagged, strict=True))
            return cls(start, lanes, deferred, resumed)
        except IndexError:
            raise ValueError("a checkpoint that breaks off") from None

    def of(self, lane: Lane) -> LaneOffsets:
        return LaneOffsets(*self.lanes.get(lane, (0, ())))

    def is_older(self, other: "Checkpoint") -> bool:
        """Whether this one was taken before the other, of the same partition."""
        return self._age < other._age

    @property
    def _age(self) -> tuple[int, list[tuple[int, int]]]:
        # While a lane's base stays where it is, its pending commands can only become fewer.
        lanes = (self.lanes.get(lane, (0, ())) for lane in Lane)
        return self.start, [(base, -len(pending)) for base, pending in lanes]


class Offsets:
    """The lanes of one partition."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.lanes = {lane: checkpoint.of(lane) for lane in Lane}

    def read(self, position: Position) -> bool:
        return self.lanes[position.lane].read(position.offset)

    def done(self, position: Position) -> list[Position]:
        """Mark a command that was read; those that are pending because of it."""
        lane, offset = position
        return [Position(lane, passed) for passed in self.lanes[lane].done(offset)]

    def is_done(self, position: Position) -> bool:
        return self.lanes[position.lane].is_done(position.offset)

    @property
    def pending(self) -> int:
        return sum(len(lane.pending) for lane in self.lanes.values())

    def checkpoint(self, start: int, deferred: int, resumed: Iterable[Resumed]) -> Checkpoint:
        """What to commit; the rest must be the fold's and the records' at this same moment."""
        lanes = {name: (lane.base, tuple(sorted(lane.pending))) for name, lane in self.lanes.items()}
        return Checkpoint(start, lanes, deferred, tuple(resumed))


def _gaps(offsets: Iterable[int], before: int = 0) -> Iterator[int]:
    for offset in offsets:
        yield offset - before
        before = offset


def _offsets(gaps: deque[int], count: int, before: int = 0) -> tuple[int, ...]:
    found = []
    for _ in range(count):
        before += gaps.popleft()
        found.append(before)
    return tuple(found)


def _varint(number: int) -> bytes:
    """LEB128, as protobuf has it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varints(data: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number, shift = 0, 0
    return numbers
