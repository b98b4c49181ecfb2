"""The runtime `docker`: a container per sandbox, through the Docker Engine API.

Per sandbox the engine is asked to create, attach, start and remove, and what a failed one's exit code was: on
the event loop, by `containers`. All else is the SDK's, which blocks and runs in threads of its own.
"""

import asyncio
import contextlib
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import docker
import requests
import structlog
from docker.errors import APIError, DockerException, ImageNotFound

from dispatcher.runtimes.attach import Attachment
from dispatcher.runtimes.base import Exit, SandboxSpec
from dispatcher.runtimes.containers import Containers, Gone, ImageMissing, refusal
from dispatcher.runtimes.egress import RECHECK_SECONDS, EgressNetwork
from dispatcher.runtimes.engine import (
    REQUEST_SECONDS,
    address,
    connect,
    lacking,
    leaves_cgroups_open,
    oci_runtime,
)
from dispatcher.runtimes.engine_http import EngineHttp
from dispatcher.runtimes.hardening import HOSTS, container_config
from dispatcher.runtimes.ownership import OwnerLock
from dispatcher.runtimes.streams import Readable
from mayfly.errors import ImageNotThere, RegistryUnavailable, SandboxesUnavailable, SandboxLost, StackError
from mayfly.registry import Registry
from mayfly.settings import Settings

T = TypeVar("T")

log = structlog.get_logger(__name__)

