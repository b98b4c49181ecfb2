"""What a sandbox writes until its end: kept as its log, or read away so that nothing stands still."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from dispatcher.runtimes.base import Sandbox
from mayfly.errors import SandboxLost

LINGER_SECONDS: Final = 1.0
"""How long a process that has given its result may take to exit: its last log lines come until then."""
DRAIN_SECONDS: Final = 5.0
"""How long a killed sandbox's last bytes are waited for."""


class Log:
    """The first `cap` bytes of what a function wrote on stderr, and how many came after them."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._kept = bytearray()
        self.dropped = 0

    async def fill(self, stderr: AsyncIterator[bytes]) -> None:
        async for chunk in stderr:
            room = self._cap - len(self._kept)
            self._kept += chunk[:room]
            self.dropped += max(0, len(chunk) - room)

    def text(self) -> bytes:
        """As UTF-8. A replaced byte is three, so the cap is kept once more, at a character's end."""
        text = self._kept.decode(errors="replace").encode()
        return text if len(text) <= self._cap else text[: self._cap].decode(errors="ignore").encode()


async def settle(sandbox: Sandbox, logging: "asyncio.Task[None]", *, at_once: bool) -> None:
    """Read what is left of the streams to their end. A process that does not end by itself is made to."""
    reading = asyncio.create_task(discard(sandbox.stdout))
    # The answer is known by now: that the engine went away since is for the next task to find out.
    try:
        with contextlib.suppress(SandboxLost):
            if not at_once and await _all_done(LINGER_SECONDS, reading, logging):
                return
            await sandbox.kill("SIGKILL")
            await _all_done(DRAIN_SECONDS, reading, logging)
    finally:
        await cancel(reading)


async def _all_done(seconds: float, *tasks: "asyncio.Task[None]") -> bool:
    _, pending = await asyncio.wait(tasks, timeout=seconds)
    return not pending


async def discard(stream: AsyncIterator[bytes]) -> None:
    async for _ in stream:
        pass


async def cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
