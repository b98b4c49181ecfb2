"""Calling a function: a task and its result in one request, where the result comes soon. Without any I/O."""

import time
import uuid
from collections.abc import Callable
from typing import Any, Final, Unpack
from urllib.parse import quote

from mayfly.client import calls
from mayfly.client.calls import Bytes
from mayfly.client.errors import ApiError, ClientError, TaskFailed, WaitTimeout
from mayfly.client.models import Task, TaskError
from mayfly.client.submission import TaskOptions, body_of, query_of, said_of, send_once
from mayfly.client.wire import Call, Request, decode, send
from mayfly.task import Status

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
    key: str | None = own or str(uuid.uuid4())
    try:
        if options.get("idempotent", True):
            answer, keyed, _ = yield from send_once(request, own, key)
            key = key if keyed else None
        else:
            answer, key = (yield from send(request)), None
    except ApiError as error:
        if error.code not in _FAILED or error.task_id is None:
            raise
        raise TaskFailed((yield from _failed(function, error, error.task_id))) from error
    if answer.status == 200:
        return Bytes(answer.body, answer.headers.get("content-type", "application/octet-stream"))
    accepted = decode(answer.body, Task)
    left = None if deadline is None else max(0.0, deadline - clock())
    try:
        return (yield from _later(accepted.task_id, left))
    except WaitTimeout as error:
        raise WaitTimeout(error.task, wait or 0.0) from None
    except TaskFailed:
        raise
    except ClientError as error:
        # It goes on. Whoever calls again with the key has its result, and no second task.
        error.task_id, error.idempotency_key = accepted.task_id, key
        raise


def _later(task_id: str, left: float | None) -> Call[Bytes]:
    task = yield from calls.wait(task_id, left)
    if not task.succeeded:
        raise TaskFailed(task)
    return (yield from calls.result_bytes(task_id))


def _failed(function: str, error: ApiError, task_id: str) -> Call[Task]:
    """The task; as far as the answer tells of it where it cannot be read, which takes another scope."""
    try:
        return (yield from calls.get(task_id))
    except ClientError:
        why = error.failure or TaskError("", error.detail)
        return Task(task_id, Status.FAILED, task_type=function, error=why)


def _request(function: str, payload: Any, options: TaskOptions, wait: float) -> Request:
    content_type, body = body_of(payload, options)
    said = said_of(function, options)
    del said["taskType"]
    # The gateway takes milliseconds at the finest.
    query = (("wait", f"{wait:.3f}"), *query_of(said))
    path = f"/functions/{quote(function, safe='')}/invoke"
    return Request("POST", path, query, {"content-type": content_type}, body, wait=wait)
