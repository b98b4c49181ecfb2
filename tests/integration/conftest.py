"""Sandboxes of every runtime, and functions that do in them what a test says."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import docker
import msgspec
import orjson
import pytest
from gateway_process import function, start_gateway
from registry import registry

from dispatcher.invocation import Reply, Request, invoke
from dispatcher.pools.base import Supply
from dispatcher.pools.forks import Forks
from dispatcher.pools.single_use import SingleUse
from dispatcher.pools.turns import Turns
from dispatcher.runtimes.base import Runtime, Sandbox, SandboxSpec
from dispatcher.runtimes.cgroups import hierarchies
from dispatcher.runtimes.docker import DockerRuntime
from dispatcher.runtimes.oci import OciRuntime, traces_of
from dispatcher.runtimes.ownership import OwnerLock
from mayfly.build import build
from mayfly.function import Function, Limits
from mayfly.settings import Settings
from mayfly.stack.packages import CRUN
from tests.engine import OwnEngine, copy_base_images

__all__ = ["function", "registry", "start_gateway"]
"""Fixtures that are written down elsewhere."""

TASK = "0193f5a0-0000-7000-8000-000000000001"
MIB = 1024 * 1024
PATIENCE = 60.0

PYTHON_PROBE = """\
def handler(event, context):
    scope = {"context": context, "given": event.get("given")}
    exec(event["code"], scope)
    return scope.get("result")
"""
UNIX_PROBE = """\
FROM mayfly/base
ENTRYPOINT ["python3", "-I", "-c"]
"""


def address_of(engine: docker.DockerClient) -> str:
    return f"unix://{engine.api._custom_adapter.socket_path}"


@pytest.fixture(scope="session")
def engine_address(docker_engine: docker.DockerClient) -> str:
    return address_of(docker_engine)


@pytest.fixture(scope="session")
def python_probe(docker_engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Function:
    """A Python function that runs the code in its payload and returns its `result`."""
    folder = tmp_path_factory.mktemp("functions") / "probe"
    folder.mkdir()
    (folder / "handler.py").write_text(PYTHON_PROBE)
    return build(folder, docker_engine, on_progress=print)


@pytest.fixture(scope="session")
def unix_probe(
    docker_engine: docker.DockerClient, python_probe: Function, tmp_path_factory: pytest.TempPathFactory
) -> Function:
    """A function by the Unix contract whose command is the Python code that it runs."""
    folder = tmp_path_factory.mktemp("functions") / "unixprobe"
    folder.mkdir()
    (folder / "Dockerfile").write_text(UNIX_PROBE)
    return build(folder, docker_engine, on_progress=print)


@pytest.fixture(scope="session")
def crun_engine(
    docker_engine: docker.DockerClient, python_probe: Function, unix_probe: Function
) -> Iterator[docker.DockerClient]:
    """An engine of the session's own that has crun, and the probes."""
    if os.geteuid() != 0 or not CRUN.present:
        pytest.skip("only root can start an engine, and crun is to be there for it")
    engine = OwnEngine.somewhere()
    try:
        engine.start()
        client = docker.DockerClient(base_url=engine.address, timeout=120)
        copy_base_images(engine.address)
        for probe in (python_probe, unix_probe):
            client.api.load_image(docker_engine.api.get_image(probe.image))
        yield client
        client.close()
    finally:
        engine.remove()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Sandboxes:
    """One runtime and isolation, and the two probes to run in their sandboxes."""

    runtime: Runtime
    python_probe: Function
    unix_probe: Function
    isolation: str = "container"
    supplies: dict[SandboxSpec, Supply] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return "oci" if isinstance(self.runtime, OciRuntime) else "docker"

    def spec(self, **changes: Any) -> SandboxSpec:
        spec = SandboxSpec(image=self.python_probe.image, task_id=TASK, function="probe", limits=Limits())
        return replace(spec, **changes)

    def unix_spec(self, code: str, **changes: Any) -> SandboxSpec:
        return self.spec(**{"image": self.unix_probe.image, "command": (code,), **changes})

    def request(self, **changes: Any) -> Request:
        request = Request(
            task_id=TASK,
            task_type="probe",
            attempt=1,
            deadline_seconds=60,
            payload=b"{}",
            content_type="application/json",
            version="1",
            memory_mib=Limits().memory_mib,
            max_result=MIB,
            max_log=64 * 1024,
        )
        return msgspec.structs.replace(request, **changes)

    async def make(self, **changes: Any) -> Sandbox:
        """A sandbox of a Python function, of the isolation. Those of one spec come from one supply."""
        spec = self.spec(**changes)
        key = replace(spec, env=tuple(spec.env.items()))  # type: ignore[arg-type] - to be hashed
        if key not in self.supplies:
            kind = {"container": SingleUse, "fork": Forks, "warm": Turns}[self.isolation]
            self.supplies[key] = kind(self.runtime, spec)
        return await self.supplies[key].make()

    async def close(self) -> None:
        for supply in self.supplies.values():
            await supply.close()

    async def python(
        self, code: str, *, given: Any = None, spec: dict[str, Any] | None = None, **request: Any
    ) -> Reply:
        """Run the code as a Python function's handler; its `result` is the reply's."""
        payload = orjson.dumps({"code": code, "given": given})
        sandbox = await self.make(**(spec or {}))
        return await self.see(sandbox, "python", self.request(payload=payload, **request))

    async def unix(self, code: str, *, spec: dict[str, Any] | None = None, **request: Any) -> Reply:
        sandbox = await self.runtime.launch(self.unix_spec(code, **(spec or {})))
        return await self.see(sandbox, "unix", self.request(**request))

    async def see(self, sandbox: Sandbox, contract: str, request: Request) -> Reply:
        try:
            return await invoke(sandbox, contract, request)
        finally:
            await sandbox.remove()

    async def inside(self, code: str, **options: Any) -> Any:
        """What the code found inside: its `result`."""
        reply = await self.python(code, **options)
        assert reply.failure is None, (reply.failure, reply.log.decode())
        return orjson.loads(reply.result or b"null")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root file systems, which take a second each to unpack, for all tests."""
    return tmp_path_factory.mktemp("unpacked")


KINDS = ("docker", "docker-crun", "oci")
"""Of runtimes: under Docker, with each program that starts the containers."""


@pytest.fixture(params=["docker", "oci"])
def kind(request: pytest.FixtureRequest) -> str:
    """What depends on a container's start and its confinement is tried on all `KINDS`; this is what else a
    sandbox promises."""
    return str(request.param)


@pytest.fixture
def engine(request: pytest.FixtureRequest, docker_engine: docker.DockerClient) -> docker.DockerClient:
    """The one that a test's sandboxes are in."""
    if "kind" in request.fixturenames and request.getfixturevalue("kind") == "docker-crun":
        return request.getfixturevalue("crun_engine")
    return docker_engine


