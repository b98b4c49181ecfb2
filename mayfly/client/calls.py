"""What the client can ask for and how it reads the answers, without any I/O: see `mayfly.client.wire`."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypedDict, Unpack
from urllib.parse import quote

from msgspec import UNSET

from mayfly.client.errors import TaskFailed, WaitTimeout
from mayfly.client.models import (
    FunctionInfo,
    Functions,
    Page,
    Readiness,
    Rebuild,
    Task,
    Worker,
    Workers,
)
from mayfly.client.wire import (
    Call,
    Request,
    decode,
    given,
    media_type,
    params,
    post,
    send,
    task_path,
)
from mayfly.task import JSON

LONG_POLL_SECONDS: Final = 30
"""How long one request waits for a task's end; the gateway answers after that whatever the status."""


class Bytes(NamedTuple):
    """A result or a log as it is stored."""

    body: bytes
    content_type: str


class Filters(TypedDict, total=False):
    """Which tasks to list."""

    status: str | None
    task_type: str | None
    tag: str | None
    limit: int | None
    """Tasks on a page."""


def get(task_id: str, *, wait: float = 0) -> Call[Task]:
    # The gateway takes milliseconds at the finest, and no exponents.
    seconds = f"{wait:.3f}".rstrip("0").rstrip(".")
    query = () if seconds == "0" else (("wait", seconds),)
    answer = yield from send(Request("GET", task_path(task_id), query, wait=wait))
    return decode(answer.body, Task)


def wait(
    task_id: str, timeout: float | None = None, *, clock: Callable[[], float] = time.monotonic
) -> Call[Task]:
    deadline = None if timeout is None else clock() + timeout
    while True:
        left = LONG_POLL_SECONDS if deadline is None else min(LONG_POLL_SECONDS, max(0.0, deadline - clock()))
        task = yield from get(task_id, wait=left)
        if task.ended:
            return task
        if deadline is not None and timeout is not None and clock() >= deadline:
            raise WaitTimeout(task, timeout)


def result(task_id: str, timeout: float | None = None) -> Call[Any]:
    task = yield from wait(task_id, timeout)
    return (yield from result_of(task))


def result_of(task: Task) -> Call[Any]:
    """The result of a task that has ended: the value of JSON, or the bytes of anything else."""
    if not task.succeeded:
        raise TaskFailed(task)
    if task.result is not UNSET:
        return task.result
    stored = yield from result_bytes(task.task_id)
    return value_of(stored)


def value_of(result: Bytes) -> Any:
    """What JSON says; the bytes of anything else, which a function may have called JSON."""
    if media_type(result.content_type) == JSON:
        with contextlib.suppress(ValueError):
            return json.loads(result.body)
    return result.body


def result_bytes(task_id: str) -> Call[Bytes]:
    return (yield from _bytes(task_path(task_id, "result")))


def logs(task_id: str, attempt: int | None = None) -> Call[str]:
    stored = yield from _bytes(task_path(task_id, "logs"), params(given(attempt=attempt)))
    return stored.body.decode(errors="replace")


def cancel(task_id: str) -> Call[Task]:
    # To ask twice is to ask once.
    answer = yield from send(post(task_path(task_id, "cancel")), again=True)
    return decode(answer.body, Task)


def rerun(task_id: str, *, latest: bool = False) -> Call[Task]:
    answer = yield from send(post(task_path(task_id, "rerun"), {"latest": True} if latest else None))
    return decode(answer.body, Task)


def page(*, cursor: str | None = None, **filters: Unpack[Filters]) -> Call[Page]:
    query = given(
        status=filters.get("status"),
        taskType=filters.get("task_type"),
        tag=filters.get("tag"),
        limit=filters.get("limit"),
        cursor=cursor,
    )
    answer = yield from send(Request("GET", "/tasks", params(query)))
    return decode(answer.body, Page)


def functions() -> Call[tuple[FunctionInfo, ...]]:
    answer = yield from send(Request("GET", "/functions"))
    return decode(answer.body, Functions).functions


def function(name: str) -> Call[FunctionInfo]:
    answer = yield from send(Request("GET", f"/functions/{quote(name, safe='')}"))
    return decode(answer.body, FunctionInfo)


def workers() -> Call[tuple[Worker, ...]]:
    answer = yield from send(Request("GET", "/workers"))
    return decode(answer.body, Workers).workers


def readiness() -> Call[dict[str, str]]:
    """What the gateway needs, by name: `ready`, or why not. Asked once, since it is asked for to be shown."""
    answer = yield from send(Request("GET", "/readyz"), again=False, expected=(200, 503))
    return decode(answer.body, Readiness).parts


def rebuild() -> Call[Rebuild]:
    # To begin anew what has just begun does no harm.
    answer = yield from send(post("/rebuild"), again=True)
    return decode(answer.body, Rebuild)


def rebuild_state() -> Call[Rebuild]:
    answer = yield from send(Request("GET", "/rebuild"))
    return decode(answer.body, Rebuild)


def _bytes(path: str, query: tuple[tuple[str, str], ...] = ()) -> Call[Bytes]:
    answer = yield from send(Request("GET", path, query))
    return Bytes(answer.body, answer.headers.get("content-type", "application/octet-stream"))
