"""Tasks that failed for good: listing them, submitting them again, forgetting them. Without any I/O."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypedDict, TypeVar, Unpack

import msgspec

from mayfly.client.models import Page, Purge, Redrive
from mayfly.client.wire import Call, Request, decode, given, params, post, send, timestamp

BATCH: Final = 1000
"""Dead letters that one request can be about."""

Done = TypeVar("Done", Redrive, Purge)


class DeadLetterFilters(TypedDict, total=False):
    """Which dead letters. Times are those of the failure, and need a time zone."""

    task_type: str | None
    error_type: str | None
    """The dotted type of the failure, such as `Function.Error`."""
    since: datetime | None
    until: datetime | None


class Selection(DeadLetterFilters, total=False):
    """Which dead letters to act on: some by their ids, those that pass the filters, or all."""

    task_ids: Sequence[str] | None
    all: bool


def page(
    *, cursor: str | None = None, limit: int | None = None, **filters: Unpack[DeadLetterFilters]
) -> Call[Page]:
    query = params({**_filters(filters), **given(limit=limit, cursor=cursor)})
    answer = yield from send(Request("GET", "/dead-letters", query))
    return decode(answer.body, Page)


def redrive(**selection: Unpack[Selection]) -> Call[Redrive]:
    return (yield from _repeated("/dead-letters/redrive", Redrive(), selection))


def purge(**selection: Unpack[Selection]) -> Call[Purge]:
    return (yield from _repeated("/dead-letters/purge", Purge(), selection))


def _repeated(path: str, whole: Done, selection: Selection) -> Call[Done]:
    """Goes through what was selected, as many at once as a request may be about.

    Asking twice does no harm: a dead letter makes one new task, however often it is redriven. It ends when
    nothing remains, or when a request advanced nothing, since what fails is tried again with each.
    """
    began = datetime.now(UTC).isoformat()
    remaining = 0
    for body in _bodies(selection):
        done = yield from _once(path, body, type(whole))
        whole = whole.plus(done)
        while done.remaining > 0 and done.advanced:
            done = yield from _once(path, _rest(body, whole, began), type(whole))
            whole = whole.plus(done)
        remaining += done.remaining
    return msgspec.structs.replace(whole, remaining=remaining)


def _rest(body: dict[str, Any], whole: Done, began: str) -> dict[str, Any]:
    """What is left of a body. A redriven task may fail again at once: what failed after the start is not
    taken up a second time."""
    if "taskIds" in body:
        settled = whole.settled
        return {"taskIds": [task_id for task_id in body["taskIds"] if task_id not in settled]}
    return {"until": began, **{name: value for name, value in body.items() if name != "all"}}


def _once(path: str, body: dict[str, Any], kind: type[Done]) -> Call[Done]:
    answer = yield from send(post(path, body), again=True)
    return decode(answer.body, kind)


def _bodies(selection: Selection) -> Iterator[dict[str, Any]]:
    task_ids, filters = selection.get("task_ids"), _filters(selection)
    ways = (task_ids is not None, bool(filters), selection.get("all", False))
    if sum(ways) != 1:
        raise ValueError("say which dead letters: task_ids, or filters, or all=True")
    if task_ids is None:
        yield filters or {"all": True}
        return
    for first in range(0, len(task_ids), BATCH):
        yield {"taskIds": list(task_ids[first : first + BATCH])}


def _filters(filters: DeadLetterFilters) -> dict[str, Any]:
    return given(
        taskType=filters.get("task_type"),
        errorType=filters.get("error_type"),
        since=timestamp(filters.get("since")),
        until=timestamp(filters.get("until")),
    )
