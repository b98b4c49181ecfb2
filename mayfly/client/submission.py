"""Submitting a task, so that what is tried again runs once. Without any I/O."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypedDict, Unpack

import msgspec

from mayfly.client.errors import ClientError, UnexpectedAnswer, Unreachable
from mayfly.client.models import Task
from mayfly.client.wire import (
    RETRY_PAUSES,
    Answer,
    Call,
    Pause,
    Request,
    decode,
    encode,
    given,
    params,
    pause_after,
    post,
    problem,
    send,
    timestamp,
)
from mayfly.task import IDEMPOTENCY_KEY, JSON, Priority, RetryPolicy

KEY_HEADER: Final = "idempotency-key"
COPY_SECONDS: Final = 300.0
"""What the answer to a task with an upload may take longer than another: the store copies it first."""


class TaskOptions(TypedDict, total=False):
    """What may be said of a task beside its payload."""

    data: bytes | None
    """The payload as bytes, in place of JSON."""
    content_type: str
    """Of `data`; application/octet-stream unless given."""
    upload: str | None
    """What `Client.upload` gave, in place of a payload."""
    name: str | None
    """For people."""
    priority: Priority | None
    timeout: float | None
    """What the function may take, in seconds; its own limit unless given."""
    tags: Sequence[str]
    delay: float | timedelta | None
    """From now to the first attempt; a number is seconds."""
    run_at: datetime | None
    """When the first attempt is due, in place of `delay`. It needs a time zone."""
    ttl: float | timedelta | None
    """The task fails with `Task.Expired` if it has not begun so long after it was due; seconds, or a span."""
    retry: RetryPolicy | int | None
    """Which failures are tried again, and when, over what the function says; or the number of attempts."""
    queue: str | None
    """The queue to run on; the function's unless given."""
    redeliver: bool | None
    """False: if its sandbox is lost, the task fails with `Sandbox.Lost` instead of running again."""
    concurrency_key: str | None
    """Tasks of the function with the same key run one at a time, or as many as the function allows."""
    callback_url: str | None
    """Where the task is posted to when it has ended, signed: an https URL; the function's unless given."""
    idempotency_key: str | None
    """A second submission with this key gives the first one's task; the client makes a key unless given."""
    idempotent: bool
    """False: the client makes no key, and tries nothing again."""


def submit(task_type: str, payload: Any = None, **options: Unpack[TaskOptions]) -> Call[Task]:
    """The task, once it is durable.

    A submission whose answer is lost may or may not have been accepted, so trying it again is safe only with
    a key that the first try had as well: the client makes one, and tries again as it does with a GET.

    The gateway can honour a key only while it has Redis; without, it answers `read_model_unavailable` and
    has appended nothing. If every try so far was answered like that, the client lets go of a key of its own
    and submits once more, without: submitting must not come to need Redis. If one of them may have been
    accepted, it keeps the key, and the error that it raises in the end names it in `idempotency_key`:
    submitting the same with that key is safe at any time. A key of the caller's is never let go of.

    A key costs the gateway and the dispatcher a look into Redis each, and a task that has one is not begun
    while Redis is away: whoever would rather have neither says `idempotent=False`.
    """
    key = options.get("idempotency_key")
    if key is not None and not options.get("idempotent", True):
        raise ValueError("an idempotency_key makes a submission idempotent; leave one of the two out")
    request = _request(task_type, payload, options)
    if not options.get("idempotent", True):
        answer = yield from send(request)
    else:
        answer = (yield from send_once(request, key)).answer
    return decode(answer.body, Task)


class Sent(NamedTuple):
    answer: Answer
    keyed: bool
    """Whether the request that was answered had the key."""
    in_doubt: bool
    """Whether one before it may have made what the answer says nothing of."""


