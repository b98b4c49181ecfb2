"""One task in one sandbox: speaks the function's contract and says how the attempt ended.

Whatever a function does is a `Reply`; only broken infrastructure is an exception. Nothing that comes out of a
sandbox is trusted: every part has a cap, and a result that says it is JSON is read before it is believed.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from signal import Signals
from typing import Final, Protocol

import msgspec

from dispatcher.frames import Frame, frame
from dispatcher.messages import (
    BrokenContract,
    Frames,
    is_json,
    read_content_type,
    read_failure,
    read_progress,
    read_result,
)
from dispatcher.output import LINGER_SECONDS, Log, OnLog, OnProgress, Progress, cancel, discard, settle
from dispatcher.redaction import Redactor, redacted
from dispatcher.runtimes.base import Exit, Sandbox
from dispatcher.stop import Stop
from mayfly.errors import SandboxLost
from mayfly.task import JSON, Advice, Failure, FailureType

START_UP_SECONDS: Final = 30.0
"""How long a handler's import may take."""
GRACE_SECONDS: Final = 2.0
"""Between SIGTERM and SIGKILL."""
STOPPED: Final = "the task was cancelled while it ran"
TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"
WRITTEN_AT_ONCE: Final = 32 * 1024
"""An input that no process has to read before its sandbox has taken it: a pipe holds more."""
EXIT_ADVICE: Final = {75: Advice.RETRY, 65: Advice.PERMANENT}
"""EX_TEMPFAIL and EX_DATAERR of sysexits.h, in the Unix contract."""


class Streamed(Protocol):
    """A payload that is in no memory."""

    @property
    def size(self) -> int: ...
    def chunks(self) -> AsyncIterator[bytes]:
        """As many bytes, together. May raise what ends the attempt."""


