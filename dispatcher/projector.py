"""Writes the read model: what the folds counted, in batches, and each partition's mark.

A mark says up to which checkpoint the read model has been told everything, and is told apart from every other
one. A checkpoint is committed only when the read model has its mark, so whoever finds another mark there than
the one that was written last, or an older one than the committed checkpoint, knows that Redis has lost
something: it was flushed, or came back older. The partition is then rebuilt by reading the log anew.

So there is a mark before anything else is written, and a new one whenever something was. While a partition is
rebuilt it has none, and a token instead that nobody takes for one. Without these, what was lost in between
would not show.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import structlog

from dispatcher.offsets import Checkpoint
from dispatcher.partition import Partition
from mayfly.errors import MayflyError, ReadModelUnavailable
from mayfly.faultpoints import FaultPoint, reached
from mayfly.view import Change, QueuedTask
from mayfly.waking import woken

log = structlog.get_logger(__name__)

BATCH: Final = 1000
MAX_WAITING: Final = 50_000
"""With Redis away, what waits to be written is kept up to here; then it is dropped, and rebuilt later."""
INTERVAL_SECONDS: Final = 0.4
"""How often a partition is marked, while there are changes: a checkpoint waits for it."""
RETRY_SECONDS: Final = 0.5
BROKEN_SECONDS: Final = 5.0
"""Between a rebuild that broke in a way that nobody has thought of and the next."""
VERIFY_SECONDS: Final = 2.0
MAX_LOG_CHARS: Final = 256 * 1024
"""Of one attempt's live log that waits to be written; what comes over it is left out of the live view."""
MAX_LIVE: Final = 256
"""Attempts whose live log, or progress, waits to be written. The read model may be away for hours, and what
no longer runs is watched by nobody: the oldest are left out."""


class ReadModel(Protocol):
    """Raises `ReadModelUnavailable`."""

    async def project(self, commands: Iterable[QueuedTask], changes: Iterable[Change]) -> None: ...

    async def mark(self, queue: str, partition: int, before: str, after: str) -> bool:
        """Replace a mark, if it is the one before; whether it was."""

    async def begin_rebuild(self, queue: str, partition: int, token: str) -> None:
        """Take the partition's mark away, and leave the token."""

    async def end_rebuild(self, queue: str, partition: int, token: str, mark: str) -> bool:
        """Put the mark in place of the token; False if that is there no more."""

    async def marks(self, queue: str) -> dict[int, str]: ...

    async def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None: ...

    async def append_log(self, task_id: str, fence: int, text: str) -> None: ...


Rebuild = Callable[[Partition], Coroutine[Any, Any, None]]
"""Projects all that the log has of a partition. Raises `MayflyError`."""


@dataclass
class _Told:
    """What is known of one partition in the read model."""

    partition: Partition
    mark: str
    """The one that was written last."""
    token: str | None = None
    """In place of a mark, once the partition is rebuilt."""
    marked: "_Taken | None" = None
    """The checkpoint of that mark."""
    tried: "tuple[str, _Taken] | None" = None
    """A mark whose writing was not answered: it may be there."""
    ahead: int = 0
    """The last checkpoint that was given out although the read model had no mark of it."""
    taken: int = 0
    touched: bool = False
    """Whether something was written since."""
    drops: int = 0
    """How often what waited was dropped."""
    commands: list[QueuedTask] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    rebuilding: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return len(self.commands) + len(self.changes)

    def take(self) -> "_Taken":
        self.taken += 1
        return _Taken(self.taken, self.partition.checkpoint())


class _Taken(NamedTuple):
    """A checkpoint, and the how manieth of its partition it is."""

    number: int
    checkpoint: Checkpoint


