"""Containers that are started before their task comes, on a real engine."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import docker
import msgspec
import orjson
import pytest
from conftest import Sandboxes

from dispatcher.invocation import Reply, invoke
from dispatcher.pools.pool import How
from dispatcher.pools.pools import Pools
from dispatcher.pools.single_use import SingleUse
from dispatcher.runtimes.base import Exit, SandboxSpec
from dispatcher.runtimes.docker import DockerRuntime
from mayfly.function import Function
from mayfly.settings import Settings

PATIENCE = 60.0


class Catalog:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.revision = 0

    def get(self, name: str) -> Function | None:
        return self.function if name == self.function.name else None

    def all(self) -> list[Function]:
        return [self.function]


class Filled:
    """Pools with one function, which keeps one ready."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self.sandboxes = sandboxes
        self.catalog = Catalog(msgspec.structs.replace(sandboxes.python_probe, warm_pool=1))
        self.pools = Pools(
            sandboxes.runtime,
            {"container": SingleUse},
            self.catalog,
            queue="default",
            most=2,
            memory_mib=1024,
            clock=time.monotonic,
        )

    @property
    def function(self) -> Function:
        return self.catalog.function

    async def until_armed(self) -> None:
        await until(lambda: self.pools.armed.get(self.function.name) == 1)

    async def run(self, code: str) -> Reply:
        sandbox = await self.pools.take(self.function, SandboxSpec.of(self.function))
        request = self.sandboxes.request(payload=orjson.dumps({"code": code}), max_log=1_000_000)
        try:
            return await invoke(sandbox, "python", request)
        finally:
            await sandbox.remove()


@pytest.fixture
def runtime(docker_runtime: DockerRuntime) -> DockerRuntime:
    """An engine can be asked for its containers, and to kill one. Pools are the same on any runtime."""
    return docker_runtime


@pytest.fixture(name="filled")
async def _filled(sandboxes: Sandboxes) -> AsyncIterator[Filled]:
    async with _running(sandboxes) as filled:
        yield filled


@asynccontextmanager
async def _running(sandboxes: Sandboxes) -> AsyncIterator[Filled]:
    filled = Filled(sandboxes)
    running = asyncio.create_task(filled.pools.run())
    try:
        yield filled
    finally:
        running.cancel()
        await filled.pools.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(name="ours")
def _ours(docker_engine: docker.DockerClient, runtime_settings: Settings) -> Callable[[], set[str]]:
    """The names of this test's containers. Others may use the engine too."""

    def find() -> set[str]:
        found = docker_engine.api.containers(all=True, filters={"label": "mayfly.lock"})
        lock = str(runtime_settings.state_dir)
        return {one["Names"][0].strip("/") for one in found if lock in one["Labels"]["mayfly.lock"]}

    return find


async def test_a_task_finds_its_container_armed_and_has_all_of_its_log(filled: Filled) -> None:
    await filled.until_armed()
    reply = await filled.run("""
import os, sys
for number in range(2000):
    print(f"line {number}")
os.write(2, b"last")
result = sorted(name for name in os.environ if name.startswith("MAYFLY"))
""")
    assert filled.pools.taken == {(filled.function.name, How.ARMED): 1}
    assert reply.failure is None
    assert reply.result == b"[]"
    assert reply.log.decode() == "".join(f"line {number}\n" for number in range(2000)) + "last"


async def test_what_a_task_took_is_replaced_and_never_used_again(
    filled: Filled, ours: Callable[[], set[str]]
) -> None:
    code = "import os\nresult = os.path.exists('/tmp/left')\nopen('/tmp/left', 'w').close()"
    names = set()
    for _ in range(2):
        await filled.until_armed()
        names |= ours()
        assert (await filled.run(code)).result == b"false"
    await filled.until_armed()
    assert len(names | ours()) == 3
    await until(lambda: len(ours()) == 1)


async def test_how_a_task_ends_its_process_is_told_as_ever(filled: Filled) -> None:
    await filled.until_armed()
    reply = await filled.run("import os\nos.write(2, b'about to go')\nos._exit(3)")
    assert reply.failure is not None
    assert reply.failure.exit_code == 3
    assert reply.log == b"about to go"


async def test_a_container_that_is_killed_while_it_waits_costs_no_task(
    filled: Filled, ours: Callable[[], set[str]], docker_engine: docker.DockerClient
) -> None:
    await filled.until_armed()
    (victim,) = ours()
    docker_engine.api.kill(victim)
    await until(lambda: filled.pools.armed.get(filled.function.name) == 0)
    assert (await filled.run("result = 1")).result == b"1"


async def test_another_version_takes_the_place_of_what_waits(
    filled: Filled, ours: Callable[[], set[str]]
) -> None:
    await filled.until_armed()
    (old,) = ours()
    filled.catalog.function = msgspec.structs.replace(filled.function, env={"GREETING": "hello"})
    filled.catalog.revision += 1
    await until(lambda: old not in ours() and bool(ours()))
    await filled.until_armed()
    assert (await filled.run("import os\nresult = os.environ['GREETING']")).result == b'"hello"'
    assert filled.pools.taken == {(filled.function.name, How.ARMED): 1}


async def test_closed_pools_leave_no_container(sandboxes: Sandboxes, ours: Callable[[], set[str]]) -> None:
    async with _running(sandboxes) as filled:
        await filled.until_armed()
    await until(lambda: not ours())


async def test_a_container_whose_task_is_over_ends_by_itself(sandboxes: Sandboxes) -> None:
    once = await SingleUse(sandboxes.runtime, sandboxes.spec()).make()
    reply = await invoke(once, "python", sandboxes.request(payload=b'{"code": "result = 1"}'))
    assert (reply.failure, reply.result) == (None, b"1")
    await once.close_stdin()
    async with asyncio.timeout(PATIENCE):
        assert await once.wait() == Exit(0, oom_killed=False)
    await once.remove()
