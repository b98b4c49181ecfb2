"""A task as it happens: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

One connection reads at the pace at which its client takes: a change that comes while it is at work is one
reading more, however many there were. Nothing is kept for it in between but its place in the log.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.errors import Problem
from gateway.logs import chunks
from gateway.parameters import parameters
from gateway.ports import ReadModel
from gateway.records import Record, own
from gateway.responses import json_bytes
from gateway.views import task_view
from gateway.waiting import Waiters
from mayfly.errors import ReadModelUnavailable
from mayfly.task import NO_FENCE, TERMINAL

HEARTBEAT_SECONDS: Final = 15.0
"""A connection on which nothing happens says so: proxies cut those that are silent."""
BREATH_SECONDS: Final = 0.05
"""Between two readings: a function that logs in a loop costs each of its readers no more than this."""
_HEARTBEAT: Final = b": the task goes on\n\n"
_LINES: Final = re.compile(rb"\r\n|\r|\n")
_PLACE: Final = re.compile(r"[0-9]{1,15}-[0-9]{1,10}", re.ASCII)
_HEADERS: Final = {
    "cache-control": "no-store",
    # nginx would gather what is to go out at once.
    "x-accel-buffering": "no",
}


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
        after = _last_event_id(request)
        record = await own(request, self._read_model)
        if request.method == "HEAD":
            return Response(headers=_HEADERS, media_type="text/event-stream")
        stream = Stream(self._read_model, self._waiters, record["taskId"], after, self._heartbeat)
        return StreamingResponse(stream.events(record), headers=_HEADERS, media_type="text/event-stream")


class Stream:
    """One connection. `after` is the place in the log that its client has come to."""

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
        self._ended = False

    async def events(self, record: Record) -> AsyncGenerator[bytes]:
        self._fence = int(record.get("fence", NO_FENCE))
        loop = asyncio.get_running_loop()
        spoke = loop.time()
        with self._waiters.watching(self._task_id) as woken:
            while True:
                async with aclosing(self._news()) as news:
                    async for event in news:
                        spoke = loop.time()
                        yield event
                if self._ended or self._waiters.closing:
                    return
                await asyncio.sleep(BREATH_SECONDS)
                await self._waiters.next_change(woken)
                if loop.time() - spoke >= self._heartbeat:
                    spoke = loop.time()
                    yield _HEARTBEAT

    async def _news(self) -> AsyncGenerator[bytes]:
        """What there is to tell since the last time."""
        try:
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
                self._ended = True
        except ReadModelUnavailable:
            # The next reading tells what this one did not.
            return

    def _status(self, record: Record) -> bytes | None:
        view = json_bytes(task_view(record))
        if view == self._shown:
            return None
        self._shown = view
        return _event("status", view)

    async def _log(self) -> AsyncGenerator[bytes]:
        async for one in chunks(self._read_model, self._task_id, self._after):
            self._after = one.id
            if one.fence >= self._fence:
                self._fence = one.fence
                yield _event("log", json_bytes({"text": one.text}), one.id)


def _event(name: str, data: bytes, event_id: str | None = None) -> bytes:
    # A result that a function gave stands in the data as it was given, with its line ends.
    lines = b"".join(b"data: " + line + b"\n" for line in _LINES.split(data))
    place = f"id: {event_id}\n" if event_id else ""
    return f"event: {name}\n{place}".encode() + lines + b"\n"


def _last_event_id(request: Request) -> str:
    place = request.headers.get("last-event-id", "")
    if place and not _PLACE.fullmatch(place):
        detail = "Last-Event-ID is not an id of this stream."
        raise Problem("invalid_header", detail, field="Last-Event-ID")
    return place