class Projector:
    """The partitions hand it what to write; `run` writes it."""

    def __init__(
        self, read_model: ReadModel, *, queue: str, rebuild: Rebuild, clock: Callable[[], float]
    ) -> None:
        self._read_model = read_model
        self._queue = queue
        self._rebuild = rebuild
        self._clock = clock
        self._told: dict[int, _Told] = {}
        self._progress: dict[tuple[str, int], tuple[float, str]] = {}
        self._logs: dict[tuple[str, int], list[str]] = {}
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._mark_at = 0.0
        self._verify_at = clock() + VERIFY_SECONDS
        self._away = False

    # --- told by the partitions

    def assigned(self, partition: Partition, mark: str) -> None:
        """From here on the partition is ours to write; `mark` is the one in the read model."""
        told = self._told[partition.number] = _Told(partition, mark)
        if _checkpoint(mark).is_older(partition.origin):
            self._start_rebuild(told)

    def revoked(self, number: int) -> None:
        """What waits is dropped: the next owner starts from a checkpoint that the read model has."""
        told = self._told.pop(number, None)
        if told is not None and told.rebuilding is not None:
            told.rebuilding.cancel()

    def command(self, partition: int, task: QueuedTask) -> None:
        self._told[partition].commands.append(task)
        self._wake.set()

    def change(self, change: Change) -> None:
        self._told[change.partition].changes.append(change)
        self._wake.set()

    def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None:
        """Only the latest of an attempt is written."""
        _make_room(self._progress, (task_id, fence))
        self._progress[task_id, fence] = (fraction, message)
        self._wake.set()

    def log(self, task_id: str, fence: int, text: str) -> None:
        """What a running attempt has written."""
        _make_room(self._logs, (task_id, fence))
        lines = self._logs.setdefault((task_id, fence), [])
        if text and sum(map(len, lines)) + len(text) <= MAX_LOG_CHARS:
            lines.append(text)
            self._wake.set()

    # --- asked by the consumer and by others

    @property
    def waiting(self) -> int:
        return sum(told.waiting for told in self._told.values())

    def checkpoint(self, partition: Partition) -> Checkpoint | None:
        """What may be committed: what the read model was told; with Redis away or being rebuilt, all that is
        known. None until there is a mark; never one that was taken before one that was given out: what that
        one made superfluous may be gone."""
        told = self._told.get(partition.number)
        if told is None:
            return partition.checkpoint()
        if self._away or told.rebuilding is not None:
            taken = told.take()
            told.ahead = taken.number
            return taken.checkpoint
        return told.marked.checkpoint if told.marked and told.marked.number > told.ahead else None

    async def written(self, partition: int) -> None:
        """Returns when all that the partition has told is in the read model, and nothing is missing there.

        Raises `ReadModelUnavailable`.
        """
        told = self._told.get(partition)
        if told is not None and told.rebuilding is not None:
            raise ReadModelUnavailable("the read model is being rebuilt")
        if self._away:
            # Known already: whoever asks holds a slot while it waits for an answer.
            raise ReadModelUnavailable("the read model is away")
        await self.flush()

    async def intact(self, partition: int) -> None:
        """Returns if nothing of the partition was lost since `written`: what was not found is not there.

        Raises `ReadModelUnavailable`.
        """
        while told := self._told.get(partition):
            before = told.mark
            there = await self._read_model.marks(self._queue)
            if told.mark == before:
                break
        if told is None or not self._is_there(told, there):
            raise ReadModelUnavailable("the read model has lost something")

    # --- writing

    async def run(self) -> None:
        while True:
            await woken(self._wake, INTERVAL_SECONDS)
            self._wake.clear()
            try:
                await self.flush()
                await self._mark()
                await self._verify()
                self._away = False
            except ReadModelUnavailable as error:
                self._away = True
                log.warning("the read model is behind", reason=str(error), waiting=self.waiting)
                self._drop_what_is_too_much()
                self._wake.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def settle(self) -> None:
        """Write and mark what there is, so that it can be committed. Raises `ReadModelUnavailable`."""
        self._mark_at = 0.0
        await self.flush()
        await self._mark()

    async def flush(self) -> None:
        """Write all that waits now. Raises `ReadModelUnavailable`, and then keeps what was not written."""
        async with self._flushing:
            # Its log before a task's end: whoever follows it leaves at the end.
            await self._write_logs()
            await self._write(list(self._told.values()))
            await self._write_progress()

    async def _write(self, partitions: Sequence[_Told]) -> None:
        """Together: to ask Redis costs more than what most partitions have to tell at a time. What comes
        meanwhile is left for the next time: under load there would be no end of it."""
        for told in partitions:
            if told.waiting and not told.mark and told.rebuilding is None and told.token is None:
                await self._mark_as(told, _Taken(0, told.partition.origin))
        left = [(told, told.drops, max(len(told.commands), len(told.changes))) for told in partitions]
        for written in range(0, max((count for *_, count in left), default=0), BATCH):
            batches = [
                (told, drops, told.commands[:BATCH], told.changes[:BATCH])
                for told, drops, count in left
                if count > written and told.drops == drops
            ]
            for told, *_ in batches:
                told.touched = True
            await self._read_model.project(
                [command for _, _, commands, _ in batches for command in commands],
                [change for _, _, _, changes in batches for change in changes],
            )
            reached(FaultPoint.PROJECTED)
            for told, drops, commands, changes in batches:
                if told.drops == drops:
                    del told.commands[: len(commands)]
                    del told.changes[: len(changes)]

    async def _write_logs(self) -> None:
        while self._logs:
            (task_id, fence), texts = self._logs.popitem()
            await self._read_model.append_log(task_id, fence, "".join(texts))

    async def _write_progress(self) -> None:
        while self._progress:
            (task_id, fence), (fraction, message) = self._progress.popitem()
            await self._read_model.progress(task_id, fence, fraction, message)

    async def _mark(self) -> None:
        """Mark each partition with its checkpoint, once the read model has all that it covers."""
        if self._clock() < self._mark_at:
            return
        self._mark_at = self._clock() + INTERVAL_SECONDS
        async with self._flushing:
            for number, told in list(self._told.items()):
                ours = self._told.get(number) is told and told.rebuilding is None
                if ours and told.partition.caught_up:
                    await self._mark_one(told)

    async def _mark_one(self, told: _Told) -> None:
        # All that it covers is told by now; what is told while that is written lies behind it.
        taken = told.take()
        await self._write([told])
        before = told.marked
        news = before is None or before.number <= told.ahead or before.checkpoint != taken.checkpoint
        if told.tried or told.touched or news:
            await self._mark_as(told, taken)

    async def _mark_as(self, told: _Told, taken: _Taken) -> None:
        number, before = told.partition.number, told.mark
        if told.tried is None:
            # Told apart from every other mark: most checkpoints are like the one before.
            told.tried = (f"{taken.checkpoint.encode()} {secrets.token_hex(4)}", taken)
        after, taken = told.tried
        # A write that is made meanwhile is for the next one.
        told.touched = False
        if told.token is None:
            done = await self._read_model.mark(self._queue, number, before, after)
        else:
            done = await self._read_model.end_rebuild(self._queue, number, told.token, after)
        if done:
            reached(FaultPoint.MARKED)
            told.mark, told.marked, told.tried, told.token = after, taken, None, None
        elif self._told.get(number) is told:
            self._lost_something(told)

    async def _verify(self) -> None:
        """See that the read model still has the marks: a flush is to show although nothing happens."""
        if self._clock() < self._verify_at:
            return
        self._verify_at = self._clock() + VERIFY_SECONDS
        before = {number: told.mark for number, told in self._told.items()}
        there = await self._read_model.marks(self._queue)
        for number, told in self._told.items():
            # What was written meanwhile has been compared in writing.
            if told.mark == before.get(number) and told.rebuilding is None and told.token is None:
                self._is_there(told, there)

    def _is_there(self, told: _Told, marks: dict[int, str]) -> bool:
        """Whether its mark is among those that were read just now; if not, it is rebuilt."""
        if told.rebuilding is not None or told.token is not None:
            return False
        mark = marks.get(told.partition.number, "")
        # One that was tried and not answered may be there.
        if mark == told.mark or (told.tried and mark == told.tried[0]):
            return True
        self._lost_something(told)
        return False

    # --- rebuilding

    def _lost_something(self, told: _Told) -> None:
        log.warning("the read model has lost something: rebuilding it", partition=told.partition.number)
        self._start_rebuild(told)

    def _start_rebuild(self, told: _Told) -> None:
        if told.rebuilding is None:
            told.rebuilding = asyncio.create_task(self._rebuilt(told))

    async def _rebuilt(self, told: _Told) -> None:
        """Until it is done the partition has no mark, and readers are told to come again."""
        number = told.partition.number
        while True:
            token, drops = secrets.token_hex(4), told.drops
            try:
                await self._read_model.begin_rebuild(self._queue, number, token)
                await self._rebuild(told.partition)
            except MayflyError as error:
                log.warning("the rebuild starts over", partition=number, reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                # Left to itself, the partition would have no mark, and readers no answer, until it moves on.
                log.exception("a rebuild broke, and starts over", partition=number)
                await asyncio.sleep(BROKEN_SECONDS)
            else:
                # What was dropped meanwhile may have come after what was read.
                if told.drops == drops:
                    break
        told.token, told.marked, told.tried, told.rebuilding = token, None, None, None
        log.info("the read model was rebuilt", partition=number)
        self._wake.set()

    def _drop_what_is_too_much(self) -> None:
        """Better to read the log again than to hold all of it in memory."""
        if self.waiting <= MAX_WAITING:
            return
        for told in self._told.values():
            told.commands.clear()
            told.changes.clear()
            told.drops += 1
            self._start_rebuild(told)


def _make_room(live: dict[tuple[str, int], Any], attempt: tuple[str, int]) -> None:
    while len(live) >= MAX_LIVE and attempt not in live:
        del live[next(iter(live))]


def _checkpoint(mark: str) -> Checkpoint:
    try:
        return Checkpoint.decode(mark.partition(" ")[0])
    except ValueError as error:
        # Nothing that Redis holds may stop the work.
        log.warning("the read model has a mark that cannot be read", reason=str(error))
        return Checkpoint()
