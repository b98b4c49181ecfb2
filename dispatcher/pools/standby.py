"""One sandbox that waits for a task, watched so that no task is given a dead one."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from dispatcher.frames import FrameParser, Violation
from dispatcher.runtimes.base import Exit, Sandbox
from mayfly.errors import SandboxLost, SandboxUnused

ARMED_BYTES: Final = 1024
"""Cap of what a sandbox says of itself when its handler is imported."""


class Ahead:
    """A stream that is read before its reader comes, a chunk at a time. Its reader misses nothing."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._error: SandboxLost | None = None
        self._reading: asyncio.Task[None] | None = None
        self.chunks: deque[bytes] = deque()
        self.ended = False

    def read(self, then: Callable[[], None]) -> bool:
        """Read a chunk, or the end, and call `then`. False while another is being read, or after the end."""
        if self.ended or (self._reading is not None and not self._reading.done()):
            return False
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: then())
        return True

    async def _read(self) -> None:
        try:
            self.chunks.append(await anext(self._stream))
        except StopAsyncIteration:
            self.ended = True
        except SandboxLost as error:
            self.ended, self._error = True, error

    def __aiter__(self) -> "Ahead":
        return self

    async def __anext__(self) -> bytes:
        if not self.chunks and self._reading is not None:
            # Not awaited itself: a reader that gives up must not take what is being read with it.
            await asyncio.wait({self._reading})
            self._reading = None
        if self.chunks:
            return self.chunks.popleft()
        if self._error is not None:
            raise self._error
        if self.ended:
            raise StopAsyncIteration
        return await anext(self._stream)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()


class Standby:
    """A sandbox of a pool, from its launch on. While nobody has it, `on_change` is called whenever `armed` or
    `fault` has become something else."""

    def __init__(self, sandbox: Sandbox, on_change: "Callable[[Standby], None]", now: float) -> None:
        self.sandbox = sandbox
        self.since = now
        """When it was launched."""
        self.armed = False
        """It has said that its handler is imported: it waits for its task."""
        self.fault: str | None = None
        """Why no task may have it."""
        self.stdout = Ahead(sandbox.stdout)
        self._on_change = on_change
        self._parser = FrameParser({"A": ARMED_BYTES})
        self._judged = 0
        self._watched = False
        self._lent = False

    def watch(self) -> None:
        """Nobody has it: see what becomes of it."""
        self._watched, self._lent = True, False
        self.look()

    def lend(self, give_back: "GiveBack") -> "Taken":
        """A task has it. Until the task turns to it, it waits still: how it ends till then is not its."""
        self._watched, self._lent = True, True
        self.look()
        return Taken(self, give_back)

    def leave(self) -> None:
        """What it says from now on is its task's."""
        self._watched = False

    def look(self) -> None:
        """Judge what it has said. A sandbox that waits says one thing, and then nothing."""
        before = self.armed, self.fault
        for _ in range(self._judged, len(self.stdout.chunks)):
            for found in self._parser.feed(self.stdout.chunks[self._judged]):
                if isinstance(found, Violation):
                    self.fault = "its handler was not imported"
                elif self.armed:
                    self.fault = "it spoke out of turn"
                else:
                    self.armed = True
            self._judged += 1
        if self.stdout.ended and self.fault is None:
            self.fault = (
                "it died while it waited" if self.armed else "it ended before its handler was imported"
            )
        if self.fault is None:
            self.stdout.read(self._read)
        if (self.armed, self.fault) != before and not self._lent:
            self._on_change(self)

    def _read(self) -> None:
        if self._watched:
            self.look()

    async def remove(self) -> None:
        self._watched = False
        self.stdout.close()
        await self.sandbox.remove()


GiveBack = Callable[[Standby, bool], Awaitable[None]]
"""Takes a sandbox that its task is done with, and whether nothing was done with it. Never raises."""


class Taken:
    """Implements `Sandbox`: a task's own, until it is removed, which gives it back."""

    def __init__(self, standby: Standby, give_back: GiveBack) -> None:
        self._standby = standby
        self._give_back = give_back
        self._sandbox = standby.sandbox
        self._touched = False
        self._given = False
        self._returned = False

    @property
    def name(self) -> str:
        return self._sandbox.name

    @property
    def stdout(self) -> AsyncIterator[bytes]:
        self._touch()
        return self._standby.stdout

    @property
    def stderr(self) -> AsyncIterator[bytes]:
        self._touch()
        return self._sandbox.stderr

    async def write(self, data: bytes) -> None:
        self._touch()
        self._check()
        self._given = True
        await self._sandbox.write(data)

    async def close_stdin(self) -> None:
        self._touch()
        await self._sandbox.close_stdin()

    async def kill(self, signal: str = "SIGKILL") -> None:
        self._touch()
        await self._sandbox.kill(signal)

    async def wait(self) -> Exit:
        self._check()
        return await self._sandbox.wait()

    def _touch(self) -> None:
        if not self._touched:
            self._touched = True
            self._standby.leave()

    def _check(self) -> None:
        """Raises `SandboxUnused`. How one that has waited for a task ended is no task's outcome before it
        was given one."""
        if self._standby.armed and self._standby.stdout.ended and not self._given:
            raise SandboxUnused("the sandbox died while it waited for a task")

    async def remove(self) -> None:
        # Once only: what was given back may be another task's by now.
        if not self._returned:
            self._returned = True
            await self._give_back(self._standby, not self._touched)
