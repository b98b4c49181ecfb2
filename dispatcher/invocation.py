"""One task in one sandbox: speaks the function's contract and says how the attempt ended.

Whatever a function does is a `Reply`; only broken infrastructure is an exception. Nothing that comes out of a
sandbox is trusted: every part has a cap, and a result that says it is JSON is read before it is believed.
"""

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from signal import Signals
from typing import Final, TypeVar

import msgspec

from dispatcher.frames import Frame, FrameParser, Violation, frame
from dispatcher.output import LINGER_SECONDS, Log, cancel, discard, settle
from dispatcher.runtimes.base import Exit, Sandbox
from mayfly.errors import SandboxLost
from mayfly.task import JSON, Failure, FailureType

START_UP_SECONDS: Final = 30.0
"""How long a handler's import may take."""
GRACE_SECONDS: Final = 2.0
"""Between SIGTERM and SIGKILL."""
CONTROL_BYTES: Final = 256 * 1024
"""Cap of every frame but a result's body."""
MESSAGE_CHARS: Final = 4096
TRACEBACK_CHARS: Final = 32 * 1024
TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"
_MEDIA_TYPE: Final = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}( ?;[\x20-\x7e]{1,255})?", re.ASCII)

Progress = Callable[[float, str], None]
"""Takes a fraction from 0 to 1 and a message."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """A task as its sandbox gets it, and what the dispatcher takes back."""

    task_id: str
    task_type: str
    attempt: int
    deadline_seconds: float
    """How long the function may take, from the moment it has its input."""
    payload: bytes
    content_type: str
    version: str
    memory_mib: int
    max_result: int
    max_log: int
    env: Mapping[str, str] = field(default_factory=dict)
    """Set in a Python function's environment before its handler is called. Not for the Unix contract, where
    the environment is there from the start."""


@dataclass(frozen=True, slots=True)
class Reply:
    """How the attempt ended: a result, or a failure. Times are milliseconds since 1970, UTC."""

    result: bytes | None
    content_type: str
    failure: Failure | None
    log: bytes
    """UTF-8; what was not is replaced."""
    log_dropped: int
    """Bytes of log behind the cap."""
    started_at: int
    finished_at: int


async def invoke(
    sandbox: Sandbox,
    contract: str,
    request: Request,
    *,
    on_progress: Progress = lambda fraction, message: None,
) -> Reply:
    """Give the sandbox its task and wait for the end of it.

    Raises `SandboxLost` where infrastructure failed. The sandbox is spent: removing it is the caller's.
    """
    conversation = (_Python if contract == "python" else _Unix)(sandbox, request, on_progress)
    log = Log(request.max_log)
    logging = asyncio.create_task(log.fill(sandbox.stderr))
    try:
        answer = await conversation.hold()
        finished_at = _now_ms()
        await settle(sandbox, logging, at_once=answer.kill)
    finally:
        await cancel(logging)
    return Reply(
        result=answer.result,
        content_type=answer.content_type,
        failure=answer.failure,
        log=log.text(),
        log_dropped=log.dropped,
        started_at=conversation.started_at,
        finished_at=max(finished_at, conversation.started_at),
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    result: bytes | None = None
    content_type: str = JSON
    failure: Failure | None = None
    kill: bool = False
    """Whether the process is to die at once: it has broken its contract."""


class _Bad(Exception):
    """The function broke its contract; the message is for whoever wrote it."""


class _Conversation(ABC):
    """What both contracts share: the clock, the end of time, the end of the process."""

    def __init__(self, sandbox: Sandbox, request: Request, on_progress: Progress) -> None:
        self._sandbox = sandbox
        self._request = request
        self._on_progress = on_progress
        self.started_at = _now_ms()

    async def hold(self) -> _Answer:
        try:
            return await self._talk()
        except _Bad as error:
            return _Answer(failure=Failure(FailureType.BAD_RESULT, str(error)), kill=True)

    @abstractmethod
    async def _talk(self) -> _Answer: ...

    async def _within(self, seconds: float, told: str, step: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """The step's answer, or a timeout's once the process has been told and its grace is over."""
        try:
            async with asyncio.timeout(seconds):
                return await step()
        except TimeoutError:
            await self._stop()
            return _Answer(failure=Failure(FailureType.TIMEOUT, told), kill=True)

    async def _stop(self) -> None:
        """SIGTERM, the grace. What the function still writes is read, or its clean-up might block."""
        reading = asyncio.create_task(discard(self._sandbox.stdout))
        try:
            await self._sandbox.kill("SIGTERM")
            await asyncio.wait({reading}, timeout=GRACE_SECONDS)
        finally:
            await cancel(reading)

    async def _ended(self, before: str) -> _Answer:
        """The failure of a process that is gone `before` it did what it should have done."""
        return _Answer(failure=self._exit_failure(await self._sandbox.wait(), before))

    def _exit_failure(self, exit: Exit, before: str = "") -> Failure:
        if exit.oom_killed:
            return self._out_of_memory(exit.code)
        how = f"was ended by {_signal(exit.code)}" if _signal(exit.code) else f"exited with code {exit.code}"
        return Failure(FailureType.EXIT_CODE, f"the process {how}{before}", exit_code=exit.code)

    def _out_of_memory(self, code: int) -> Failure:
        message = f"the function used more than its {self._request.memory_mib} MiB of memory"
        return Failure(FailureType.OUT_OF_MEMORY, message, exit_code=code)


class _Python(_Conversation):
    """Frames: the sandbox is armed, gets its task, tells its progress, and gives a result or an error."""

    def __init__(self, sandbox: Sandbox, request: Request, on_progress: Progress) -> None:
        super().__init__(sandbox, request, on_progress)
        caps = dict.fromkeys("AGRE", CONTROL_BYTES) | {"B": request.max_result}
        self._frames = _Frames(sandbox.stdout, FrameParser(caps))

    async def _talk(self) -> _Answer:
        late = f"the handler's import took more than {START_UP_SECONDS:g} s"
        failed = await self._within(START_UP_SECONDS, late, self._armed)
        if failed.failure is not None:
            return failed
        # The function's time starts here, so that one which does not read its input cannot stop the clock.
        self.started_at = _now_ms()
        seconds = self._request.deadline_seconds
        giving = asyncio.create_task(self._sandbox.write(self._input(time.time() + seconds)))
        try:
            return await self._within(seconds, f"the function took more than {seconds:g} s", self._outcome)
        finally:
            await cancel(giving)

    async def _armed(self) -> _Answer:
        first = await anext(self._frames, None)
        if first is None:
            return await self._ended(before=" before the handler was imported")
        if first.kind == "E":
            return await self._error(first.body)
        if first.kind != "A":
            raise _Bad(f"the process sent a frame {first.kind!r} before it was ready")
        return _Answer()

    def _input(self, deadline: float) -> bytes:
        request = self._request
        task = {
            "taskId": request.task_id,
            "taskType": request.task_type,
            "attempt": request.attempt,
            "deadline": deadline,
            "contentType": request.content_type,
            "version": request.version,
            "memoryMiB": request.memory_mib,
            "env": dict(request.env),
        }
        return frame("T", msgspec.json.encode(task)) + frame("P", request.payload)

    async def _outcome(self) -> _Answer:
        content_type: str | None = None
        async for kind, body in self._frames:
            match kind:
                case "G":
                    progress = _decode(_ProgressFrame, body)
                    self._on_progress(min(max(progress.fraction, 0.0), 1.0), progress.message[:MESSAGE_CHARS])
                case "E":
                    return await self._error(body)
                case "R" if content_type is None:
                    content_type = _media_type(_decode(_ResultFrame, body).content_type)
                case "B" if content_type is not None:
                    return _Answer(_checked(body, content_type), content_type)
                case _:
                    raise _Bad(f"the process sent a frame {kind!r} out of turn")
        return await self._ended(before=" before it gave a result")

    async def _error(self, body: bytes) -> _Answer:
        told = _decode(_ErrorFrame, body)
        failure = Failure(
            FailureType.BAD_RESULT if told.type == FailureType.BAD_RESULT else FailureType.ERROR,
            told.message[:MESSAGE_CHARS],
            error=told.error[:MESSAGE_CHARS] if told.error else None,
            traceback=told.traceback[-TRACEBACK_CHARS:] if told.traceback else None,
        )
        # An exception may be all that a handler sees of a child that the kernel killed for its memory.
        exit = await self._exit_soon()
        if exit is not None and exit.oom_killed:
            memory = self._out_of_memory(exit.code)
            failure = msgspec.structs.replace(
                failure, type=memory.type, message=f"{memory.message}: {failure.message}"
            )
        return _Answer(failure=failure)

    async def _exit_soon(self) -> Exit | None:
        reading = asyncio.create_task(discard(self._sandbox.stdout))
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                return await self._sandbox.wait()
        except (TimeoutError, SandboxLost):
            return None
        finally:
            await cancel(reading)


class _Unix(_Conversation):
    """Payload on stdin, result on stdout, log on stderr, and the exit code says the rest."""

    async def _talk(self) -> _Answer:
        seconds = self._request.deadline_seconds
        giving = asyncio.create_task(self._give())
        try:
            return await self._within(seconds, f"the function took more than {seconds:g} s", self._outcome)
        finally:
            await cancel(giving)

    async def _give(self) -> None:
        await self._sandbox.write(self._request.payload)
        await self._sandbox.close_stdin()

    async def _outcome(self) -> _Answer:
        result = bytearray()
        async for chunk in self._sandbox.stdout:
            result += chunk
            if len(result) > self._request.max_result:
                raise _Bad(f"the result is over the cap of {self._request.max_result} bytes")
        exit = await self._sandbox.wait()
        if exit.code != 0:
            return _Answer(failure=self._exit_failure(exit))
        return _Answer(bytes(result), _guessed_type(bytes(result)))


# --- frames from the sandbox --------------------------------------------------------------------------------


class _ProgressFrame(msgspec.Struct):
    fraction: float
    message: str = ""


class _ResultFrame(msgspec.Struct, rename="camel"):
    content_type: str = JSON


class _ErrorFrame(msgspec.Struct):
    type: str = FailureType.ERROR
    error: str | None = None
    message: str = ""
    traceback: str | None = None


class _Frames:
    """The frames of a stream, one after the other. Raises `_Bad` for what is none."""

    def __init__(self, stdout: AsyncIterator[bytes], parser: FrameParser) -> None:
        self._stdout = stdout
        self._parser = parser
        self._found: deque[Frame | Violation] = deque()

    def __aiter__(self) -> "_Frames":
        return self

    async def __anext__(self) -> Frame:
        while not self._found:
            self._found += self._parser.feed(await anext(self._stdout))
        found = self._found.popleft()
        if isinstance(found, Violation):
            raise _Bad(_told(found))
        return found


def _told(violation: Violation) -> str:
    if violation.cap is None:
        return "the process wrote to its result channel what is no frame"
    what = "result" if violation.kind == "B" else f"frame {violation.kind!r}"
    return f"the {what} of {violation.length} bytes is over the cap of {violation.cap} bytes"


def _decode(kind: type[T], body: bytes) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Bad(f"the process sent a frame that cannot be read: {error}") from error


def _media_type(text: str) -> str:
    if not _MEDIA_TYPE.fullmatch(text):
        raise _Bad(f"{text[:100]!r} is no content type")
    return text


def _checked(body: bytes, content_type: str) -> bytes:
    if content_type == JSON and not _is_json(body):
        raise _Bad("the result says that it is JSON, and is not")
    return body


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _guessed_type(body: bytes) -> str:
    if _is_json(body):
        return JSON
    try:
        body.decode()
    except UnicodeDecodeError:
        return BYTES
    return TEXT


def _signal(code: int) -> str | None:
    """The signal that an exit code stands for, if it stands for one."""
    try:
        return Signals(code - 128).name if code > 128 else None
    except ValueError:
        return None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
