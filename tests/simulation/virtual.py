"""An event loop whose clock jumps: nothing is waited for, and what is due first happens first."""

import asyncio
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from typing import Any

EPOCH = 1_800_000_000.0
"""Where its clock starts, seconds since 1970."""


class Stuck(Exception):
    """Everybody waits for somebody, and nothing is due."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its tasks belong to whoever `owner` named when they were made."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = EPOCH
        # So late, a float tells no smaller step apart.
        self._clock_resolution = 1e-6
        self.owner: ContextVar[object] = ContextVar("owner", default=None)
        self.tasks: dict[asyncio.Task[Any], object] = {}
        self.set_task_factory(self._make)

    def time(self) -> float:
        return self._virtual

    def milliseconds(self) -> int:
        return int(self._virtual * 1000)

    def _make(
        self, loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
        self.tasks[task] = self.owner.get()
        task.add_done_callback(self.tasks.pop)
        return task

    def start(self, owner: object, coro: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """A task that belongs to the owner, as all that it starts itself."""
        token = self.owner.set(owner)
        try:
            return self.create_task(coro)
        finally:
            self.owner.reset(token)

    def end(self, owner: object) -> None:
        """Cancel the owner's tasks: it is dead."""
        for task in [task for task, of in self.tasks.items() if of is owner]:
            task.cancel()

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready:
            if not scheduled:
                raise Stuck
            self._virtual = max(self._virtual, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]
