"""Showing accepted tasks in the read model, so that a client finds its task at once.

One write at a time, of all that came while the last one was under way: a round trip and a pipeline cost
about the same for one task as for hundreds, and under load there are hundreds.
"""

import asyncio
import logging
from typing import Final

from gateway.ports import ReadModel
from mayfly.errors import ReadModelUnavailable
from mayfly.view import QueuedTask

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 1.0
"""For one write: a POST is not held by a read model that hangs, its task is accepted already."""
MAX_WAITING: Final = 10_000
MAX_BATCH: Final = 500
Reason = str | None


class Announcer:
    """The first QUEUED of each task. The log is what counts: a read model that is down takes nothing from
    the acceptance, and learns of the task from the log later."""

    def __init__(self, read_model: ReadModel) -> None:
        self._read_model = read_model
        self._waiting: list[tuple[QueuedTask, asyncio.Future[Reason]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def announce(self, task: QueuedTask) -> None:
        """Returns when the task is shown, or when it is clear that it will not be shown soon."""
        reason: Reason = "the read model takes less than is accepted"
        if len(self._waiting) < MAX_WAITING:
            shown: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()
            self._waiting.append((task, shown))
            if self._writing is None:
                self._writing = asyncio.create_task(self._write())
            reason = await shown
        if reason is not None:
            log.warning(
                "an accepted task is not shown yet", extra={"task_id": task.task_id, "reason": reason}
            )

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._write_batch(batch)
        finally:
            self._writing = None

    async def _write_batch(self, batch: list[tuple[QueuedTask, asyncio.Future[Reason]]]) -> None:
        reason: Reason = "the write was broken off"
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._read_model.queued(*(task for task, _ in batch))
            reason = None
        except ReadModelUnavailable as error:
            reason = str(error)
        except TimeoutError:
            reason = f"the read model did not answer within {PATIENCE_SECONDS:g} s"
        finally:
            # Whatever happened, nobody is left waiting.
            for _, shown in batch:
                if not shown.done():
                    shown.set_result(reason)
