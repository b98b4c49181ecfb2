"""What a task has logged: of an attempt that is over from the store, of one that runs from the read model."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.downloads import PLAIN, download, text
from gateway.errors import Problem
from gateway.parameters import parameters
from gateway.ports import Blobs, LogChunk, ReadModel
from gateway.records import Record, own
from mayfly.task import NO_FENCE, TERMINAL, Status

_ATTEMPT: Final = re.compile(r"[1-9][0-9]{0,5}")
_CHUNKS: Final = 100
"""How many pieces are asked for at once."""


class Logs:
    """The handler of /tasks/{task_id}/logs."""

    def __init__(self, read_model: ReadModel, blobs: Blobs) -> None:
        self._read_model = read_model
        self._blobs = blobs

    async def get(self, request: Request) -> Response:
        """The last attempt's log, or the one of the attempt that is asked for; nothing is an empty text."""
        wanted = _attempt(parameters(request, "attempt").get("attempt"))
        record = await own(request, self._read_model)
        if wanted is not None and wanted != int(record.get("attempt", "0")):
            return await self._earlier(request, record, wanted)
        if record["status"] == Status.IN_PROGRESS:
            return text(await self._so_far(record["taskId"], record))
        if "logKey" in record:
            dropped = {"mayfly-log-dropped": record.get("logDropped", "0")}
            return await download(request, self._blobs, record["logKey"], PLAIN, dropped)
        if record["status"] in TERMINAL or "attempts" in record:
            return text("")
        raise Problem("task_not_finished", f"The task is {record['status']}: it has not begun.")

    async def _earlier(self, request: Request, record: Record, wanted: int) -> Response:
        attempts: list[dict[str, Any]] = json.loads(record.get("attempts", "[]"))
        for one in attempts:
            if one["attempt"] == wanted:
                key = one.get("logKey")
                return await download(request, self._blobs, key, PLAIN) if key else text("")
        raise Problem("unknown_attempt", f"The task has no attempt {wanted}.", field="attempt")

    async def _so_far(self, task_id: str, record: Record) -> str:
        fence = int(record.get("fence", NO_FENCE))
        return "".join([one.text async for one in chunks(self._read_model, task_id) if one.fence == fence])


async def chunks(read_model: ReadModel, task_id: str, after: str = "") -> AsyncIterator[LogChunk]:
    """What the task's attempts have logged after that place, up to what there is now."""
    while True:
        found = await read_model.log_chunks(task_id, after, _CHUNKS)
        for one in found:
            yield one
        if len(found) < _CHUNKS:
            return
        after = found[-1].id


def _attempt(number: str | None) -> int | None:
    if number is None:
        return None
    if not _ATTEMPT.fullmatch(number):
        raise Problem("invalid_parameter", "attempt is a number, from 1.", field="attempt")
    return int(number)
