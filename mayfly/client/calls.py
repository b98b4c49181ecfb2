"""What the client says and how it reads the answers, without any I/O.

A call is a generator: it yields the next `Request` to send, or a `Pause` to take, is sent the `Answer` (or
thrown `Unreachable`), and returns what the caller asked for. `Client` and `AsyncClient` only drive it, so
neither has any logic that the other lacks.
"""

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import msgspec
from msgspec import UNSET

from mayfly.client.errors import ApiError, TaskFailed, UnexpectedAnswer, Unreachable, WaitTimeout
from mayfly.client.models import FunctionInfo, Functions, Page, Readiness, Task, Worker, Workers
from mayfly.task import JSON, Priority

T = TypeVar("T")

LONG_POLL_SECONDS = 30
"""How long one request waits for a task's end; the gateway answers after that whatever the status."""
ANSWER_SECONDS = 30.0
"""How long an answer may take beyond what the request itself asked to wait."""
RETRY_PAUSES = (0.1, 0.5)
"""Seconds before each further try of a GET that met no gateway, or a 503 that names no time."""
LONGEST_PAUSE = 10.0
"""A `Retry-After` beyond this is not waited for: the caller gets the 503."""
NO_GATEWAY = "is it a Mayfly gateway of this version that listens there?"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    timeout: float = ANSWER_SECONDS
    """Seconds until the answer has to be there."""


class Pause(NamedTuple):
    seconds: float


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Case-insensitive, or in lower case."""
    body: bytes


class Bytes(NamedTuple):
    """A result or a log as it is stored."""

    body: bytes
    content_type: str


Call = Generator[Request | Pause, Answer | None, T]


class TaskOptions(TypedDict, total=False):
    """What may be said of a task beside its payload."""

    data: bytes | None
    """The payload as bytes, in place of JSON."""
    content_type: str
    """Of `data`; application/octet-stream unless given."""
    name: str | None
    """For people."""
    priority: Priority | None
    timeout: float | None
    """What the function may take, in seconds; its own limit unless given."""
    tags: Sequence[str]


class Filters(TypedDict, total=False):
    """Which tasks to list."""

    status: str | None
    task_type: str | None
    tag: str | None
    limit: int | None
    """Tasks on a page."""


def submit(task_type: str, payload: Any = None, **options: Unpack[TaskOptions]) -> Call[Task]:
    data, tags = options.get("data"), options.get("tags", ())
    if data is not None and payload is not None:
        raise ValueError("give a payload or data, not both")
    given = _given(
        taskType=task_type,
        name=options.get("name"),
        priority=options.get("priority"),
        timeoutSeconds=options.get("timeout"),
    )
    if data is not None:
        params = (*_params(given), *(("tag", tag) for tag in tags))
        headers = {"content-type": options.get("content_type", "application/octet-stream")}
        request = Request("POST", "/tasks", params, headers, data)
    else:
        body = {**given, "payload": payload, **({"tags": list(tags)} if tags else {})}
        request = Request("POST", "/tasks", headers={"content-type": JSON}, content=_encode(body))
    answer = yield from _send(request)
    return _decode(answer, Task)


def get(task_id: str, *, wait: float = 0) -> Call[Task]:
    # The gateway takes milliseconds at the finest, and no exponents.
    seconds = f"{wait:.3f}".rstrip("0").rstrip(".")
    params = () if seconds == "0" else (("wait", seconds),)
    answer = yield from _send(Request("GET", _path(task_id), params, timeout=ANSWER_SECONDS + wait))
    return _decode(answer, Task)


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
    return json.loads(stored.body) if _media_type(stored.content_type) == JSON else stored.body


def result_bytes(task_id: str) -> Call[Bytes]:
    return (yield from _bytes(_path(task_id, "result")))


def logs(task_id: str) -> Call[str]:
    stored = yield from _bytes(_path(task_id, "logs"))
    return stored.body.decode(errors="replace")


def run(task_type: str, payload: Any) -> Call[Any]:
    """A task from its submission to its result."""
    task = yield from submit(task_type, payload)
    return (yield from result(task.task_id))


def page(*, cursor: str | None = None, **filters: Unpack[Filters]) -> Call[Page]:
    given = _given(
        status=filters.get("status"),
        taskType=filters.get("task_type"),
        tag=filters.get("tag"),
        limit=filters.get("limit"),
        cursor=cursor,
    )
    answer = yield from _send(Request("GET", "/tasks", _params(given)))
    return _decode(answer, Page)


def functions() -> Call[tuple[FunctionInfo, ...]]:
    answer = yield from _send(Request("GET", "/functions"))
    return _decode(answer, Functions).functions


def function(name: str) -> Call[FunctionInfo]:
    answer = yield from _send(Request("GET", f"/functions/{quote(name, safe='')}"))
    return _decode(answer, FunctionInfo)


def workers() -> Call[tuple[Worker, ...]]:
    answer = yield from _send(Request("GET", "/workers"))
    return _decode(answer, Workers).workers


def readiness() -> Call[dict[str, str]]:
    """What the gateway needs, by name: `ready`, or why not. Asked once, since it is asked for to be shown."""
    answer = yield from _send(Request("GET", "/readyz"), patient=False, expected=(200, 503))
    return _decode(answer, Readiness).parts


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _params(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, str(value)) for key, value in given.items())


def _path(task_id: str, *rest: str) -> str:
    return "/".join(("/tasks", quote(task_id, safe=""), *rest))


def _bytes(path: str) -> Call[Bytes]:
    answer = yield from _send(Request("GET", path))
    return Bytes(answer.body, answer.headers.get("content-type", "application/octet-stream"))


def _send(
    request: Request, *, patient: bool = True, expected: Sequence[int] = range(200, 300)
) -> Call[Answer]:
    # Only a GET is tried again: a POST whose answer is lost may well have been accepted.
    pauses = RETRY_PAUSES if patient and request.method == "GET" else ()
    for pause in (*pauses, None):
        try:
            answer = yield request
        except Unreachable:
            if pause is None:
                raise
            yield Pause(pause)
            continue
        assert answer is not None
        if answer.status in expected:
            return answer
        error = _problem(answer)
        asked = pause if error.retry_after is None else error.retry_after
        if answer.status != 503 or pause is None or asked is None or asked > LONGEST_PAUSE:
            raise error
        yield Pause(asked)
    raise AssertionError("the last try either returns or raises")


def _problem(answer: Answer) -> ApiError:
    problem: Any = None
    if _media_type(answer.headers.get("content-type", "")) in ("application/problem+json", JSON):
        try:
            problem = json.loads(answer.body)
        except ValueError:
            problem = None
    if not isinstance(problem, dict) or "code" not in problem:
        raise UnexpectedAnswer(f"the answer is {answer.status} without a problem document: {NO_GATEWAY}")
    return ApiError(
        answer.status,
        code=str(problem["code"]),
        detail=str(problem.get("detail") or problem.get("title") or problem["code"]),
        field=problem.get("field"),
        task_id=problem.get("taskId"),
        retry_after=_seconds(answer.headers.get("retry-after")),
    )


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdecimal() else None


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _encode(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the payload cannot be written as JSON: {error}") from error


def _decode(answer: Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(f"the answer is not understood ({error}): {NO_GATEWAY}") from error
