"""The audit log: a handler writes it by one line, `await audit.record(request, action, target)`; admins read
it."""

import re
import uuid
from collections.abc import Sequence
from typing import Any, Final, Protocol

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from gateway.access import known_principal, principal_of
from gateway.errors import Problem
from gateway.parameters import page_limit, parameters
from gateway.refusals import Refusals
from gateway.responses import json_response
from gateway.scope import REQUEST_ID
from gateway.times import time_parameter
from mayfly.identity import chain
from mayfly.identity.chain import Entry, Link, Record
from mayfly.identity.principal import Principal
from mayfly.identity.trail import Trail
from mayfly.view import timestamp

PIECE: Final = 500
"""Records that are read at once."""
MOST_LOOKED_AT: Final = 10_000
"""Records that one call looks through for those that are asked for."""
LONGEST: Final = 256
"""Characters of a target or a reason."""
_REQUEST_ID: Final = re.compile(r"[\w.:/+=-]{1,100}", re.ASCII)
_CURSOR: Final = re.compile(r"[0-9]{1,18}")


class Appended(Protocol):
    @property
    def offset(self) -> int: ...


class Bounds(Protocol):
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class Placed(Protocol):
    """A record of the topic."""

    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...


class AuditTopic(Protocol):
    """Every method raises `LogUnavailable`."""

    async def append(self, value: bytes) -> Appended: ...
    async def last(self) -> Link: ...
    async def bounds(self, since: int | None = None, until: int | None = None) -> Bounds:
        """Of what was appended at or after the one time and before the other, ms since 1970."""

    async def read(self, start: int, end: int) -> Sequence[Placed]:
        """The records from that place on and before the other, in order."""


class AuditLog:
    """The handler of /audit, and what `record` and `refused` write to."""

    def __init__(self, topic: AuditTopic) -> None:
        self._topic = topic
        self.trail = Trail(topic)
        self.refusals = Refusals(self.trail.write)
        self.close = self.refusals.close

    async def list(self, request: Request) -> Response:
        """Newest first, of the admin's tenant; operators see all."""
        given = parameters(request, "since", "until", "subject", "action", "cursor", "limit")
        since = time_parameter("since", given.get("since"))
        until = time_parameter("until", given.get("until"))
        limit = page_limit(given.get("limit"))
        cursor = given.get("cursor")
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            detail = "cursor is not one that a list gave as nextCursor."
            raise Problem("invalid_parameter", detail, field="cursor")
        by = principal_of(request)
        bounds = await self._topic.bounds(since, until)
        end = bounds.end if cursor is None else min(bounds.end, int(cursor))
        found: list[dict[str, Any]] = []
        least = max(bounds.start, end - MOST_LOOKED_AT)
        while end > least and len(found) < limit:
            start = max(least, end - PIECE)
            for placed in reversed(await self._topic.read(start, end)):
                end = placed.offset
                entry = chain.read(placed.value)
                if entry is not None and _is_asked_for(entry, by, given.get("subject"), given.get("action")):
                    found.append(_view(placed.offset, entry))
                    if len(found) == limit:
                        break
            else:
                end = start
        return json_response({"records": found, "nextCursor": str(end) if end > bounds.start else None})


async def record(
    request: Request,
    action: str,
    target: str = "",
    *,
    by: Principal | None = None,
    tenant: str | None = None,
    targets: Sequence[str] = (),
) -> None:
    """Write who does what to what; call it when it is known that it may be done, and before it is.

    `by` is who does it where the route asks nobody; `tenant` whose thing it is, if not the doer's; `targets`
    all of them, where there are many. Raises `LogUnavailable`: then it is not to be done.
    """
    who = by or principal_of(request)
    entry = Entry(
        action,
        target[:LONGEST],
        who.subject,
        tenant or who.tenant,
        address=_address(request),
        request_id=request_id(request),
        targets=tuple(targets),
    )
    await _log(request).trail.write(entry)


def refused(
    request: HTTPConnection, reason: str, *, action: str = "access.refused", target: str = ""
) -> None:
    """Have written that something was refused: of many that are alike, one and how many more there were."""
    who = known_principal(request)
    entry = Entry(
        action,
        target[:LONGEST],
        who.subject if who else "",
        who.tenant if who else "",
        "refused",
        _address(request),
        request_id(request),
        reason=reason[:LONGEST],
    )
    _log(request).refusals.note(entry)


def request_id(request: HTTPConnection) -> str:
    """The client's own X-Request-Id, or a new one; the answer carries it."""
    if (known := request.scope.get(REQUEST_ID)) is None:
        given = request.headers.get("x-request-id", "")
        known = request.scope[REQUEST_ID] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    return str(known)


def _log(request: HTTPConnection) -> AuditLog:
    audit: AuditLog = request.app.state.audit
    return audit


def _address(request: HTTPConnection) -> str:
    return request.client.host if request.client else ""


def _is_asked_for(entry: Entry, by: Principal, subject: str | None, action: str | None) -> bool:
    return (
        (by.is_operator or entry.tenant == by.tenant)
        and subject in (None, entry.subject)
        and (action is None or entry.action == action or entry.action.startswith(f"{action}."))
    )


def _view(place: int, record: Record) -> dict[str, Any]:
    view: dict[str, Any] = {
        "place": place,
        "at": timestamp(record.at),
        "subject": record.subject,
        "tenant": record.tenant,
        "action": record.action,
        "target": record.target,
        "outcome": record.outcome,
        "address": record.address,
        "requestId": record.request_id,
        "count": record.count,
    }
    if record.targets:
        view["targets"] = list(record.targets)
    if record.reason:
        view["reason"] = record.reason
    return view