class Request(msgspec.Struct, frozen=True):
    """A task as its sandbox gets it, and what the dispatcher takes back."""

    task_id: str
    task_type: str
    attempt: int
    deadline_seconds: float
    """How long the function may take, from the moment it has its input."""
    payload: bytes | Streamed
    content_type: str
    version: str
    memory_mib: int
    max_result: int
    max_log: int
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Set in a Python function's environment before its handler is called. Not for the Unix contract, where
    the environment is there from the start."""
    secrets: tuple[str, ...] = ()
    """Values that are taken out of the log, the progress and the failure."""


class Reply(msgspec.Struct, frozen=True):
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
    on_progress: OnProgress = lambda fraction, message: None,
    on_log: OnLog | None = None,
    stop: Stop | None = None,
) -> Reply:
    """Give the sandbox its task and wait for the end of it.

    Once `stop` is set, the function is told, as at its deadline, and the reply is `Task.Cancelled`; an answer
    that came before stands. Both callbacks are called on the event loop: they must be quick, and not raise.

    Raises `SandboxLost` where infrastructure failed, and what a streamed payload raises. The sandbox is
    spent: removing it is the caller's.
    """
    progress = Progress(on_progress)
    conversation = (_Python if contract == "python" else _Unix)(sandbox, request, progress, stop or Stop())
    log = Log(sandbox.stderr, request.max_log, on_log, Redactor(request.secrets))
    log.fill()
    try:
        answer = await conversation.hold()
        finished_at = _now_ms()
        await settle(sandbox, log, at_once=answer.kill)
    finally:
        progress.end()
        log.end()
    return Reply(
        result=answer.result,
        content_type=answer.content_type,
        failure=answer.failure,
        log=log.text(),
        log_dropped=log.dropped,
        started_at=conversation.started_at,
        finished_at=max(finished_at, conversation.started_at),
    )


class _Answer(msgspec.Struct, frozen=True):
    result: bytes | None = None
    content_type: str = JSON
    failure: Failure | None = None
    kill: bool = False
    """Whether the process is to die at once: it has broken its contract, or has had its grace."""


class _Conversation(ABC):
    """What both contracts share: the deadline and the stop, and the end of the process."""

    def __init__(self, sandbox: Sandbox, request: Request, progress: Progress, stop: Stop) -> None:
        self._sandbox = sandbox
        self._request = request
        self._progress = progress
        self._stop = stop
        self.started_at = _now_ms()

    async def hold(self) -> _Answer:
        try:
            return await self._talk()
        except BrokenContract as error:
            message = redacted(str(error), self._request.secrets)
            return _Answer(failure=Failure(FailureType.BAD_RESULT, message), kill=True)

    @abstractmethod
    async def _talk(self) -> _Answer: ...

    async def _within(self, seconds: float, late: str, step: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """The step's answer; where the time or the stop comes first, that one's failure, once the process has
        been told and its grace is over."""
        async with self._stop.within(seconds):
            return await step()
        stopped = self._stop.is_set()
        await self._terminate()
        failure = Failure(FailureType.CANCELLED, STOPPED) if stopped else Failure(FailureType.TIMEOUT, late)
        return _Answer(failure=failure, kill=True)

    async def _given(
        self, giving: "asyncio.Task[None]", outcome: Callable[[], Awaitable[_Answer]]
    ) -> _Answer:
        """The outcome, unless its input breaks off before: then what broke it is raised."""
        waiting = asyncio.ensure_future(outcome())
        try:
            await asyncio.wait({giving, waiting}, return_when=asyncio.FIRST_COMPLETED)
            # A sandbox that is lost, or just gone, is what the outcome tells.
            error = None if waiting.done() else giving.exception()
            if error is not None and not isinstance(error, SandboxLost):
                raise error
            return await waiting
        finally:
            await cancel(waiting)

    async def _stream(self, payload: Streamed) -> None:
        async for chunk in payload.chunks():
            await self._sandbox.write(chunk)

    async def _terminate(self) -> None:
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

    def __init__(self, sandbox: Sandbox, request: Request, progress: Progress, stop: Stop) -> None:
        super().__init__(sandbox, request, progress, stop)
        self._frames = Frames(sandbox.stdout, request.max_result)

    async def _talk(self) -> _Answer:
        if (first := self._frames.poll()) is not None:
            answer = self._judged(first)
        else:
            late = f"the handler's import took more than {START_UP_SECONDS:g} s"
            answer = await self._within(START_UP_SECONDS, late, self._armed)
        if answer.failure is None:
            answer = await self._run()
        return await self._explained(answer)

    async def _armed(self) -> _Answer:
        """An answer without a failure: the process waits for its task."""
        first = await anext(self._frames, None)
        if first is None:
            return await self._ended(before=" before the handler was imported")
        return self._judged(first)

    def _judged(self, first: Frame) -> _Answer:
        if first.kind == "E":
            return _Answer(failure=read_failure(first.body, self._request.secrets))
        if first.kind != "A":
            raise BrokenContract(f"the process sent a frame {first.kind!r} before it was ready")
        return _Answer()

    async def _run(self) -> _Answer:
        # The function's time starts here, so that one which does not read its input cannot stop the clock.
        self.started_at = _now_ms()
        seconds = self._request.deadline_seconds
        payload = self._request.payload
        given = self._input(time.time() + seconds)
        late = f"the function took more than {seconds:g} s"
        if isinstance(payload, bytes) and len(given) <= WRITTEN_AT_ONCE:
            return await self._within(seconds, late, lambda: self._answered(given))
        giving = asyncio.create_task(self._give(given))
        try:
            return await self._within(seconds, late, lambda: self._given(giving, self._outcome))
        finally:
            await cancel(giving)

    async def _give(self, given: bytes) -> None:
        await self._sandbox.write(given)
        if not isinstance(self._request.payload, bytes):
            await self._stream(self._request.payload)

    async def _answered(self, given: bytes) -> _Answer:
        await self._sandbox.write(given)
        return await self._outcome()

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
        head = frame("T", msgspec.json.encode(task))
        if isinstance(request.payload, bytes):
            return head + frame("P", request.payload)
        return head + frame("S", request.payload.size.to_bytes(8, "big"))

    async def _outcome(self) -> _Answer:
        content_type: str | None = None
        async for kind, body in self._frames:
            match kind:
                case "G":
                    self._progress.tell(*read_progress(body, self._request.secrets))
                case "E":
                    return _Answer(failure=read_failure(body, self._request.secrets))
                case "R" if content_type is None:
                    content_type = read_content_type(body)
                case "B" if content_type is not None:
                    return _Answer(read_result(body, content_type), content_type)
                case _:
                    raise BrokenContract(f"the process sent a frame {kind!r} out of turn")
        return await self._ended(before=" before it gave a result")

    async def _explained(self, answer: _Answer) -> _Answer:
        """An exception may be all that a handler sees of a child that the kernel killed for its memory, or
        of the memory that it did not get itself."""
        failure = answer.failure
        if failure is None or failure.error is None:
            return answer
        if failure.type is not FailureType.OUT_OF_MEMORY:
            exit = await self._exit_soon()
            if exit is None or not exit.oom_killed:
                return answer
        memory = self._out_of_memory(0)
        message = f"{memory.message}: {failure.message}".removesuffix(": ")
        return _Answer(failure=msgspec.structs.replace(failure, type=memory.type, message=message))

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
            late = f"the function took more than {seconds:g} s"
            return await self._within(seconds, late, lambda: self._given(giving, self._outcome))
        finally:
            await cancel(giving)

    async def _give(self) -> None:
        if isinstance(self._request.payload, bytes):
            await self._sandbox.write(self._request.payload)
        else:
            await self._stream(self._request.payload)
        await self._sandbox.close_stdin()

    async def _outcome(self) -> _Answer:
        result = bytearray()
        async for chunk in self._sandbox.stdout:
            result += chunk
            if len(result) > self._request.max_result:
                raise BrokenContract(f"the result is over the cap of {self._request.max_result} bytes")
        exit = await self._sandbox.wait()
        if exit.code != 0:
            failure = self._exit_failure(exit)
            if failure.type is FailureType.EXIT_CODE:
                failure = msgspec.structs.replace(failure, advice=EXIT_ADVICE.get(exit.code))
            return _Answer(failure=failure)
        return _Answer(bytes(result), _guessed_type(bytes(result)))


def _guessed_type(body: bytes) -> str:
    if is_json(body):
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
