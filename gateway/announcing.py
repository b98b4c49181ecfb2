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
"""A POST waits no longer for its task to be shown: it is accepted already."""
MAX_WAITING: Final = 10_000
MAX_BATCH: Final = 500


class Announcer:
    """The first QUEUED of each task. The log is what counts: a read model that is down takes nothing from
    the acceptance, and learns of the task from the log later."""

    def __init__(self, read_model: ReadModel) -> None:
        self._read_model = read_model
        self._waiting: list[tuple[QueuedTask, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def announce(self, task: QueuedTask) -> None:
        """Returns when the task is shown, or when it is clear that it will not be shown soon."""
        if len(self._waiting) >= MAX_WAITING:
            self._tell(task, "the read model takes less than is accepted")
            return
        shown = asyncio.get_running_loop().create_future()
        self._waiting.append((task, shown))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await shown
        except ReadModelUnavailable as error:
            self._tell(task, str(error))
        except TimeoutError:
            self._tell(task, f"the read model did not answer within {PATIENCE_SECONDS:g} s")

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                error = await self._error(*(task for task, _ in batch))
                for _, shown in batch:
                    if not shown.done():
                        shown.set_exception(error) if error else shown.set_result(None)
        finally:
            self._writing = None

    async def _error(self, *tasks: QueuedTask) -> ReadModelUnavailable | None:
        try:
            await self._read_model.queued(*tasks)
        except ReadModelUnavailable as error:
            return error
        return None

    def _tell(self, task: QueuedTask, reason: str) -> None:
        log.warning("an accepted task is not shown yet", extra={"task_id": task.task_id, "reason": reason})
