"""The audit log, read. Without any I/O."""

from datetime import datetime
from typing import TypedDict, Unpack

import msgspec

from mayfly.client.wire import Call, Request, decode, given, params, send, timestamp


class AuditRecord(msgspec.Struct, frozen=True, rename="camel"):
    """Who did what to what. `place` is where it stands in the topic."""

    place: int
    at: datetime
    subject: str
    tenant: str
    action: str
    target: str
    outcome: str
    """`ok` or `refused`."""
    address: str
    request_id: str
    count: int = 1
    """How many alike this record stands for."""
    targets: tuple[str, ...] = ()
    reason: str = ""


class AuditPage(msgspec.Struct, frozen=True, rename="camel"):
    records: tuple[AuditRecord, ...]
    next_cursor: str | None = None


class AuditFilters(TypedDict, total=False):
    """Which records. Times need a zone."""

    since: datetime | None
    until: datetime | None
    subject: str | None
    action: str | None
    """One, such as `key.create`, or `key` for all of them."""
    limit: int | None
    """Records on a page."""


def page(*, cursor: str | None = None, **filters: Unpack[AuditFilters]) -> Call[AuditPage]:
    query = given(
        since=timestamp(filters.get("since")),
        until=timestamp(filters.get("until")),
        subject=filters.get("subject"),
        action=filters.get("action"),
        limit=filters.get("limit"),
        cursor=cursor,
    )
    answer = yield from send(Request("GET", "/audit", params(query)))
    return decode(answer.body, AuditPage)
