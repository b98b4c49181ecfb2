"""How the client and the gateway talk: a request, its answer, and what an answer means. Without any I/O.

A call is a generator: it yields the next `Request` to send, or a `Pause` to take, is sent the `Answer` (or
thrown `Unreachable`), and returns what the caller asked for. `Client` and `AsyncClient` only drive it, so
neither has any logic that the other lacks.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from mayfly.client.errors import ApiError, UnexpectedAnswer, Unreachable, kind_of
from mayfly.client.models import TaskError
from mayfly.task import JSON
from mayfly.typed import known

T = TypeVar("T")

ANSWER_SECONDS: Final = 30.0
"""How long an answer may take beyond what the request itself asked to wait, unless the client says it."""
RETRY_PAUSES: Final = (0.1, 0.5)
"""Seconds before each further try of a call that may be repeated and met no gateway, or a 503 or 429 that
names no time."""
LONGEST_PAUSE: Final = 10.0
"""A `Retry-After` beyond this is not waited for: the caller gets the 503, or the 429."""
LATER: Final = (429, 503)
"""What passes by itself."""
NO_GATEWAY: Final = "is it a Mayfly gateway of this version that listens there?"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    wait: float = 0.0
    """Seconds that the gateway is asked to wait before it answers."""
    silence: float | None = None
    """Of a stream, how long it may say nothing, seconds."""


class Pause(NamedTuple):
    seconds: float


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Case-insensitive, or in lower case."""
    body: bytes


Call = Generator[Request | Pause, Answer | None, T]


def send(
    request: Request, *, again: bool | None = None, expected: Sequence[int] = range(200, 300)
) -> Call[Answer]:
    """The answer, if it is one of the `expected`. Raises `Unreachable`, `ApiError` and `UnexpectedAnswer`.

    `again` says whether the request may be sent a second time although the first may have been heard; a GET
    may, unless it is told otherwise.
    """
    repeatable = request.method == "GET" if again is None else again
    for pause in (*(RETRY_PAUSES if repeatable else ()), None):
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
        error = problem(answer)
        wait = pause_after(error, pause)
        if wait is None:
            raise error
        yield Pause(wait)
    raise AssertionError("the last try either returns or raises")


def pause_after(error: ApiError, pause: float | None) -> float | None:
    """Seconds after which the same may be asked again; None if it is not to be. `pause` is what is taken
    where the gateway names no time, and None after the last try."""
    asked = pause if error.retry_after is None else error.retry_after
    waits = error.status in LATER and asked is not None and asked <= LONGEST_PAUSE
    return asked if waits and pause is not None else None


def problem(answer: Answer) -> ApiError:
    """What an answer that is no success says. Raises `UnexpectedAnswer` if it does so in no known terms."""
    said: Any = None
    if media_type(answer.headers.get("content-type", "")) in ("application/problem+json", JSON):
        try:
            said = json.loads(answer.body)
        except ValueError:
            said = None
    if not isinstance(said, dict) or "code" not in said:
        raise UnexpectedAnswer(f"the answer is {answer.status} without a problem document: {NO_GATEWAY}")
    return kind_of(answer.status)(
        answer.status,
        code=str(said["code"]),
        detail=str(said.get("detail") or said.get("title") or said["code"]),
        field=said.get("field"),
        task_id=said.get("taskId"),
        retry_after=_seconds(answer.headers.get("retry-after")),
        failure=_failure(said.get("error")),
    )


def _failure(said: Any) -> TaskError | None:
    try:
        return None if said is None else msgspec.convert(said, TaskError)
    except msgspec.ValidationError:
        return None


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdecimal() else None


# --- what a request is made of


def task_path(task_id: str, *rest: str) -> str:
    return "/".join(("/tasks", quote(task_id, safe=""), *rest))


def given(**options: Any) -> dict[str, Any]:
    """The options that say something, without those that are None."""
    return {key: value for key, value in options.items() if value is not None}


def params(options: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Options as a query has them: what is no text and no number is JSON there too."""
    return tuple((key, _text(value)) for key, value in options.items())


def _text(value: Any) -> str:
    return encode(value).decode() if isinstance(value, bool | dict) else str(value)


def post(path: str, body: Mapping[str, Any] | None = None, *, method: str = "POST") -> Request:
    """A POST, or the like, of JSON or of nothing at all."""
    if body is None:
        return Request(method, path)
    return Request(method, path, headers={"content-type": JSON}, content=encode(body))


def encode(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the payload cannot be written as JSON: {error}") from error


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339. Raises `ValueError` for a time without a zone, which could mean any of a day's."""
    if moment is None:
        return None
    if moment.utcoffset() is None:
        raise ValueError(f"{moment} has no time zone: give it one, such as datetime.now(UTC) has")
    return moment.astimezone(UTC).isoformat()


# --- what is read from an answer


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def decode(body: bytes | str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=known(kind))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(f"the answer is not understood ({error}): {NO_GATEWAY}") from error
