"""The local stack: everything that Mayfly needs, found or started on this machine."""

import asyncio
import os
import shlex
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mayfly.errors import MayflyError, StackError
from mayfly.settings import Settings
from mayfly.stack.engine import Engine
from mayfly.stack.home import Home
from mayfly.stack.kafka import Kafka
from mayfly.stack.packages import install
from mayfly.stack.part import Part, PartState
from mayfly.stack.process import sweep
from mayfly.stack.record import write_record
from mayfly.stack.redis import Redis
from mayfly.stack.s3 import S3
from mayfly.stack.services import Dispatcher, Gateway

FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 30.0
STEADY: Final = 60.0
"""Seconds after which a part that died counts as steady, and is started again at once when it dies again."""
POLL: Final = 0.2


class Stack:
    """The parts of one directory, from `start` to `stop`.

    What the environment names is used, what runs already is used, the rest is started. `services=False`
    leaves the gateway, the dispatchers and the functions out; `usual_ports=False` keeps clear of the ports
    that a user's own stack would want.
    """

    def __init__(
        self,
        directory: Path,
        *,
        functions: Path | None = None,
        dispatchers: int = 1,
        services: bool = True,
        usual_ports: bool = True,
        environ: Mapping[str, str] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.home = Home(directory)
        self.functions = functions
        self.say = say
        self._environ = dict(os.environ if environ is None else environ)
        self._usual = usual_ports
        self._dispatchers = dispatchers if services else 0
        self._with_services = services
        self._infrastructure: list[Part] = []
        self._services: list[Part] = []
        self._lock: int | None = None
        self._hurry = False

    # --- its life

    async def start(self) -> None:
        """Raises `StackError` if a part cannot be had; whatever was started is stopped again then."""
        began = time.monotonic()
        self.home.make()
        self._lock = self.home.hold()
        try:
            for name in await sweep(self.home):
                self.say(f"{name}: left by a run that was killed, stopped")
            self._plan()
            await install([program for part in self._infrastructure for program in part.programs()], self.say)
            await self._start(self._infrastructure)
            await self._start(self._services)
            await self.record()
        except BaseException:
            await self.stop()
            raise
        self.say(f"ready in {time.monotonic() - began:.1f} s")

    async def stop(self) -> None:
        """Ends what was started: first who would miss the others, then the others."""
        gateways = [part for part in self._services if isinstance(part, Gateway)]
        rest = [part for part in self._services if not isinstance(part, Gateway)]
        for parts in (gateways, rest, self._infrastructure):
            await asyncio.gather(*(part.stop(hurry=self._hurry) for part in parts))
        self._services, self._infrastructure = [], []
        if self._lock is not None:
            write_record(self.home, None)
            os.close(self._lock)
            self._lock = None

    def hurry(self) -> None:
        """Whoever is told to stop twice does not want to wait."""
        self._hurry = True

    async def supervise(self) -> None:
        """Starts again what dies, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in [*self._infrastructure, *self._services]:
                if part.process is not None:
                    group.create_task(self._keep(part))

    # --- what it is made of

    async def parts(self) -> list[PartState]:
        settings = self.settings()
        states = (part.state(settings) for part in [*self._infrastructure, *self._services])
        return list(await asyncio.gather(*states))

    def environment(self) -> dict[str, str]:
        """The settings by which services and tools find this stack."""
        found = {"MAYFLY_STATE_DIR": str(self.home.path)}
        if self.functions is not None:
            found["MAYFLY_FUNCTIONS_DIR"] = str(self.functions.resolve())
        for part in self._infrastructure:
            found |= part.environment()
        for part in self._services:
            if isinstance(part, Gateway):
                found |= part.environment()
        return found

    def settings(self) -> Settings:
        return settings_of({**self._environ, **self.environment()})

    @property
    def gateway(self) -> str | None:
        return next((part.address for part in self._services if isinstance(part, Gateway)), None)

    def part(self, name: str) -> Part:
        return next(part for part in [*self._infrastructure, *self._services] if part.name == name)

    async def record(self) -> None:
        """Tells the tools, which are other processes, what runs here."""
        lines = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment().items())]
        self.home.write("environment", "\n".join(lines) + "\n")
        write_record(self.home, await self.parts(), gateway=self.gateway)

    def _plan(self) -> None:
        home, say, environ, usual = self.home, self.say, self._environ, self._usual
        self._infrastructure = [
            Kafka(home, say, environ.get("MAYFLY_KAFKA"), usual=usual),
            Redis(home, say, environ.get("MAYFLY_REDIS"), usual=usual),
            S3(home, say, environ.get("MAYFLY_S3_ENDPOINT"), usual=usual),
        ]
        if not self._with_services:
            return
        self._infrastructure.append(Engine(home, say, environ))
        grace = settings_of(environ).grace_seconds
        self._services = [
            Gateway.plan(home, say, self._child_environment, environ, usual=usual),
            *(
                Dispatcher(home, say, self._child_environment, number, usual=usual, grace=grace)
                for number in range(1, self._dispatchers + 1)
            ),
        ]

    def _child_environment(self) -> dict[str, str]:
        return {**self._environ, **self.environment()}

    async def _start(self, parts: Sequence[Part]) -> None:
        settings = self.settings()
        await together(part.start(settings) for part in parts)

    async def _keep(self, part: Part) -> None:
        backoff = FIRST_BACKOFF
        began = time.monotonic()
        while True:
            await asyncio.sleep(POLL)
            if not part.died:
                continue
            if time.monotonic() - began > STEADY:
                backoff = FIRST_BACKOFF
            began = time.monotonic()
            part.say(f"{part.died}, started again in {backoff:.1f} s; its log is {self.home.log(part.name)}")
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)
            await self._start_again(part)

    async def _start_again(self, part: Part) -> None:
        try:
            await part.start(self.settings())
        except MayflyError as error:
            part.say(str(error))
            if part.process is not None and not part.died:
                await part.process.end(part.grace)
        await self.record()


def settings_of(environ: Mapping[str, str]) -> Settings:
    """The settings that a process with this environment would read."""
    values = {name.removeprefix("MAYFLY_").lower(): value for name, value in environ.items() if value}
    known = {name: value for name, value in values.items() if name in Settings.model_fields}
    return Settings(**{name: value for name, value in known.items() if f"MAYFLY_{name.upper()}" in environ})


async def together(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs them at once; the first that fails cancels the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as errors:
        raise next((error for error in errors.exceptions if isinstance(error, MayflyError)), errors) from None


__all__ = ["Stack", "StackError", "settings_of"]
