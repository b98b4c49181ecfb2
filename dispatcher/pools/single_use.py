"""The supply of isolation `container`: every task has a container of its own, used once."""

import asyncio
import contextlib
import weakref
from dataclasses import replace
from typing import Final

from dispatcher.pools.cut import Answer, MarkedLog
from dispatcher.pools.marks import new_mark
from dispatcher.runtimes.base import Exit, Runtime, Sandbox, SandboxSpec, Use
from dispatcher.runtimes.streams import Readable
from mayfly.errors import SandboxLost

END_SECONDS: Final = 1.0
"""For a process that has nothing left to do: an engine that is busy takes a part of it."""


class SingleUse:
    """Implements `Supply`. A container counts with all the memory that it may come to use."""

    def __init__(self, runtime: Runtime, spec: SandboxSpec) -> None:
        self._runtime = runtime
        self._spec = replace(spec, task_id="", use=Use.ONCE)
        self._made: weakref.WeakSet[Once] = weakref.WeakSet()

    @property
    def memory_mib(self) -> int:
        return self._spec.limits.memory_mib

    async def make(self) -> Sandbox:
        mark = new_mark()
        # As `images/python/bootstrap.py` takes it; an older one ends its log with its process.
        command = ("once", mark.strip(b"\0\n").decode())
        once = Once(await self._runtime.launch(replace(self._spec, command=command)), mark)
        self._made.add(once)
        return once

    def at_hand(self) -> None:
        """Each has to be launched."""

    async def rest(self) -> None:
        """There is nothing that its pool does not see."""

    def shed(self, seconds: float) -> None: ...

    async def close(self) -> None:
        for once in list(self._made):
            await once.remove()


class Once:
    """A container whose streams end with its task's answer and its log's mark.

    An engine tells of a process's end only once it has cleared up behind it: tens of milliseconds that no
    task has to wait for.
    """

    def __init__(self, sandbox: Sandbox, mark: bytes) -> None:
        self._sandbox = sandbox
        self._stdout = Answer(sandbox.stdout)
        self._stderr = MarkedLog(sandbox.stderr, mark)

    @property
    def name(self) -> str:
        return self._sandbox.name

    @property
    def stdout(self) -> Readable:
        return self._stdout

    @property
    def stderr(self) -> Readable:
        return self._stderr

    async def write(self, data: bytes) -> None:
        await self._sandbox.write(data)

    async def close_stdin(self) -> None:
        await self._sandbox.close_stdin()

    async def kill(self, signal: str = "SIGKILL") -> None:
        await self._sandbox.kill(signal)

    async def wait(self) -> Exit:
        return await self._sandbox.wait()

    async def remove(self) -> None:
        if self._stdout.ended and self._stderr.ended:
            # Its task is over, and it waits for this. What keeps it alive nevertheless is killed.
            with contextlib.suppress(SandboxLost, TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self._sandbox.close_stdin()
                    await self._sandbox.wait()
        await self._sandbox.remove()
