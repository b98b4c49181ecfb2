"""A process that takes turns, between two of them: whether it lives, and is ready."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from dispatcher.frames import frame
from dispatcher.runtimes.base import Sandbox
from dispatcher.runtimes.streams import Readable

ARMED: Final = frame("A", b"{}")
REARM_SECONDS: Final = 5.0
"""How long a worker may take from its answer until it is ready again."""


class Worker:
    """A container whose process serves tasks. `on_death` is called where it dies between two of them."""

    def __init__(self, sandbox: Sandbox, on_death: "Callable[[Worker], None]") -> None:
        self.sandbox = sandbox
        self.log = Log(sandbox.stderr)
        self.born = time.monotonic()
        self.free_since = self.born
        """When it came back from its last turn."""
        self.turns = 0
        self.dead = False
        self.is_ready = False
        """Its process waits for its next task."""
        self._on_death = on_death
        self._said: bytearray | None = None
        """Since its answer has ended; None while it has a turn."""
        self._late: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def take(self) -> None:
        """A turn begins. Only of one that is ready, or new."""
        self.turns += 1
        self._rest_no_more()

    def rearm(self, unread: bytes) -> None:
        """An answer has ended. `unread` is what came after it."""
        self._said = bytearray(unread)
        self._late = asyncio.get_running_loop().call_later(REARM_SECONDS, self._die)
        self._look()

    async def ready(self) -> bool:
        """Waits until the process can take its next task; False if it never will."""
        if self._said is not None and not self.is_ready and not self.dead:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        return self.is_ready

    async def remove(self) -> None:
        self._rest_no_more()
        await self.sandbox.remove()

    def _look(self) -> None:
        """It says that it is ready, and then nothing."""
        assert self._said is not None
        stdout = self.sandbox.stdout
        while not self.is_ready and len(self._said) < len(ARMED):
            chunk = stdout.poll()
            if chunk is None:
                stdout.then(self._look)
                return
            if not chunk:
                self._die()
                return
            self._said += chunk
        if self._said != ARMED or stdout.poll() is not None:
            self._die()
            return
        stdout.then(self._look)
        self.is_ready = True
        self._decided()

    def _die(self) -> None:
        self.dead = True
        # What it says too late makes it ready no more.
        self._rest_no_more()
        self._on_death(self)

    def _rest_no_more(self) -> None:
        self._said, self.is_ready = None, False
        self.sandbox.stdout.then(None)
        self._decided()

    def _decided(self) -> None:
        """Whether it is ready."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()


class Log(Readable):
    """A worker's stderr, from turn to turn. `unread` is what came after the mark of the last one."""

    def __init__(self, stderr: Readable) -> None:
        self.unread = b""
        self._stderr = stderr

    def poll(self) -> bytes | None:
        if self.unread:
            unread, self.unread = self.unread, b""
            return unread
        return self._stderr.poll()

    def then(self, call: Callable[[], None] | None) -> None:
        self._stderr.then(call)