def send_once(request: Request, own: str | None, made: str | None = None) -> Call[Sent]:
    """Sends it until it is answered, under one key: the caller's own, or one that is made, here unless it is
    given. Raises `ValueError` for a key that is none."""
    if own is not None and not IDEMPOTENCY_KEY.fullmatch(own):
        raise ValueError("an idempotency key has 1 to 200 printable characters of ASCII")
    key = own or made or str(uuid.uuid4())
    keyed = replace(request, headers={**request.headers, KEY_HEADER: key})
    in_doubt, task_id = False, None
    try:
        for pause in (*RETRY_PAUSES, None):
            try:
                answer = yield keyed
            except Unreachable as error:
                in_doubt = in_doubt or error.sent
                if pause is None:
                    raise
                yield Pause(pause)
                continue
            assert answer is not None
            if 200 <= answer.status < 300:
                return Sent(answer, True, in_doubt)
            refusal = problem(answer)
            if refusal.code == "read_model_unavailable" and own is None and not in_doubt:
                break
            # A 503 that names a task is about one that may run.
            in_doubt = in_doubt or refusal.task_id is not None
            refusal.task_id = task_id = refusal.task_id or task_id
            wait = pause_after(refusal, pause)
            if wait is None:
                raise refusal
            yield Pause(wait)
    except ClientError as error:
        # A proxy that gives up on the gateway answers in its own terms.
        if in_doubt or isinstance(error, UnexpectedAnswer):
            error.idempotency_key = key
        raise
    return Sent((yield from send(request)), False, False)


def _request(task_type: str, payload: Any, options: TaskOptions) -> Request:
    said = said_of(task_type, options)
    if (upload := options.get("upload")) is not None:
        if payload is not None or options.get("data") is not None:
            raise ValueError("give a payload, data or an upload, and only one of them")
        return replace(post("/tasks", {**said, "upload": upload}), wait=COPY_SECONDS)
    if options.get("data") is None:
        return post("/tasks", {**said, "payload": payload})
    content_type, body = body_of(payload, options)
    return Request("POST", "/tasks", query_of(said), {"content-type": content_type}, body)


def body_of(payload: Any, options: TaskOptions) -> tuple[str, bytes]:
    """The payload itself, with its content type: the option `data`, or JSON. Raises `ValueError`."""
    if options.get("upload") is not None:
        raise ValueError("a call has its payload in its body: submit a task with the upload instead")
    data = options.get("data")
    if data is None:
        return JSON, encode(payload)
    if payload is not None:
        raise ValueError("give a payload or data, not both")
    content_type = options.get("content_type", "application/octet-stream")
    if not content_type.isascii():
        raise ValueError(f"{content_type} is no content type: it has characters beyond ASCII")
    return content_type, data


def said_of(task_type: str, options: TaskOptions) -> dict[str, Any]:
    """What the options say of a task, in the gateway's words. Raises `ValueError`."""
    if options.get("delay") is not None and options.get("run_at") is not None:
        raise ValueError("give a delay or run_at, not both")
    tags = options.get("tags", ())
    return given(
        taskType=task_type,
        name=options.get("name"),
        priority=options.get("priority"),
        timeoutSeconds=options.get("timeout"),
        delaySeconds=_seconds(options.get("delay")),
        runAt=timestamp(options.get("run_at")),
        ttlSeconds=_seconds(options.get("ttl")),
        queue=options.get("queue"),
        redeliver=options.get("redeliver"),
        concurrencyKey=options.get("concurrency_key"),
        callbackUrl=options.get("callback_url"),
        retry=_policy(options.get("retry")),
        tags=list(tags) if tags else None,
    )


def query_of(said: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The same beside a payload that is the body."""
    plain = {name: value for name, value in said.items() if name != "tags"}
    return (*params(plain), *(("tag", tag) for tag in said.get("tags", ())))


def _seconds(span: float | timedelta | None) -> float | None:
    return span.total_seconds() if isinstance(span, timedelta) else span


def _policy(retry: RetryPolicy | int | None) -> dict[str, Any] | None:
    if retry is None:
        return None
    policy = RetryPolicy(max_attempts=retry) if isinstance(retry, int) else retry
    said: dict[str, Any] = msgspec.to_builtins(policy)
    return said
