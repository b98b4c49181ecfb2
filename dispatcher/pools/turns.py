"""Turns of processes that serve many tasks (`isolation = "warm"`), one container each.

The process is `images/python/mayfly_turns.py`. A turn is one task's: its stdout ends with the answer, its
stderr with the mark that the process was given for it. A worker whose turn did not end by an answer is
removed with its container, so that one crash costs one task.
"""

import asyncio
import time
from dataclasses import replace
from typing import Final

from dispatcher.frames import frame
from dispatcher.pools.cut import Answer, MarkedLog
from dispatcher.pools.marks import new_mark
from dispatcher.pools.worker import ARMED, Worker
from dispatcher.runtimes.base import Exit, Runtime, Sandbox, SandboxSpec, Use
from mayfly.errors import SandboxLost

MAX_TURNS: Final = 1000
MAX_AGE_SECONDS: Final = 600.0
"""What a worker may serve, and how long it may live, before another takes its place: leaks end here."""


class Turns:
    """A `Supply` of turns. `make` takes the free worker that was used last, or launches one."""

    def __init__(
        self,
        runtime: Runtime,
        spec: SandboxSpec,
        *,
        max_turns: int = MAX_TURNS,
        max_age_seconds: float = MAX_AGE_SECONDS,
    ) -> None:
        self._runtime = runtime
        self._spec = replace(spec, use=Use.SERVES, command=("turns",), task_id="")
        self._max_turns = max_turns
        self._max_age_seconds = max_age_seconds
        self._free: list[Worker] = []
        self._workers: set[Worker] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def memory_mib(self) -> int:
        """All that the function may have: what earlier tasks took stays with their worker."""
        return self._spec.limits.memory_mib

    @property
    def free(self) -> int:
        """How many workers wait for a turn."""
        return len(self._free)

    def at_hand(self) -> Sandbox | None:
        for worker in reversed(self._free):
            if worker.is_ready and not self._is_old(worker):
                self._free.remove(worker)
                return Turn(self, worker)
        return None

    async def make(self) -> Sandbox:
        while self._free:
            worker = self._free.pop()
            try:
                if not self._is_old(worker) and await worker.ready():
                    return Turn(self, worker)
            except asyncio.CancelledError:
                self._bury(worker)
                raise
            await self.discard(worker)
        worker = Worker(await self._runtime.launch(self._spec), self._on_death)
        self._workers.add(worker)
        if self._closed:
            await self.discard(worker)
            raise SandboxLost("the function's workers were closed meanwhile")
        return Turn(self, worker)

    async def rest(self) -> None:
        """Remove the workers that wait for a turn: nobody needs them now."""
        while self._free:
            await self.discard(self._free.pop())

    def shed(self, seconds: float) -> None:
        """Those are the first ones, for the last one is taken first."""
        latest = time.monotonic() - seconds
        while self._free and self._free[0].free_since <= latest:
            self._bury(self._free.pop(0))

    async def close(self) -> None:
        self._closed = True
        self._free.clear()
        for worker in list(self._workers):
            await self.discard(worker)
        await asyncio.gather(*self._burials)

    async def give_back(self, worker: Worker) -> None:
        """Of a turn that ended well."""
        if self._closed or worker.dead or self._is_old(worker):
            await self.discard(worker)
        else:
            worker.free_since = time.monotonic()
            self._free.append(worker)

    async def discard(self, worker: Worker) -> None:
        self._workers.discard(worker)
        await worker.remove()

    def _is_old(self, worker: Worker) -> bool:
        age = time.monotonic() - worker.born
        return worker.turns >= self._max_turns or age >= self._max_age_seconds

    def _on_death(self, worker: Worker) -> None:
        if worker in self._free:
            self._free.remove(worker)
            self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        burial = asyncio.create_task(self.discard(worker))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)


class Turn:
    """One task's turn with a worker, as a `Sandbox`."""

    def __init__(self, supply: Turns, worker: Worker) -> None:
        self._supply = supply
        self._worker = worker
        self._mark = new_mark()
        self._begun = False
        self._spoiled = False
        self._removed = False
        worker.take()
        first = ARMED if worker.turns > 1 else b""
        self.stdout = Answer(worker.sandbox.stdout, worker.rearm, first=first)
        self.stderr = MarkedLog(worker.log, self._mark)
        self.name = worker.sandbox.name

    async def write(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            data = frame("M", self._mark) + data
        await self._worker.sandbox.write(data)

    async def close_stdin(self) -> None:
        self._spoiled = True
        await self._worker.sandbox.close_stdin()

    async def kill(self, signal: str = "SIGKILL") -> None:
        """Of a turn that has ended, nothing is left to be killed."""
        if not self._has_ended:
            self._spoiled = True
            await self._worker.sandbox.kill(signal)

    async def wait(self) -> Exit:
        """A process that is ready for its next task has done its work with this one."""
        if self.stdout.ended and not self._spoiled and await self._worker.ready():
            return Exit(0, oom_killed=False)
        return await self._worker.sandbox.wait()

    async def remove(self) -> None:
        """Gives the worker back if the turn ended by an answer; else the container goes."""
        if self._removed:
            return
        self._removed = True
        if self._has_ended and not self._spoiled:
            self._worker.log.unread = self.stderr.rest
            await self._supply.give_back(self._worker)
        else:
            await self._supply.discard(self._worker)

    @property
    def _has_ended(self) -> bool:
        return self.stdout.ended and self.stderr.ended
