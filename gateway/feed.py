"""The changes of a tenant's tasks as they happen, those that a client asks for: GET /events.

A change is told as it was written in Redis, in order, from the place that the client names. Redis keeps some
of them, and may be flushed: a client whose place is gone is told `reset`, and lists the tasks anew.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway import sse
from gateway.access import principal_of, still_admitted
from gateway.errors import Problem
from gateway.flow import HEARTBEAT_SECONDS, Message, flow
from gateway.models import STATUSES
from gateway.models_events import EventFilters
from gateway.parameters import parameters
from gateway.ports import Entries, ReadModel
from gateway.responses import json_bytes
from gateway.waiting import Waiters
from mayfly.view import timestamp

_AT_ONCE: Final = 500
"""How many changes are read at once."""


class Feeds:
    """The handler of /events."""

    def __init__(
        self, read_model: ReadModel, waiters: Waiters, *, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self._read_model = read_model
        self._waiters = waiters
        self._heartbeat = heartbeat_seconds

    async def get(self, request: Request) -> Response:
        """`status` events with a task's change, `reset` where some may be missing; without an end."""
        wanted = _wanted(parameters(request, "status", "taskType", "tag"))
        feed = Feed(self._read_model, principal_of(request).tenant, wanted, sse.last_event_id(request))
        await feed.begin()
        return sse.answer(request, self._events(feed, lambda: still_admitted(request)))

    async def _events(self, feed: "Feed", admitted: Callable[[], bool]) -> AsyncGenerator[bytes]:
        with self._waiters.watching_all() as woken:
            async with aclosing(flow(feed, self._waiters, woken, admitted, self._heartbeat)) as messages:
                async for message in messages:
                    yield sse.written(message) if message else sse.heartbeat("nothing new", feed.place)


class Feed:
    """What one reader is told. `after` is the last event that it has; "" begins now."""

    ended = False
    """There is always more to come."""

    def __init__(self, read_model: ReadModel, tenant: str, wanted: EventFilters, after: str = "") -> None:
        self._read_model = read_model
        self._tenant = tenant
        self._wanted = wanted
        self._greeted = False
        self._lost = False
        """Whether changes may have been lost, and the reader does not know it yet."""
        self.place = after
        """The last change that was told or passed over."""
        self.behind = False

    async def begin(self) -> None:
        """From here on nothing is missed. Raises `ReadModelUnavailable`."""
        if not self.place:
            self.place = await self._read_model.events_place(self._tenant)

    async def news(self) -> AsyncGenerator[Message]:
        # Where Redis is away there is no haste.
        self.behind = False
        await self.begin()
        if not self._greeted:
            self._greeted = True
            yield Message("subscribed", self._wanted.model_dump_json(by_alias=True).encode(), self.place)
        found: Entries | None = None
        if not self._lost:
            found = await self._read_model.events(self._tenant, self.place, _AT_ONCE)
        if found is None:
            # Until the reader is told, its place stays where it was: it may come back with that.
            self._lost = True
            self.place = await self._read_model.events_place(self._tenant)
            self._lost = False
            yield Message("reset", b"{}", self.place)
        for one in found or ():
            if "reset" in one.fields:
                # What stands behind it is passed over: it is in the list that the reader will ask for.
                self._lost = True
                break
            self.place = one.id
            if "taskId" in one.fields and _fits(one.fields, self._wanted):
                yield Message("status", json_bytes(change_view(one.id, one.fields)), one.id)
        self.behind = self._lost or len(found or ()) == _AT_ONCE


def change_view(place: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """An entry of the stream as `models_events.TaskChange`. Its id begins with when it was written."""
    view: dict[str, Any] = {
        "taskId": fields["taskId"],
        "taskType": fields["taskType"],
        "status": fields["status"],
        "tags": orjson.loads(fields["tags"]),
        "at": timestamp(int(place.partition("-")[0])),
    }
    if fields["attempt"]:
        view["attempt"] = int(fields["attempt"])
    if fields["errorType"]:
        view["errorType"] = fields["errorType"]
    return view


def _fits(fields: Mapping[str, str], wanted: EventFilters) -> bool:
    return (
        wanted.status in (None, fields["status"])
        and wanted.task_type in (None, fields["taskType"])
        and (wanted.tag is None or wanted.tag in orjson.loads(fields["tags"]))
    )


def _wanted(given: Mapping[str, str]) -> EventFilters:
    if given.get("status", STATUSES[0]) not in STATUSES:
        raise Problem("invalid_parameter", f"status is one of {', '.join(STATUSES)}.", field="status")
    return EventFilters.model_validate(dict(given))
