"""Sandboxes of every runtime, and functions that do in them what a test says."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import orjson
import pytest
from gateway_process import function, start_gateway

from dispatcher.invocation import Reply, Request, invoke
from dispatcher.runtimes.base import Runtime, Sandbox, SandboxSpec
from dispatcher.runtimes.docker import DockerRuntime
from mayfly.build import build
from mayfly.function import Function, Limits
from mayfly.settings import Settings

__all__ = ["function", "start_gateway"]
"""Fixtures that are written down elsewhere."""

TASK = "0193f5a0-0000-7000-8000-000000000001"
MIB = 1024 * 1024

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


@pytest.fixture(scope="session")
def engine_address(docker_engine: docker.DockerClient) -> str:
    return f"unix://{docker_engine.api._custom_adapter.socket_path}"


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


@dataclass(frozen=True)
class Sandboxes:
    """One runtime, and the two probes to run in its sandboxes."""

    runtime: Runtime
    python_probe: Function
    unix_probe: Function

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
        return replace(request, **changes)

    async def python(
        self, code: str, *, given: Any = None, spec: dict[str, Any] | None = None, **request: Any
    ) -> Reply:
        """Run the code as a Python function's handler; its `result` is the reply's."""
        payload = orjson.dumps({"code": code, "given": given})
        sandbox = await self.runtime.launch(self.spec(**(spec or {})))
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


@pytest.fixture
def runtime_settings(engine_address: str, tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", docker_host=engine_address, slots=4)


@pytest.fixture(params=["docker"])
async def runtime(request: pytest.FixtureRequest, runtime_settings: Settings) -> AsyncIterator[Runtime]:
    """Each runtime that there is: what a sandbox promises does not depend on it."""
    runtime = {"docker": DockerRuntime}[request.param](runtime_settings, "test")
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.close()
        shutil.rmtree(runtime_settings.state_dir, ignore_errors=True)


@pytest.fixture
def sandboxes(runtime: Runtime, python_probe: Function, unix_probe: Function) -> Sandboxes:
    return Sandboxes(runtime, python_probe, unix_probe)
