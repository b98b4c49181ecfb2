"""The local stack: everything that Mayfly needs, found or started on this machine."""

import asyncio
import os
import shlex
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mayfly.errors import MayflyError, StackError
from mayfly.identity.keys import new_credential
from mayfly.identity.vault import new_key
from mayfly.settings import Settings
from mayfly.stack.deployer import Deployer
from mayfly.stack.egress import egress_address, remove_egress
from mayfly.stack.engine import Engine
from mayfly.stack.home import Home
from mayfly.stack.kafka import Kafka
from mayfly.stack.packages import install
from mayfly.stack.part import Part, PartState, Say
from mayfly.stack.process import sweep
from mayfly.stack.record import claim, clear, write_record
from mayfly.stack.redis import Redis
from mayfly.stack.s3 import S3
from mayfly.stack.services import Dispatcher, Gateway

if TYPE_CHECKING:
    from mayfly.stack.mail import MailSink

FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 10.0
STEADY: Final = 10.0
"""Seconds; a part that ran for longer is started again at once: what killed it is hardly how it starts."""
POLL: Final = 0.2
ADMIN_KEY: Final = "secrets/admin-key"
"""In the stack's directory."""


class Stack:
    """The parts of one directory, from `start` to `stop`.

    What the environment names is used, what runs already is used, the rest is started. `services=False`
    leaves the gateway, the dispatchers and the functions out; `mail` adds a mail server for the `email`
    example; `usual_ports=False` keeps clear of the ports that a user's own stack would want.
    """

    def __init__(
        self,
        directory: Path,
        *,
        functions: Path | None = None,
        dispatchers: int = 1,
        services: bool = True,
        mail: bool = False,
        usual_ports: bool = True,
        environ: Mapping[str, str] | None = None,
        say: Say | None = None,
    ) -> None:
        self.home = Home(directory)
        self.functions = functions
        self.say = say or partial(print, flush=True)
        self._environ = dict(os.environ if environ is None else environ)
        self._usual = usual_ports
        self._dispatchers = dispatchers if services else 0
        self._with_services = services
        self._with_mail = mail and services
        self._infrastructure: list[Part] = []
        self._services: list[Part] = []
        self._deployer: Deployer | None = None
        self._mail: MailSink | None = None
        self._egress = False
        self._lock: int | None = None

    # --- its life

    async def start(self) -> None:
        """Raises `StackError` if a part cannot be had; whatever was started is stopped again then."""
        began = time.monotonic()
        self.home.make()
        self._lock = self.home.hold()
        try:
            clear(self.home)
            claim(self.home)
            for name in await sweep(self.home):
                self.say(f"{name}: left by a run that was killed, stopped")
            self._plan()
            await install([program for part in self._infrastructure for program in part.programs()], self.say)
            await self._start(self._infrastructure)
            if self._with_services:
                await self._start_services()
            await self.record()
        except BaseException:
            await self.stop()
            raise
        self.say(f"ready in {time.monotonic() - began:.1f} s")

    async def stop(self) -> None:
        """Ends what was started: first who would miss the others, then the others."""
        if self._deployer is not None:
            await self._deployer.stop()
        gateways = [part for part in self._services if isinstance(part, Gateway)]
        dispatchers = [part for part in self._services if isinstance(part, Dispatcher)]
        await _stop(gateways)
        await _stop(dispatchers)
        if self._mail is not None:
            await self._mail.stop()
        if self._egress:
            await remove_egress(self._child_environment())
        await _stop(self._infrastructure)
        self._infrastructure, self._services = [], []
        self._deployer, self._mail, self._egress = None, None, False
        if self._lock is not None:
            clear(self.home)
            os.close(self._lock)
            self._lock = None

    def hurry(self) -> None:
        """Kills what is still to end: whoever says stop twice does not want to wait."""
        for part in self._all:
            if part.process is not None:
                part.process.kill()

    async def supervise(self) -> None:
        """Starts again what dies, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in self._all:
                group.create_task(self._keep(part))
            if self._deployer is not None:
                group.create_task(self._deployer.keep())

    # --- what it is made of

    async def parts(self) -> list[PartState]:
        settings = self.settings()
        states = (part.state(settings) for part in self._all)
        return list(await asyncio.gather(*states))

    def environment(self) -> dict[str, str]:
        """The settings by which services and tools find this stack, with those that it was given itself."""
        names = (f"MAYFLY_{name.upper()}" for name in Settings.model_fields)
        found = {name: self._environ[name] for name in names if self._environ.get(name)}
        found["MAYFLY_STATE_DIR"] = str(self.home.path)
        if self.functions is not None:
            found["MAYFLY_FUNCTIONS_DIR"] = str(self.functions.resolve())
        if self._makes_admin_key:
            found["MAYFLY_ADMIN_KEY"] = self.home.remembered(ADMIN_KEY, lambda: str(new_credential()))
        if not found.keys() & {"MAYFLY_KAFKA", "MAYFLY_SECRETS_KEY", "MAYFLY_SECRETS_KMS_KEY"}:
            # A Kafka of somebody else's has secrets under a key of theirs.
            found["MAYFLY_SECRETS_KEY"] = self.home.remembered("secrets/key-of-secrets", new_key)
        for part in self._infrastructure:
            found |= part.environment()
        for part in self._services:
            if isinstance(part, Gateway):
                found |= part.environment()
        return found

    def settings(self) -> Settings:
        return settings_of({**self._environ, **self.environment()})

    @property
    def _all(self) -> list[Part]:
        return [*self._infrastructure, *self._services]

    @property
    def gateway(self) -> str | None:
        return next((part.url for part in self._services if isinstance(part, Gateway)), None)

    @property
    def _makes_admin_key(self) -> bool:
        """Where everybody is asked who they are and no admin key is given, nobody could make a first key."""
        given = self._environ.get("MAYFLY_ADMIN_KEY")
        return self._with_services and not given and settings_of(self._environ).auth

    @property
    def admin_key(self) -> str | None:
        """What is good for everything at its gateway, where that asks who calls."""
        return self.environment().get("MAYFLY_ADMIN_KEY")

    async def record(self) -> None:
        """Tells the tools, which are other processes, what runs here."""
        lines = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment().items())]
        self.home.write("environment", "\n".join(lines) + "\n")
        write_record(self.home, await self.parts(), self.gateway)

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
                Dispatcher.plan(home, say, self._child_environment, number, usual=usual, grace=grace)
                for number in range(1, self._dispatchers + 1)
            ),
        ]

    async def _start_services(self) -> None:
        self._egress = True
        if self._makes_admin_key:
            self.say(f"gateway: it asks who calls; an admin key is in {self.home.path / ADMIN_KEY}")
        if self._with_mail:
            await self._start_mail()
        engine = self.environment()["MAYFLY_DOCKER_HOST"]
        starts = [self._start(self._services)]
        if self.functions is not None:
            self._deployer = Deployer(self.home, self.functions, self.settings(), engine, self.say)
            starts.append(self._deployer.start())
        await together(starts)

    async def _start_mail(self) -> None:
        if self._environ.get("MAYFLY_SECRET_SMTP_URL"):
            self.say("mail: MAYFLY_SECRET_SMTP_URL is set, no mail server is started")
            return
        # Its libraries take half a second to import.
        from mayfly.stack.mail import MailSink

        sink = MailSink(self.home, self.home.port("mail", 2525 if self._usual else None))
        self._mail = sink
        try:
            await sink.start(await egress_address(self._child_environment()))
        except StackError as error:
            # The one example that sends mail will fail, and say why; the others need none of it.
            self.say(f"mail: {error}")
            self._mail = None
            return
        self.say(f"mail: {sink.address}, for the email example; what arrives is in {self.home.path / 'mail'}")

    def _child_environment(self) -> dict[str, str]:
        mail = self._mail.environment() if self._mail else {}
        allowed = [self._environ.get("MAYFLY_EGRESS_ALLOW"), mail.get("MAYFLY_EGRESS_ALLOW")]
        mail["MAYFLY_EGRESS_ALLOW"] = ",".join(filter(None, allowed))
        return {**self._environ, **self.environment(), **mail}

    async def _start(self, parts: Sequence[Part]) -> None:
        settings = self.settings()
        await together(part.start(settings) for part in parts)

    async def _keep(self, part: Part) -> None:
        backoff = 0.0
        began = time.monotonic()
        while True:
            await asyncio.sleep(POLL)
            if not part.died:
                continue
            if time.monotonic() - began > STEADY:
                backoff = 0.0
            part.say(f"{part.died}, started again in {backoff:.1f} s; its log is {self.home.log(part.name)}")
            await asyncio.sleep(backoff)
            backoff = min(max(FIRST_BACKOFF, 2 * backoff), LONGEST_BACKOFF)
            began = time.monotonic()
            await self._start_again(part)

    async def _start_again(self, part: Part) -> None:
        """Whatever is in the way, such as a full disk, is said, and does not end the rest."""
        try:
            await part.start(self.settings())
        except (MayflyError, OSError) as error:
            part.say(str(error))
            if part.process is not None and not part.died:
                await part.process.end(part.grace)
        try:
            await self.record()
        except MayflyError as error:
            part.say(str(error))


def settings_of(environ: Mapping[str, str]) -> Settings:
    """The settings that a process with this environment would read."""
    found = {name: environ.get(f"MAYFLY_{name.upper()}") for name in Settings.model_fields}
    return Settings(**{name: value for name, value in found.items() if value})


async def _stop(parts: Iterable[Part]) -> None:
    await asyncio.gather(*(part.stop() for part in parts))


async def together(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs them at once; the first that fails cancels the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as errors:
        raise next((error for error in errors.exceptions if isinstance(error, MayflyError)), errors) from None
