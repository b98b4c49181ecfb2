"""What a sandbox writes until its end: kept as its log, told as its progress, or read away so that nothing
stands still."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from dispatcher.redaction import Redactor
from dispatcher.runtimes.base import Sandbox
from dispatcher.runtimes.streams import Readable, drained
from mayfly.errors import SandboxLost

LINGER_SECONDS: Final = 1.0
"""How long a process that has given its result may take to exit: its last log lines come until then."""
DRAIN_SECONDS: Final = 5.0
"""How long a killed sandbox's last bytes are waited for."""
PROGRESS_SECONDS: Final = 0.05
"""Between one telling of a progress and the next."""

OnLog = Callable[[bytes], None]
"""Takes a chunk of a log as it was read: it may begin or end within a character."""
OnProgress = Callable[[float, str], None]
"""Takes a fraction from 0 to 1 and a message."""


class Log:
    """The first `cap` bytes of what a function wrote on stderr, without its secrets, and how many came after
    them.

    `on_log` is called with each chunk that is kept; while it runs, the function's output stands still.
    """

    def __init__(
        self, stderr: Readable, cap: int, on_log: OnLog | None = None, redactor: Redactor | None = None
    ) -> None:
        self._stderr = stderr
        self._cap = cap
        self._on_log = on_log
        self._redactor = redactor or Redactor(())
        self._kept = bytearray()
        self._waiting: asyncio.Future[None] | None = None
        self.dropped = 0
        self.ended = False

    def fill(self) -> None:
        """Keep what has come, and, until `end`, what comes."""
        while chunk := self._stderr.poll():
            # What is dropped in any case need not be looked at, however much it is.
            self._keep(self._redactor.feed(chunk) if len(self._kept) < self._cap else chunk)
        if chunk is None:
            self._stderr.then(self.fill)
        else:
            self.end()

    async def filled(self) -> None:
        """Waits for the end of the stream."""
        if not self.ended:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def end(self) -> None:
        """Nothing more is kept."""
        if self.ended:
            return
        self.ended = True
        self._stderr.then(None)
        self._keep(self._redactor.end())
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _keep(self, chunk: bytes) -> None:
        kept = chunk[: self._cap - len(self._kept)]
        self._kept += kept
        self.dropped += len(chunk) - len(kept)
        if kept and self._on_log is not None:
            self._on_log(kept)

    def text(self) -> bytes:
        """As UTF-8. A replaced byte is three, so the cap is kept once more, at a character's end."""
        text = self._kept.decode(errors="replace").encode()
        return text if len(text) <= self._cap else text[: self._cap].decode(errors="ignore").encode()


class Progress:
    """Passes on the latest progress, at a pace: a sandbox may say it as often as it likes."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._latest: tuple[float, str] | None = None
        self._pause: asyncio.TimerHandle | None = None

    def tell(self, fraction: float, message: str) -> None:
        self._latest = fraction, message
        if self._pause is None:
            self._pass_on()

    def end(self) -> None:
        """Pass on what is held: nothing more will come."""
        if self._pause is not None:
            self._pause.cancel()
        if self._latest is not None:
            self._on_progress(*self._latest)
            self._latest = None

    def _pass_on(self) -> None:
        self._pause = None
        if self._latest is not None:
            self._on_progress(*self._latest)
            self._latest = None
            self._pause = asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._pass_on)


async def settle(sandbox: Sandbox, log: Log, *, at_once: bool) -> None:
    """Read what is left of the streams to their end. A process that does not end by itself is made to."""
    # The answer is known by now: that the engine went away since is for the next task to find out.
    with contextlib.suppress(SandboxLost):
        if not at_once and await _ended(sandbox, log, LINGER_SECONDS):
            return
        # Read meanwhile: an engine answers when what it killed is gone, which waits for its last bytes.
        killing = asyncio.create_task(sandbox.kill("SIGKILL"))
        try:
            await _ended(sandbox, log, DRAIN_SECONDS)
        finally:
            await cancel(killing)


async def _ended(sandbox: Sandbox, log: Log, seconds: float) -> bool:
    if drained(sandbox.stdout) and log.ended:
        return True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await discard(sandbox.stdout)
            await log.filled()
            return True
    return False


async def discard(stream: Readable) -> None:
    async for _ in stream:
        pass


async def cancel(task: "asyncio.Future[Any]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
