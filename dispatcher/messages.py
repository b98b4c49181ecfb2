"""What a Python function's sandbox says in its frames (`images/python/bootstrap.py` lists them).

It may be anything: what breaks the contract raises `BrokenContract`, and advice that makes no sense is left
out.
"""

import re
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from dispatcher.frames import Frame, FrameParser, Violation
from dispatcher.redaction import redacted
from dispatcher.runtimes.streams import Readable
from mayfly.task import JSON, MAX_DELAY_SECONDS, Advice, Failure, FailureType

CONTROL_BYTES: Final = 256 * 1024
"""Cap of every frame but a result's body."""
TELLABLE: Final = (FailureType.BAD_RESULT, FailureType.OUT_OF_MEMORY)
"""What else than an error a process can say of itself."""
MESSAGE_CHARS: Final = 4096
TRACEBACK_CHARS: Final = 32 * 1024
_MEDIA_TYPE: Final = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}( ?;[\x20-\x7e]{1,255})?", re.ASCII)

T = TypeVar("T")


class BrokenContract(Exception):
    """The function broke its contract; the message is for whoever wrote it."""


class Frames:
    """The frames of a stream, one after the other. Raises `BrokenContract` for what is none."""

    def __init__(self, stdout: Readable, max_result: int) -> None:
        self._stdout = stdout
        self._parser = FrameParser(dict.fromkeys("AGRE", CONTROL_BYTES) | {"B": max_result})
        self._found: deque[Frame | Violation] = deque()

    def __aiter__(self) -> "Frames":
        return self

    async def __anext__(self) -> Frame:
        while not self._found:
            self._found += self._parser.feed(await anext(self._stdout))
        return self._next()

    def poll(self) -> Frame | None:
        """The next one, if it has come already."""
        while not self._found and (chunk := self._stdout.poll()):
            self._found += self._parser.feed(chunk)
        return self._next() if self._found else None

    def _next(self) -> Frame:
        found = self._found.popleft()
        if isinstance(found, Violation):
            raise BrokenContract(_told(found))
        return found


class _Progress(msgspec.Struct):
    fraction: float
    message: str = ""


class _Result(msgspec.Struct, rename="camel"):
    content_type: str = JSON


class _Error(msgspec.Struct, rename="camel"):
    type: str = FailureType.ERROR
    error: str | None = None
    message: str = ""
    traceback: str | None = None
    advice: Any = None
    retry_after: Any = None


def read_progress(body: bytes, secrets: Sequence[str] = ()) -> tuple[float, str]:
    """A fraction from 0 to 1, and a message without these secrets. Raises `BrokenContract`, as all of these
    do."""
    told = _decode(_Progress, body)
    return min(max(told.fraction, 0.0), 1.0), redacted(told.message, secrets)[:MESSAGE_CHARS]


def read_content_type(body: bytes) -> str:
    text = _decode(_Result, body).content_type
    if not _MEDIA_TYPE.fullmatch(text):
        raise BrokenContract(f"{text[:100]!r} is no content type")
    return text


def read_result(body: bytes, content_type: str) -> bytes:
    if content_type == JSON and not is_json(body):
        raise BrokenContract("the result says that it is JSON, and is not")
    return body


def read_failure(body: bytes, secrets: Sequence[str] = ()) -> Failure:
    told = _decode(_Error, body)
    # Before anything is cut: half of a secret is not found.
    message = redacted(told.message, secrets)
    error = redacted(told.error or "", secrets)
    traceback = redacted(told.traceback or "", secrets)
    advice = next((advice for advice in Advice if advice == told.advice), None)
    return Failure(
        next((kind for kind in TELLABLE if kind == told.type), FailureType.ERROR),
        message[:MESSAGE_CHARS],
        error=error[:MESSAGE_CHARS] or None,
        traceback=traceback[-TRACEBACK_CHARS:] or None,
        advice=advice,
        retry_after=_seconds(told.retry_after) if advice is Advice.RETRY else None,
    )


def is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _seconds(value: Any) -> float | None:
    """None for what is no time that a task could wait."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MAX_DELAY_SECONDS else None


def _told(violation: Violation) -> str:
    if violation.cap is None:
        return "the process wrote to its result channel what is no frame"
    what = "result" if violation.kind == "B" else f"frame {violation.kind!r}"
    return f"the {what} of {violation.length} bytes is over the cap of {violation.cap} bytes"


def _decode(kind: type[T], body: bytes) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenContract(f"the process sent a frame that cannot be read: {error}") from error
