"""A process that takes turns, between two of them: whether it lives, and is ready."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from dispatcher.frames import frame
from dispatcher.output import cancel
from dispatcher.runtimes.base import Sandbox

ARMED: Final = frame("A", b"{}")
REARM_SECONDS: Final = 5.0
"""How long a worker may take from its answer until it is ready again."""


class Worker:
    """A container whose process serves tasks. `on_death` is called where it dies between two of them."""

    def __init__(self, sandbox: Sandbox, on_death: Callable[["Worker"], None]) -> None:
        self.sandbox = sandbox
        self.stdout = aiter(sandbox.stdout)
        self.unread_log = b""
        """What came after the last turn's mark."""
        self.born = time.monotonic()
        self.turns = 0
        self.dead = False
        self._stderr = aiter(sandbox.stderr)
        self._on_death = on_death
        self._resting: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[bool] | None = None

    async def read_log(self) -> bytes:
        """The next bytes of stderr; none at its end."""
        if self.unread_log:
            chunk, self.unread_log = self.unread_log, b""
            return chunk
        return await anext(self._stderr, b"")

    def rearm(self, unread: bytes) -> None:
        """An answer has ended. `unread` is what came after it."""
        self._ready = asyncio.get_running_loop().create_future()
        self._resting = asyncio.create_task(self._rest(unread, self._ready))

    async def ready(self) -> bool:
        """Waits until the process can take its next task; False if it never will."""
        return self._ready is not None and await asyncio.shield(self._ready) and not self.dead

    async def take(self) -> bool:
        """End its rest, for a turn: False if it died meanwhile."""
        if not await self.ready():
            return False
        assert self._resting is not None
        await cancel(self._resting)
        return not self.dead

    async def remove(self) -> None:
        if self._resting is not None and self._resting is not asyncio.current_task():
            await cancel(self._resting)
        await self.sandbox.remove()

    async def _rest(self, said: bytes, ready: "asyncio.Future[bool]") -> None:
        try:
            async with asyncio.timeout(REARM_SECONDS):
                while len(said) < len(ARMED):
                    said += await anext(self.stdout)
            if said == ARMED:
                ready.set_result(True)
                # It has nothing to say now: this waits for its end.
                await anext(self.stdout)
        except (StopAsyncIteration, TimeoutError):
            pass
        except asyncio.CancelledError:
            self.dead = not ready.done()
            raise
        finally:
            if not ready.done():
                ready.set_result(False)
        self.dead = True
        self._on_death(self)
