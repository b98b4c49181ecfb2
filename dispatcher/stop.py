"""That the end of a task was asked for, heard by whatever the task's attempt waits for at that moment."""

import asyncio
from types import TracebackType


class Stop:
    """Set once, and then for good."""

    def __init__(self) -> None:
        self._set = False
        self._scopes: list[asyncio.Timeout] = []

    def set(self) -> None:
        self._set = True
        for scope in self._scopes:
            _end(scope)

    def is_set(self) -> bool:
        return self._set

    def within(self, seconds: float | None) -> "Scope":
        """A context that ends its body once so many seconds have passed, or the stop has come."""
        return Scope(self, seconds)

    def enter(self, scope: asyncio.Timeout) -> None:
        self._scopes.append(scope)
        if self._set:
            _end(scope)

    def leave(self, scope: asyncio.Timeout) -> None:
        self._scopes.remove(scope)


class Scope:
    """`cut` says afterwards whether the body was ended: that is no exception, for it is expected.

    The body runs in the caller's own task: tasks for what is waited for were what an attempt cost most.
    """

    def __init__(self, stop: Stop, seconds: float | None) -> None:
        self._stop = stop
        self._timeout = asyncio.timeout(seconds)
        self.cut = False

    async def __aenter__(self) -> "Scope":
        await self._timeout.__aenter__()
        self._stop.enter(self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._stop.leave(self._timeout)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            self.cut = True
        return self.cut


def _end(scope: asyncio.Timeout) -> None:
    if not scope.expired():
        scope.reschedule(asyncio.get_running_loop().time())
