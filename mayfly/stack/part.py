"""A part of the stack: a server that is somebody else's, or a process of ours."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mayfly.errors import MayflyError, StackError
from mayfly.settings import Settings
from mayfly.stack.home import Home
from mayfly.stack.packages import Program
from mayfly.stack.process import Process

Say = Callable[[str], None]

PATIENCE: Final = 120.0
"""Seconds that a part of ours may take until it answers: a slow machine is no reason to give up."""
OTHERS_PATIENCE: Final = 5.0
"""The same for a server that is said to be up already."""
PROGRESS: Final = 10.0
"""Seconds between two lines about a part that is not ready yet."""


@dataclass(frozen=True)
class PartState:
    """What is known of a part. `started_by` is `mayfly`, or the variable that names somebody else's."""

    name: str
    address: str
    pid: int | None
    health: str
    """`ready`, or why it is not."""
    started_by: str
    data: str | None = None
    log: str | None = None

    @property
    def ready(self) -> bool:
        return self.health == "ready"


class Part(ABC):
    """One server of the stack, from its start to its end. `start` raises `StackError`."""

    name: str
    variable: str = ""
    """The setting that names a server to use instead of one of ours."""
    grace: float = 10.0
    """Seconds that it may take to end before it is killed."""

    def __init__(self, home: Home, say: Say, given: str | None = None) -> None:
        self.home = home
        self.given = given
        self.process: Process | None = None
        self._say = say

    @property
    def started_by(self) -> str:
        return self.variable if self.given else "mayfly"

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, without its secrets."""

    @property
    def data(self) -> str | None:
        """Where its data is, if it is ours and has any."""
        return None

    def programs(self) -> list[Program]:
        """What must be installed for `start`."""
        return []

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The settings by which the services find it."""

    @abstractmethod
    async def probe(self, settings: Settings) -> None:
        """Raises a `MayflyError` unless it answers in its own protocol."""

    async def prepare(self) -> None:  # noqa: B027 - not every part has something to prepare
        """Write its configuration, format its storage."""

    @abstractmethod
    def command(self) -> list[str]: ...

    def child_environment(self) -> Mapping[str, str] | None:
        """The process's environment; None is ours."""
        return None

    async def start(self, settings: Settings) -> None:
        began = time.monotonic()
        if self.given:
            await self._until_ready(settings, OTHERS_PATIENCE)
            self.say(f"{self.address}, because {self.variable} is set")
            return
        await self.prepare()
        self.spawn()
        await self._until_ready(settings, PATIENCE)
        where = f", data in {self.data}" if self.data else ""
        self.say(f"{self.address}, started in {time.monotonic() - began:.1f} s{self.reason()}{where}")

    def reason(self) -> str:
        return f" because {self.variable} is not set" if self.variable else ""

    def spawn(self) -> None:
        self.process = Process(self.home, self.name, self.command(), self.child_environment())

    async def stop(self) -> None:
        if self.process is not None:
            await self.process.end(self.grace)
            self.process = None

    @property
    def died(self) -> str | None:
        """Why our process is not there any more, or None if it is, or was never ours."""
        if self.process is None or self.process.exit_code is None:
            return None
        code = self.process.exit_code
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    async def health(self, settings: Settings) -> str:
        if self.died:
            return self.died
        try:
            await asyncio.wait_for(self.probe(settings), OTHERS_PATIENCE)
        except TimeoutError:
            return f"no answer within {OTHERS_PATIENCE:.0f} s"
        except MayflyError as error:
            return str(error)
        return "ready"

    async def state(self, settings: Settings) -> PartState:
        return PartState(
            name=self.name,
            address=self.address,
            pid=self.process.pid if self.process else None,
            health=await self.health(settings),
            started_by=self.started_by,
            data=self.data,
            log=str(self.process.log) if self.process else None,
        )

    def say(self, line: str) -> None:
        self._say(f"{self.name}: {line}")

    async def _until_ready(self, settings: Settings, patience: float) -> None:
        began = shown = time.monotonic()
        while True:
            health = await self.health(settings)
            if self.process is not None and self.died:
                raise StackError(f"{self.name} {self.died}:\n{self.process.last_words()}")
            if health == "ready":
                return
            now = time.monotonic()
            if now - began > patience:
                raise StackError(f"{self.name} at {self.address} is not ready: {health}", mend=self.mend())
            if now - shown > PROGRESS:
                self.say(f"still starting after {now - began:.0f} s ({health})")
                shown = now
            await asyncio.sleep(0.05)

    def mend(self) -> str | None:
        return f"unset {self.variable} to have one started" if self.given else None


async def listens(host: str, port: int) -> None:
    """Raises `StackError` unless somebody does: cheaper than a client that is refused, and quieter."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        raise StackError(f"nothing listens on {host}:{port}") from error
    writer.close()