EXIT_SECONDS: Final = 10.0
"""A container whose streams have ended has exited. If the engine says nothing for so long, they were cut."""
REMOVAL_RETRY_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Pauses between tries; the last one is repeated until the engine is back."""
CLOSE_SECONDS: Final = 30.0
HEALTHY_SECONDS: Final = 5.0
TRIAL_SECONDS: Final = 30.0
TRIAL: Final = ("/sbin/docker-init", "--version")
"""The engine puts this program into each container: a first one needs no file besides."""
NOTHING: Final = bytes(10240)
"""A tar archive without a file."""


class DockerSandbox:
    """One container, used once."""

    def __init__(self, engine: "DockerRuntime", name: str, attachment: Attachment) -> None:
        self.name = name
        self._engine = engine
        self._attachment = attachment
        self._exit: Exit | None = None

    @property
    def stdout(self) -> Readable:
        return self._attachment.stdout

    @property
    def stderr(self) -> Readable:
        return self._attachment.stderr

    async def write(self, data: bytes) -> None:
        await self._attachment.write(data)

    async def close_stdin(self) -> None:
        self._attachment.write_eof()

    async def kill(self, signal: str = "SIGKILL") -> None:
        await self._engine.kill(self.name, signal)

    async def wait(self) -> Exit:
        if self._exit is None:
            await self._attachment.ended()
            if self._attachment.error is not None:
                raise SandboxLost(f"the connection to the container broke: {self._attachment.error}")
            self._exit = await self._engine.exit(self.name)
        return self._exit

    async def remove(self) -> None:
        self._attachment.close()
        self._engine.discard(self.name)


class DockerRuntime:
    """`dispatcher` is the id of the process that the sandboxes belong to."""

    def __init__(self, settings: Settings, dispatcher: str) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._lock = OwnerLock(settings.state_dir, dispatcher)
        self._max_removals = 2 * settings.slots
        # Launches at once that have to ask for a network or an image, and what is short besides.
        self._threads = ThreadPoolExecutor(settings.slots + 4, "docker")
        self._client: docker.APIClient | None = None
        self._asks: Containers | None = None
        self._egress = EgressNetwork(settings)
        self._with_egress: set[str] = set()
        """The containers on that network, by name."""
        self._rechecks: asyncio.Task[None] | None = None
        self._registry = Registry(settings.functions_repository) if settings.functions_repository else None
        self._fetching = threading.Lock()
        self._volumes: dict[str, tuple[str, ...]] = {}
        self._hosts: Path | None = None
        self._oci_runtime: str | None = None
        self._close_cgroups = False
        self._asked: asyncio.Future[Any] | None = None
        self._attachments: weakref.WeakSet[Attachment] = weakref.WeakSet()
        self._launches: set[asyncio.Task[None]] = set()
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    @property
    def egress_refusal(self) -> str | None:
        return self._egress.refusal

    async def start(self) -> None:
        try:
            self._client = await self._in_thread(lambda: connect(self._settings))
            http = EngineHttp(address(self._api), self._api.api_version, REQUEST_SECONDS)
            self._asks = Containers(http)
            info = await self._in_thread(self._api.info)
        except SandboxLost as error:
            raise StackError(f"no Docker engine answers: {error}", mend="mayfly doctor") from error
        lacks = lacking(info)
        if lacks:
            raise StackError(f"the Docker engine cannot confine a function: it lacks {', '.join(lacks)}")
        self._oci_runtime = oci_runtime(self._settings.docker_runtime, info)
        self._egress.check(self._api)
        self._lock.acquire()
        self._hosts = self._lock.beside("hosts", HOSTS)
        if self._oci_runtime is not None and not self._settings.docker_runtime:
            await self._try_oci_runtime()
        self._close_cgroups = leaves_cgroups_open(self._oci_runtime, info)

    async def _try_oci_runtime(self) -> None:
        """Do with the engine's default where the one that nobody asked for starts no container here."""
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                await self._start_trial()
        except (SandboxLost, TimeoutError) as error:
            log.warning(
                "sandboxes start with the engine's default runtime",
                instead_of=self._oci_runtime,
                reason=str(error) or "nothing happened",
            )
            self._oci_runtime = None

    async def _start_trial(self) -> None:
        """Run a container of nothing but its first process. Raises `SandboxLost`."""
        image = f"mayfly/trial:{uuid.uuid4().hex}"
        name, tag = image.split(":")
        await self._in_thread(partial(self._api.import_image_from_data, NOTHING, name, tag))
        try:
            sandbox = await self.launch(SandboxSpec(image, task_id="", function="trial", command=TRIAL))
            try:
                exit = await sandbox.wait()
            finally:
                await sandbox.remove()
            if exit.code != 0:
                raise SandboxLost(f"a first container ended with {exit.code}")
        finally:
            # Without a layer it is all but nothing: whether it stays is not what the trial is about.
            with contextlib.suppress(SandboxLost):
                await self._in_thread(partial(self._api.remove_image, image, force=True))

    async def healthy(self) -> bool:
        """Asks what needs the engine's locks: one that is stuck on them still answers a ping."""
        if self._client is None:
            return False
        # One question at a time: under a stuck engine each holds a thread until its request times out.
        if self._asked is None or self._asked.done():
            self._asked = asyncio.ensure_future(self._in_thread(self._api.info))
        try:
            async with asyncio.timeout(HEALTHY_SECONDS):
                await asyncio.shield(self._asked)
        except (SandboxLost, TimeoutError):
            return False
        return True

    # --- a sandbox's life

    async def launch(self, spec: SandboxSpec) -> DockerSandbox:
        await self._removals_to_pass()
        name = f"mayfly-{uuid.uuid4().hex}"
        made = asyncio.create_task(self._create(name, spec))
        try:
            # Who cancels a launch must not cut a request off: what the engine still makes has to be removed.
            attachment = await asyncio.shield(made)
        except asyncio.CancelledError:
            self._track_launch(asyncio.create_task(self._abandon(name, made)))
            raise
        except SandboxLost as error:
            self.discard(name)
            lost = SandboxesUnavailable if isinstance(error, SandboxesUnavailable) else SandboxLost
            raise lost(f"no sandbox for {spec.function}: {error}") from error
        self._attachments.add(attachment)
        return DockerSandbox(self, name, attachment)

    async def _create(self, name: str, spec: SandboxSpec) -> Attachment:
        """A started container's streams."""
        egress = None
        if spec.network == "egress":
            egress = await self._ensure_egress()
            self._with_egress.add(name)
            if self._rechecks is None:
                self._rechecks = asyncio.create_task(self._recheck_egress())
        try:
            await self._create_container(name, spec, egress)
        except ImageMissing as error:
            await self._in_thread(partial(self._fetch, spec.image, error))
            await self._create_container(name, spec, egress)
        attachment = await self._containers.attach(name)
        try:
            await self._containers.start(name)
        except BaseException:
            attachment.close()
            raise
        return attachment

    async def _ensure_egress(self) -> tuple[str, str]:
        return await self._in_thread(lambda: self._egress.ensure(self._api))

    async def _recheck_egress(self) -> None:
        """Tasks that are forked, or have a turn, go on in a container that was started long ago."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            if self._with_egress:
                try:
                    await self._ensure_egress()
                except SandboxLost as error:
                    log.warning("the rules for egress could not be set again", reason=str(error))

    def _fetch(self, image: str, missing: ImageMissing) -> None:
        """From the registry, if there is one: the image was built on another machine."""
        if self._registry is None:
            raise SandboxLost(f"the engine has no image {image}: deploy the function again") from missing
        # Of those who wait here for the same image, the first brings it.
        with self._fetching:
            try:
                self._api.inspect_image(image)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                self._pull(self._registry, image)

    def _pull(self, registry: Registry, image: str) -> None:
        try:
            registry.pull(self._api, image)
        except ImageNotThere as error:
            raise SandboxLost(f"neither the engine has {image}, nor the registry: {error}") from error
        except RegistryUnavailable as error:
            raise SandboxesUnavailable(str(error)) from error

    async def _create_container(self, name: str, spec: SandboxSpec, egress: tuple[str, str] | None) -> None:
        labels = {
            "mayfly.dispatcher": self._dispatcher,
            "mayfly.lock": self._lock.label,
            "mayfly.task": spec.task_id,
            "mayfly.function": spec.function,
            "mayfly.tenant": spec.tenant,
        }
        volumes = await self._volumes_of(spec.image)
        hosts = self._hosts
        config = container_config(
            spec,
            labels=labels,
            volumes=volumes,
            hosts=hosts,
            egress=egress,
            runtime=self._oci_runtime,
            close_cgroups=self._close_cgroups,
        )
        try:
            await self._containers.create(name, config)
        except SandboxLost as error:
            if hosts is None or "bind source path does not exist" not in str(error):
                raise
            # The engine sees other files than we do: its sandboxes cannot look `localhost` up.
            self._hosts = None
            await self._create_container(name, spec, egress)

    async def _volumes_of(self, image: str) -> tuple[str, ...]:
        # A tag holds the hash of what it was built from, so what was read once stays true.
        if image not in self._volumes:
            inspect = partial(self._api.inspect_image, image)
            config = (await self._in_thread(inspect))["Config"]
            self._volumes[image] = tuple(config.get("Volumes") or ())
        return self._volumes[image]

    async def _abandon(self, name: str, made: asyncio.Task[Attachment]) -> None:
        with contextlib.suppress(SandboxLost):
            (await made).close()
        self.discard(name)

    def _track_launch(self, task: asyncio.Task[None]) -> None:
        self._launches.add(task)
        task.add_done_callback(self._launches.discard)

    async def kill(self, name: str, signal: str) -> None:
        """Signal a container's main process; none there is no error."""
        with contextlib.suppress(Gone):
            await self._containers.kill(name, signal)

    async def exit(self, name: str) -> Exit:
        """How a container whose streams have ended exited."""
        try:
            async with asyncio.timeout(EXIT_SECONDS):
                return await self._containers.exit(name)
        except Gone as error:
            raise SandboxLost("the container was removed from outside") from error
        except TimeoutError as error:
            raise SandboxLost("the connection to the container was cut") from error

    # --- removal, off a task's path

    def discard(self, name: str) -> None:
        """Remove a container in the background, for as long as it takes; `close` waits for it."""
        self._with_egress.discard(name)
        if name not in self._removals and not self._closing:
            task = asyncio.create_task(self._remove(name))
            self._removals[name] = task
            task.add_done_callback(lambda _: self._removals.pop(name, None))

    async def _remove(self, name: str) -> None:
        tries = 0
        while True:
            try:
                await self._containers.remove(name)
            except SandboxLost:
                await asyncio.sleep(REMOVAL_RETRY_SECONDS[min(tries, len(REMOVAL_RETRY_SECONDS) - 1)])
                tries += 1
            else:
                return

    async def _remove_all(self, names: Iterable[str]) -> None:
        for name in names:
            await self._containers.remove(name)

    async def _removals_to_pass(self) -> None:
        """Launching must not outrun removing, or the engine fills with what is done for."""
        while len(self._removals) >= self._max_removals:
            done, _ = await asyncio.wait(
                self._removals.values(), timeout=REQUEST_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise SandboxesUnavailable("the engine removes no containers")

    async def remove_orphans(self) -> int:
        containers = await self._in_thread(lambda: self._list("mayfly.lock"))
        orphans = [c["Id"] for c in containers if self._lock.is_dead(c["Labels"]["mayfly.lock"])]
        await self._remove_all(orphans)
        self._lock.forget_dead()
        return len(orphans)

    def _list(self, label: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self._api.containers(all=True, filters={"label": label})
        return listed

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            # Under a dead engine there is nothing to wait for: a successor removes what is left.
            async with asyncio.timeout(CLOSE_SECONDS if await self.healthy() else 0):
                await asyncio.gather(*self._launches, return_exceptions=True)
                await asyncio.gather(*self._removals.values(), return_exceptions=True)
        self._closing = True
        for task in [*self._launches, *self._removals.values()]:
            task.cancel()
        if self._rechecks is not None:
            self._rechecks.cancel()
        for attachment in self._attachments:
            attachment.close()
        if self._client is not None:
            # Whatever has our label and was not removed, such as what a request that timed out has made.
            with contextlib.suppress(SandboxLost):
                left = await self._in_thread(lambda: self._list(f"mayfly.lock={self._lock.label}"))
                await self._remove_all(container["Id"] for container in left)
            self._client.close()
            self._client = None
        if self._asks is not None:
            self._asks.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._lock.release()

    # --- the engine

    @property
    def _api(self) -> docker.APIClient:
        assert self._client is not None, "the runtime was not started"
        return self._client

    @property
    def _containers(self) -> Containers:
        assert self._asks is not None, "the runtime was not started"
        return self._asks

    async def _in_thread(self, request: Callable[[], T]) -> T:
        """Run a request off the event loop. Raises `SandboxLost` with the reason, whatever went wrong."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, request)
        except APIError as error:
            raise refusal(error.status_code or 0, _reason(error)) from error
        except (DockerException, requests.RequestException, OSError) as error:
            raise SandboxLost(_reason(error)) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error)
