"""One sandbox that waits for a task, watched so that no task is given a dead one."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from dispatcher.frames import FrameParser, Violation
from dispatcher.runtimes.base import Exit, Sandbox
from dispatcher.runtimes.streams import Readable
from mayfly.errors import SandboxUnused

ARMED_BYTES: Final = 1024
"""Cap of what a sandbox says of itself when its handler is imported."""


class Ahead(Readable):
    """A stream that is looked at before its reader comes, who misses nothing by that."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._seen: deque[bytes] = deque()
        self.ended = False

    def look(self) -> bytes | None:
        """The next chunk that nobody has seen, as `poll`; it stays for the reader."""
        if chunk := self._next():
            self._seen.append(chunk)
        return chunk

    def poll(self) -> bytes | None:
        return self._seen.popleft() if self._seen else self._next()

    def then(self, call: Callable[[], None] | None) -> None:
        self._stream.then(call)

    def _next(self) -> bytes | None:
        chunk = self._stream.poll()
        self.ended = chunk == b""
        return chunk


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
        while self.fault is None and (chunk := self.stdout.look()) is not None:
            self._judge(chunk)
        if self.fault is None:
            self.stdout.then(self._look_again)
        if (self.armed, self.fault) != before and not self._lent:
            self._on_change(self)

    def _judge(self, chunk: bytes) -> None:
        for found in self._parser.feed(chunk):
            if isinstance(found, Violation):
                self.fault = "its handler was not imported"
            elif self.armed:
                self.fault = "it spoke out of turn"
            else:
                self.armed = True
        if not chunk and self.fault is None:
            self.fault = (
                "it died while it waited" if self.armed else "it ended before its handler was imported"
            )

    def _look_again(self) -> None:
        if self._watched:
            self.look()

    async def remove(self) -> None:
        self._watched = False
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
    def stdout(self) -> Readable:
        self._touch()
        return self._standby.stdout

    @property
    def stderr(self) -> Readable:
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
        if self._given or not self._standby.armed:
            return
        while self._standby.stdout.look():
            pass
        if self._standby.stdout.ended:
            raise SandboxUnused("the sandbox died while it waited for a task")

    async def remove(self) -> None:
        # Once only: what was given back may be another task's by now.
        if not self._returned:
            self._returned = True
            await self._give_back(self._standby, not self._touched)
