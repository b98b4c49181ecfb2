"""A task as it happens: server-sent events of its status and its log, until it has ended."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway import sse
from gateway.access import still_admitted
from gateway.flow import HEARTBEAT_SECONDS, Message, flow
from gateway.logs import chunks
from gateway.parameters import parameters
from gateway.ports import ReadModel
from gateway.records import Record, own
from gateway.responses import json_bytes
from gateway.views import task_view
from gateway.waiting import Waiters
from mayfly.task import NO_FENCE, TERMINAL


class Streams:
    """The handler of /tasks/{task_id}/events."""

    def __init__(
        self, read_model: ReadModel, waiters: Waiters, *, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self._read_model = read_model
        self._waiters = waiters
        self._heartbeat = heartbeat_seconds

    async def get(self, request: Request) -> Response:
        """`status` events with the task, `log` events with text, until the task has ended."""
        parameters(request)
        after = sse.last_event_id(request)
        record = await own(request, self._read_model)
        stream = Stream(self._read_model, self._waiters, record["taskId"], after, self._heartbeat)
        return sse.answer(request, stream.events(record, lambda: still_admitted(request)))


class Stream:
    """One connection. `after` is the place in the log that its client has come to."""

    behind = False
    """One reading gives all that there is."""

    def __init__(
        self, read_model: ReadModel, waiters: Waiters, task_id: str, after: str, heartbeat_seconds: float
    ) -> None:
        self._read_model = read_model
        self._waiters = waiters
        self._task_id = task_id
        self._after = after
        self._heartbeat = heartbeat_seconds
        self._fence = NO_FENCE
        """Of the newest attempt whose log was seen: what an older one still writes does not count."""
        self._shown = b""
        self.ended = False

    async def events(
        self, record: Record, admitted: Callable[[], bool] = lambda: True
    ) -> AsyncGenerator[bytes]:
        self._fence = int(record.get("fence", NO_FENCE))
        with self._waiters.watching(self._task_id) as woken:
            async with aclosing(flow(self, self._waiters, woken, admitted, self._heartbeat)) as messages:
                async for message in messages:
                    yield sse.written(message) if message else sse.heartbeat("the task goes on")

    async def news(self) -> AsyncGenerator[Message]:
        record = await self._read_model.get(self._task_id)
        # A task that is gone for now comes back: the read model is being written again.
        ended = record is not None and record["status"] in TERMINAL
        if record is not None and not ended and (event := self._status(record)):
            yield event
        async with aclosing(self._log()) as logged:
            async for event in logged:
                yield event
        if record is not None and ended:
            # Last of all: with it the stream ends, and the log was complete before it.
            if event := self._status(record):
                yield event
            self.ended = True

    def _status(self, record: Record) -> Message | None:
        view = json_bytes(task_view(record))
        if view == self._shown:
            return None
        self._shown = view
        return Message("status", view)

    async def _log(self) -> AsyncGenerator[Message]:
        async for one in chunks(self._read_model, self._task_id, self._after):
            self._after = one.id
            if one.fence >= self._fence:
                self._fence = one.fence
                yield Message("log", json_bytes({"text": one.text}), one.id)
