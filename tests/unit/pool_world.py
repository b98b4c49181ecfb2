"""Pools on a clock that stands, with sandboxes that do what a test says."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from sandbox_streams import stream

from dispatcher.frames import frame
from dispatcher.pools.pools import Pools
from dispatcher.runtimes.base import Exit, Sandbox, SandboxSpec
from mayfly.errors import SandboxLost
from mayfly.function import Function, Limits

ARMED: Final = frame("A", b"{}")
DEADLINE_SECONDS: Final = 30.0


class Scripted:
    """A sandbox that says what it is told to say."""

    def __init__(self, name: str, spec: SandboxSpec) -> None:
        self.name = name
        self.spec = spec
        self.given = b""
        self.signals: list[str] = []
        self.removed = 0
        self.lost = False
        """Whether the end of its streams is the engine's."""
        self.stdout, self.stderr = stream(), stream()

    def says(self, data: bytes) -> "Scripted":
        self.stdout.put(data)
        return self

    def ends(self, *, lost: bool = False) -> None:
        self.lost = lost
        self.stdout.end()
        self.stderr.end()

    async def write(self, data: bytes) -> None:
        self.given += data

    async def close_stdin(self) -> None: ...

    async def kill(self, signal: str = "SIGKILL") -> None:
        self.signals.append(signal)
        self.ends()

    async def wait(self) -> Exit:
        if self.lost:
            raise SandboxLost("the engine is gone")
        return Exit(137, oom_killed=False)

    async def remove(self) -> None:
        self.removed += 1
        self.ends()


class Supplied:
    """Implements `Supply`, with the runtime's sandboxes."""

    def __init__(self, runtime: "Engine", spec: SandboxSpec) -> None:
        self._runtime = runtime
        self._spec = spec
        self.closed = False
        self.rested = 0
        self.waited: list[float] = []
        """For how long its workers that are back have waited, seconds."""
        runtime.supplies.append(self)

    @property
    def memory_mib(self) -> int:
        return self._spec.limits.memory_mib

    def at_hand(self) -> None: ...

    async def make(self) -> Sandbox:
        return await self._runtime.launch(self._spec)

    async def rest(self) -> None:
        self.rested += 1

    def shed(self, seconds: float) -> None:
        self.waited = [waited for waited in self.waited if waited < seconds]

    async def close(self) -> None:
        self.closed = True


class Engine:
    """A runtime. Launches wait until a test lets them happen, unless `at_once`."""

    egress_refusal: str | None = None

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.well = True
        self.arms = True
        """Whether what is launched is armed at once."""
        self.asked = 0
        self.launched: list[Scripted] = []
        self.cancelled = 0
        self.supplies: list[Supplied] = []
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def launching(self) -> int:
        return sum(not one.done() for one in self._waiting)

    def lets(self, count: int = 1) -> None:
        for one in [one for one in self._waiting if not one.done()][:count]:
            one.set_result(None)

    async def launch(self, spec: SandboxSpec) -> Sandbox:
        if not self.at_once:
            self._waiting.append(asyncio.get_running_loop().create_future())
            try:
                await self._waiting[-1]
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if not self.well:
            raise SandboxLost("the engine does not answer")
        sandbox = Scripted(f"s{len(self.launched)}", spec)
        self.launched.append(sandbox)
        return sandbox.says(ARMED) if self.arms else sandbox

    async def healthy(self) -> bool:
        self.asked += 1
        return self.well

    def ends(self, *, lost: bool = False) -> None:
        for sandbox in self.launched:
            sandbox.ends(lost=lost)

    @property
    def left(self) -> list[str]:
        """What was launched and not removed."""
        return [sandbox.name for sandbox in self.launched if not sandbox.removed]


class Entries:
    """The catalog, as it was read."""

    def __init__(self, functions: dict[str, Function] | None = None) -> None:
        self._functions = {} if functions is None else functions
        self.revision = 0

    def put(self, function: Function) -> Function:
        self._functions[function.name] = function
        self.revision += 1
        return function

    def drop(self, name: str) -> None:
        del self._functions[name]
        self.revision += 1

    def get(self, name: str) -> Function | None:
        return self._functions.get(name)

    def all(self) -> list[Function]:
        return list(self._functions.values())


class World:
    """Pools of a dispatcher with two slots, and room for `room` sandboxes of 100 MiB."""

    def __init__(self, *, at_once: bool = True, room: int = 10, slots: int = 2, cores: int = 2) -> None:
        self.now = 1000.0
        self.engine = Engine(at_once=at_once)
        self.catalog = Entries()
        supplies: Any = dict.fromkeys(("container", "fork", "warm"), Supplied)
        self.pools = Pools(
            self.engine,  # type: ignore[arg-type]
            supplies,
            self.catalog,
            queue="default",
            most=slots,
            memory_mib=room * 100,
            clock=lambda: self.now,
            at_once=cores,
        )

    def function(self, name: str = "f", **fields: Any) -> Function:
        limits = Limits(memory_mib=fields.pop("memory", 100))
        fields = {"image": f"{name}:1", "version": "1", "limits": limits} | fields
        return self.catalog.put(Function(name=name, **fields))

    async def take(self, function: Function, task_id: str = "task") -> Sandbox:
        return await self.pools.take(function, SandboxSpec.of(function, task_id))

    async def use(self, function: Function) -> None:
        """A task, from its sandbox to its end."""
        sandbox = await self.take(function)
        await sandbox.write(b"task")
        await sandbox.remove()

    async def settle(self) -> None:
        """All that follows by itself, filling included."""
        for _ in range(5):
            for _ in range(20):
                await asyncio.sleep(0)
            self.pools.fill()

    async def passes(self, seconds: float) -> None:
        self.now += seconds
        await self.settle()


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not what():
            await asyncio.sleep(0)