@pytest.fixture
def runtime_settings(
    request: pytest.FixtureRequest, engine: docker.DockerClient, tmp_path: Path, unpacked: Path
) -> Settings:
    kind = request.getfixturevalue("kind") if "kind" in request.fixturenames else None
    settings = Settings(
        state_dir=tmp_path / "state",
        docker_host=address_of(engine),
        docker_runtime={"docker": "runc", "docker-crun": "crun"}.get(kind or ""),
        slots=4,
    )
    settings.state_dir.mkdir()
    (settings.state_dir / "oci").symlink_to(unpacked)
    return settings


@pytest.fixture
async def docker_runtime(runtime_settings: Settings) -> AsyncIterator[DockerRuntime]:
    runtime = DockerRuntime(runtime_settings, "test")
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.close()
        shutil.rmtree(runtime_settings.state_dir, ignore_errors=True)


@pytest.fixture
async def runtime(kind: str, runtime_settings: Settings) -> AsyncIterator[Runtime]:
    """Each runtime that there is: what a sandbox promises does not depend on it."""
    if kind == "oci" and os.geteuid() != 0:
        pytest.skip("only root can start containers without an engine")
    runtime = (OciRuntime if kind == "oci" else DockerRuntime)(runtime_settings, "test")
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.close()
        shutil.rmtree(runtime_settings.state_dir, ignore_errors=True)


@pytest.fixture
def left(
    runtime: Runtime, runtime_settings: Settings, engine: docker.DockerClient
) -> Callable[..., list[str]]:
    """What there is of a dispatcher's sandboxes, by their names."""

    def under_docker(dispatcher: str, settings: Settings = runtime_settings) -> list[str]:
        label = f"mayfly.lock={OwnerLock(settings.state_dir, dispatcher).label}"
        found = engine.api.containers(all=True, filters={"label": label})
        return [container["Names"][0].strip("/") for container in found]

    def under_oci(dispatcher: str, settings: Settings = runtime_settings) -> list[str]:
        folder, group = traces_of(OwnerLock(settings.state_dir, dispatcher).label)
        places = [Path(folder.path, "bundles"), Path(folder.state)]
        places += [Path(root, group) for root in hierarchies().roots]
        names: set[str] = set()
        for place in places:
            names.update(path.name for path in place.glob("*") if path.is_dir())
        return sorted(names)

    return under_oci if isinstance(runtime, OciRuntime) else under_docker


@pytest.fixture
def isolation() -> str:
    """What the sandboxes of Python functions are; a module that is about more than one has its own."""
    return "container"


@pytest.fixture
async def sandboxes(
    runtime: Runtime, python_probe: Function, unix_probe: Function, isolation: str
) -> AsyncIterator[Sandboxes]:
    boxes = Sandboxes(runtime, python_probe, unix_probe, isolation)
    yield boxes
    await boxes.close()
