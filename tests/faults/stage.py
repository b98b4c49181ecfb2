"""The stack that the faults happen to: Kafka, Redis, S3, an engine, a gateway and two dispatchers, all real.

`mayfly.stack` starts again what dies, as it does for a user; the engine, if it is the test's own, is started
again here.
"""

import asyncio
import logging
import re
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import docker
import obstore
from redis import Redis
from redis.exceptions import RedisError

from mayfly.adapters.s3 import Blobs
from mayfly.settings import Settings
from mayfly.stack import running
from mayfly.stack.home import Home
from mayfly.stack.process import Identity, recorded
from tests.conftest import LiveStack, launch
from tests.engine import OwnEngine, copy_base_images, remove_images
from tests.faults import functions
from tests.faults.schedule import Fault, How, Target

log = logging.getLogger(__name__)

DISPATCHERS: Final = 2
ENGINE_PAUSE: Final = 1.0
"""Seconds for which a killed engine stays away."""
OBJECT: Final = re.compile(r"(?:results|logs)/([^/]+)/(\d+)-(\d+)")
Resume = Callable[[], None]


class Stage:
    """`own_engine` is for faults of the engine. Use it as a context: `stop` leaves nothing behind."""

    def __init__(self, *, own_engine: bool) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="mayfly-faults-"))
        self.engine = OwnEngine.somewhere() if own_engine else None
        self._engine_is_up = own_engine
        self._stopped: set[Identity] = set()
        self._stack: LiveStack | None = None

    def start(self) -> None:
        """Returns when everything is up, and the functions are deployed."""
        variables = {}
        if self.engine is not None:
            self.engine.start()
            copy_base_images(self.engine.address)
            variables["MAYFLY_DOCKER_HOST"] = self.engine.address
        functions.write(self.base / "functions")
        self._stack = launch(
            "up",
            self.base / "stack",
            self.base / "functions",
            "--dispatchers",
            str(DISPATCHERS),
            variables=variables,
        )
        self.stack.until_up()

    @property
    def stack(self) -> LiveStack:
        assert self._stack is not None
        return self._stack

    @property
    def url(self) -> str:
        return self.stack.url

    @property
    def settings(self) -> Settings:
        return self.stack.settings

    # --- faults

    async def hit(self, fault: Fault) -> Resume | None:
        """Do it, and return what undoes it; None if what it is meant for is not up.

        What is stopped, or has not come back yet, is left alone: on a slow machine nothing would ever be up.
        """
        if fault.how is How.FLUSH:
            return await asyncio.to_thread(self._flush)
        if fault.target is Target.DOCKER:
            return self._hit_engine(fault.how)
        name = fault.target.value
        if fault.target is Target.DISPATCHER:
            name = f"dispatcher-{fault.number % DISPATCHERS + 1}"
        process = self._ready(name)
        return self._hit(process, fault.how) if process else None

    def _ready(self, name: str) -> Identity | None:
        """The part's process, if it is alive and was ready once: the stack records what it waited for."""
        process = recorded(Home(self.stack.directory)).get(name)
        stack = running(self.stack.directory)
        if process is None or stack is None or not process.alive:
            return None
        return process if process.pid in (part.pid for part in stack.parts) else None

    def _hit_engine(self, how: How) -> Resume | None:
        assert self.engine is not None, "only an engine of its own is killed"
        process = self.engine.process
        if process is None or self.engine.died or not self._engine_is_up:
            return None
        identity = Identity.of(process.pid)
        return self._hit(identity, how) if identity else None

    def _hit(self, process: Identity, how: How) -> Resume | None:
        if process in self._stopped:
            return None
        if how is How.KILL:
            process.signal(signal.SIGKILL)
            return _nothing

        def go_on() -> None:
            process.signal(signal.SIGCONT)
            self._stopped.discard(process)

        self._stopped.add(process)
        process.signal(signal.SIGSTOP)
        return go_on

    def _flush(self) -> Resume | None:
        url = self.settings.redis.get_secret_value()
        try:
            with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as redis:
                redis.flushall()
        except (RedisError, OSError):
            return None
        return _nothing

    async def keep_engine(self) -> None:
        """Starts the engine again whenever it has died, until it is cancelled."""
        while self.engine is not None:
            await asyncio.sleep(0.2)
            if self.engine.died:
                self._engine_is_up = False
                await asyncio.sleep(ENGINE_PAUSE)
                await asyncio.to_thread(self.engine.start)
                self._engine_is_up = True

    # --- what there is in the end

    async def stored(self) -> list[tuple[str, int, int]]:
        """(task, attempt, fence) of every result and every log in S3."""
        store = Blobs(self.settings)._store
        found = []
        for prefix in ("results", "logs"):
            async for page in obstore.list(store, prefix):
                for item in page:
                    # A server that was killed over an upload leaves a part of it, under a name of its own.
                    if match := OBJECT.fullmatch(item["path"]):
                        found.append((match[1], int(match[2]), int(match[3])))
        return found

    def containers(self) -> list[str]:
        """Of this stack's dispatchers, those that the engine still has."""
        client = self._client()
        try:
            # By their labels: the engine may remove one while it is asked for more.
            listed: list[dict[str, Any]] = client.api.containers(all=True, filters={"label": "mayfly.lock"})
        finally:
            client.close()
        ours = str(self.stack.directory.resolve())
        return [one["Names"][0] for one in listed if ours in one["Labels"]["mayfly.lock"]]

    def _client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.stack.environment["MAYFLY_DOCKER_HOST"], timeout=120)

    # --- its end

    def stop_stack(self) -> None:
        self.stack.stop()

    def remove(self, *, keep: bool = False) -> None:
        """Whatever happened: nothing of it is left, but its logs if they are to be kept."""
        if self._stack is not None:
            self._stack.stop()
        if self.engine is None:
            client = docker.from_env(timeout=120)
            remove_images(client, functions.PREFIX)
            client.close()
        if self.engine is not None:
            self.engine.remove()
        if not keep:
            shutil.rmtree(self.base, ignore_errors=True)


def _nothing() -> None:
    """What is killed is started again by who supervises it."""
