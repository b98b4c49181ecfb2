"""Calling a function: a task and its result in one request, where the result comes soon. Without any I/O."""

import json
import time
from collections.abc import Callable
from typing import Any, Final, Unpack
from urllib.parse import quote

from mayfly.client import calls
from mayfly.client.calls import Bytes
from mayfly.client.errors import ApiError, TaskFailed
from mayfly.client.models import Task
from mayfly.client.submission import TaskOptions, body_of, query_of, said_of, send_once
from mayfly.client.wire import Call, Request, decode, media_type, send
from mayfly.task import JSON

WAIT_SECONDS: Final = 30.0
"""What the one request waits; after that the task is waited for like any other."""
_FAILED: Final = ("function_failed", "function_timed_out")


def invoke(
    function: str,
    payload: Any = None,
    *,
    wait: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    **options: Unpack[TaskOptions],
) -> Call[Bytes]:
    """The function's result as it is stored. Raises `TaskFailed`, and `WaitTimeout` after `wait` seconds."""
    deadline = None if wait is None else clock() + wait
    request = _request(function, payload, options, WAIT_SECONDS if wait is None else min(wait, WAIT_SECONDS))
    own = options.get("idempotency_key")
    try:
        if options.get("idempotent", True):
            answer, _ = yield from send_once(request, own)
        else:
            answer = yield from send(request)
    except ApiError as error:
        if error.code not in _FAILED or error.task_id is None:
            raise
        raise TaskFailed((yield from calls.get(error.task_id))) from error
    if answer.status == 200:
        return Bytes(answer.body, answer.headers.get("content-type", "application/octet-stream"))
    accepted = decode(answer.body, Task)
    left = None if deadline is None else max(0.0, deadline - clock())
    task = yield from calls.wait(accepted.task_id, left)
    if not task.succeeded:
        raise TaskFailed(task)
    return (yield from calls.result_bytes(task.task_id))


def value_of(result: Bytes) -> Any:
    """What JSON says; the bytes of anything else."""
    return json.loads(result.body) if media_type(result.content_type) == JSON else result.body


def _request(function: str, payload: Any, options: TaskOptions, wait: float) -> Request:
    content_type, body = body_of(payload, options)
    said = said_of(function, options)
    del said["taskType"]
    # The gateway takes milliseconds at the finest.
    query = (("wait", f"{wait:.3f}"), *query_of(said))
    path = f"/functions/{quote(function, safe='')}/invoke"
    return Request("POST", path, query, {"content-type": content_type}, body, wait=wait)
