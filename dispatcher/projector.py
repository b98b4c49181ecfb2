"""Writes the read model: what the folds counted, in batches, each with its partitions' checkpoints."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from dispatcher.partition import Partition
from mayfly.errors import ReadModelUnavailable
from mayfly.view import Change, QueuedTask

log = logging.getLogger(__name__)

BATCH: Final = 1000
MAX_WAITING: Final = 50_000
"""With Redis away, what waits to be written is kept up to here; then no more tasks are started."""
RETRY_SECONDS: Final = 0.5
VERIFY_SECONDS: Final = 2.0


class ReadModel(Protocol):
    """Raises `ReadModelUnavailable`."""

    async def project(
        self,
        commands: Iterable[QueuedTask],
        changes: Iterable[Change],
        *,
        queue: str,
        checkpoints: dict[int, tuple[str, str]],
    ) -> list[int]: ...

    async def checkpoints(self, queue: str) -> dict[int, str]: ...

    async def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None: ...


class Projector:
    """The partitions hand it what to write; `run` writes it.

    `on_mismatch` is told of a partition whose checkpoint in the read model is not the one that was written
    last: Redis was flushed, or came back older.
    """

    def __init__(
        self,
        read_model: ReadModel,
        *,
        queue: str,
        on_mismatch: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        self._read_model = read_model
        self._clock = clock
        self._verify_at = clock() + VERIFY_SECONDS
        self._queue = queue
        self._on_mismatch = on_mismatch
        self._partitions: dict[int, Partition] = {}
        self._written: dict[int, str] = {}
        self._commands: dict[int, list[QueuedTask]] = {}
        self._changes: dict[int, list[Change]] = {}
        self._progress: dict[tuple[str, int], tuple[float, str]] = {}
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()

    # --- told by the partitions

    def assigned(self, partition: Partition, projected: str) -> None:
        """From here on the partition is ours to write; `projected` is the checkpoint in the read model."""
        self._partitions[partition.number] = partition
        self._written[partition.number] = projected
        self._commands[partition.number] = []
        self._changes[partition.number] = []

    def revoked(self, number: int) -> None:
        """What waits is dropped: the next owner starts from the read model's checkpoint."""
        self._partitions.pop(number, None)
        self._written.pop(number, None)
        self._commands.pop(number, None)
        self._changes.pop(number, None)

    def command(self, partition: int, task: QueuedTask) -> None:
        self._commands[partition].append(task)
        self._wake.set()

    def change(self, change: Change) -> None:
        self._changes[change.partition].append(change)
        self._wake.set()

    def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None:
        """Only the latest of an attempt is written."""
        self._progress[task_id, fence] = (fraction, message)
        self._wake.set()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._commands.values())) + sum(map(len, self._changes.values()))

    @property
    def overloaded(self) -> bool:
        return self.waiting > MAX_WAITING

    # --- writing

    async def run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), VERIFY_SECONDS)
            self._wake.clear()
            try:
                await self.flush()
                await self._verify()
            except ReadModelUnavailable as error:
                log.warning("the read model is behind: %s", error, extra={"waiting": self.waiting})
                self._wake.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def flush(self) -> None:
        """Write all that waits. Raises `ReadModelUnavailable`, and then keeps what was not written."""
        async with self._flushing:
            while numbers := [n for n in self._partitions if self._commands[n] or self._changes[n]]:
                for number in numbers:
                    await self._write(number)
            while self._progress:
                (task_id, fence), (fraction, message) = self._progress.popitem()
                await self._read_model.progress(task_id, fence, fraction, message)

    async def _verify(self) -> None:
        """See that the read model still has what was written: a flush is to show although nothing happens."""
        if self._clock() < self._verify_at:
            return
        self._verify_at = self._clock() + VERIFY_SECONDS
        written = dict(self._written)
        there = await self._read_model.checkpoints(self._queue)
        for number, checkpoint in written.items():
            # What was written meanwhile has been compared in writing.
            if self._written.get(number) == checkpoint and there.get(number, "") != checkpoint:
                self._on_mismatch(number)

    async def _write(self, number: int) -> None:
        partition = self._partitions.get(number)
        if partition is None:
            return
        commands, changes = self._commands[number][:BATCH], self._changes[number][:BATCH]
        # The checkpoint covers all that the partition has handed over, so it goes with the last of it.
        last = len(commands) == len(self._commands[number]) and len(changes) == len(self._changes[number])
        before = self._written[number]
        checkpoint = partition.checkpoint().encode() if last else before.partition(" ")[0]
        # Told apart from every other write: most of them leave the checkpoint as it was, and a read model
        # that lost one of those would not be noticed.
        after = f"{checkpoint} {secrets.token_hex(4)}"
        mismatched = await self._read_model.project(
            commands, changes, queue=self._queue, checkpoints={number: (before, after)}
        )
        if self._partitions.get(number) is not partition:
            return
        del self._commands[number][: len(commands)]
        del self._changes[number][: len(changes)]
        self._written[number] = after
        if mismatched:
            self._on_mismatch(number)
