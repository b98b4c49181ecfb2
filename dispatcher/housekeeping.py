"""Takes away what nobody has to keep any more: uploads, what dead dispatchers left of remote sandboxes'
streams, and old tasks' statuses, results, logs, payloads.

Every dispatcher sweeps, and none minds another: what is gone already is no error. The log is not touched: its
topics keep what they are told to.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog

from mayfly.errors import BlobsUnavailable, LogUnavailable, ReadModelUnavailable
from mayfly.uploads import REMOTE, REMOTE_HOURS, UPLOADS

log = structlog.get_logger(__name__)

INTERVAL_SECONDS: Final = 60.0
BATCH: Final = 200
EVENTS_SECONDS: Final = 3600
"""How long a change of a task can be heard of by whoever comes back."""
UPLOADS_SECONDS: Final = 3600
"""Between two looks for uploads that are too old."""
DAY_MS: Final = 86_400_000


class Old(Protocol):
    """A task that ended long ago."""

    @property
    def task_id(self) -> str: ...
    @property
    def keys(self) -> Sequence[str]:
        """Of its objects in S3."""

    @property
    def dead_letter(self) -> bool:
        """Whether it is one that was neither purged nor driven again."""


class ReadModel(Protocol):
    """Raises `ReadModelUnavailable`."""

    async def ended_before(self, at: int, dead_before: int, most: int) -> Sequence[Any]:
        """Tasks that ended before `at`, dead letters before `dead_before`; milliseconds since 1970."""

    async def remove(self, task_ids: Iterable[str]) -> None: ...

    async def trim_events(self, before: int) -> None:
        """Take away the changes of tasks that were told before then; milliseconds since 1970."""


class Blobs(Protocol):
    """Raises `BlobsUnavailable`."""

    async def older(self, prefix: str, before: datetime) -> Sequence[str]:
        """The keys below that prefix of what was put before then."""

    async def delete(self, keys: Sequence[str]) -> None:
        """None there is no error."""


class DeadLetters(Protocol):
    async def append_dead_letter(self, task_id: str, value: bytes | None) -> None:
        """Raises `LogUnavailable`."""


class Housekeeping:
    """`days` and `dead_letter_days` are how long a task is kept after its end; 0 keeps for ever. An upload is
    kept for `upload_hours`: what tasks need of it they have copies of."""

    def __init__(
        self,
        read_model: ReadModel,
        blobs: Blobs,
        dead_letters: DeadLetters,
        *,
        days: float,
        dead_letter_days: float,
        upload_hours: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._read_model = read_model
        self._blobs = blobs
        self._dead_letters = dead_letters
        self._days = days
        self._dead_letter_days = dead_letter_days
        self._upload_hours = upload_hours
        self._uploads_due = 0.0
        self._now = now

    async def run(self) -> None:
        while True:
            try:
                swept = await self.sweep()
            except (ReadModelUnavailable, BlobsUnavailable, LogUnavailable) as error:
                log.warning("the sweep waits", reason=str(error))
            else:
                if swept:
                    log.info("swept", tasks=swept)
            await asyncio.sleep(INTERVAL_SECONDS)

    async def sweep(self) -> int:
        """Remove all that is too old; how many tasks that were."""
        await self._read_model.trim_events(int((self._now() - EVENTS_SECONDS) * 1000))
        await self._sweep_uploads()
        swept = 0
        while old := await self._old():
            # The bytes first: a status is what leads to them.
            await self._blobs.delete([key for task in old for key in task.keys])
            for task in old:
                if task.dead_letter:
                    log.warning("a dead letter was kept for long enough", task_id=task.task_id)
                    await self._dead_letters.append_dead_letter(task.task_id, None)
            await self._read_model.remove(task.task_id for task in old)
            swept += len(old)
        return swept

    async def _sweep_uploads(self) -> None:
        """Now and then: the store has to list them."""
        now = self._now()
        if now < self._uploads_due:
            return
        # A copy that began while the upload was still good is to find it until it is through.
        before = datetime.fromtimestamp(now - self._upload_hours * 3600 - UPLOADS_SECONDS, UTC)
        if old := await self._blobs.older(UPLOADS, before):
            await self._blobs.delete(old)
            log.info("swept", uploads=len(old))
        if left := await self._blobs.older(REMOTE, datetime.fromtimestamp(now - REMOTE_HOURS * 3600, UTC)):
            await self._blobs.delete(left)
            log.info("swept", streams=len(left))
        self._uploads_due = now + UPLOADS_SECONDS

    async def _old(self) -> Sequence[Old]:
        now = int(self._now() * 1000)
        at = now - int(self._days * DAY_MS) if self._days else 0
        dead = now - int(self._dead_letter_days * DAY_MS) if self._dead_letter_days else 0
        return await self._read_model.ended_before(at, dead, BATCH)
