"""Forks of one container: what siblings share, and what becomes of them when it goes, or their parent."""

import asyncio
from dataclasses import replace
from pathlib import Path

import docker
import orjson
import pytest
from conftest import Sandboxes
from test_sandbox_siblings import running

from dispatcher.invocation import invoke
from dispatcher.pools.forks import Forks
from dispatcher.runtimes.base import Sandbox, SandboxSpec, Use
from dispatcher.runtimes.docker import DockerRuntime
from mayfly.build import build
from mayfly.errors import IsolationRefused, SandboxLost
from mayfly.function import Limits
from mayfly.task import FailureType

PATIENCE = 60.0
MIB = 1024 * 1024


@pytest.fixture
def isolation() -> str:
    return "fork"


@pytest.fixture
def runtime(docker_runtime: DockerRuntime) -> DockerRuntime:
    """An engine can be asked for the containers, and to do something to them. What a fork promises on any
    runtime is in the tests of confinement and misbehaviour."""
    return docker_runtime


def containers(client: docker.DockerClient, sandboxes: Sandboxes) -> list[str]:
    """Those of this test: another session may have some of a function of the same name."""
    lock = sandboxes.runtime._lock.label
    return [c["Id"] for c in client.api.containers(filters={"label": f"mayfly.lock={lock}"})]


def function(
    docker_engine: docker.DockerClient, tmp_path: Path, handler: str, returns: str = "os.getpid()"
) -> SandboxSpec:
    """A function whose import does this only where it runs: `build` takes none that fails to import."""
    folder = tmp_path / "importer"
    folder.mkdir()
    (folder / "handler.py").write_text(
        "import os\nif 'TROUBLE' in os.environ:\n    exec('''" + handler + "''')\n"
        "def handler(event, context): return " + returns + "\n"
    )
    return SandboxSpec(
        image=build(folder, docker_engine, on_progress=print).image,
        task_id="",
        function="importer",
        env={"TROUBLE": "1"},
    )


async def see(sandboxes, supply: Forks, code: str = "result = 1", **request):
    payload = orjson.dumps({"code": code})
    return await sandboxes.see(await supply.make(), "python", sandboxes.request(payload=payload, **request))


async def test_a_sandbox_whose_container_is_removed_is_lost_and_the_next_has_another(
    sandboxes, docker_engine
):
    async with running(sandboxes, "") as one:
        for container in containers(docker_engine, sandboxes):
            await asyncio.to_thread(docker_engine.api.remove_container, container, force=True)
        with pytest.raises(SandboxLost):
            await asyncio.wait_for(one.replying, PATIENCE)
    assert await sandboxes.inside("result = 1") == 1


async def test_a_parent_that_is_killed_loses_its_children(sandboxes, docker_engine):
    async with running(sandboxes, "") as one, running(sandboxes, "") as two:
        (container,) = containers(docker_engine, sandboxes)
        await asyncio.to_thread(docker_engine.api.kill, container, "SIGKILL")
        for task in (one, two):
            with pytest.raises(SandboxLost, match="its parent"):
                await asyncio.wait_for(task.replying, PATIENCE)
    assert await sandboxes.inside("result = 1") == 1


async def test_a_child_that_crashes_or_is_killed_hurts_no_sibling(sandboxes, docker_engine):
    async with running(sandboxes, "") as one:
        for code in (
            "import os; os._exit(3)",
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "import os, signal; os.kill(0, signal.SIGKILL)",
            "import ctypes; ctypes.string_at(0)",
        ):
            reply = await sandboxes.python(code)
            assert reply.failure.type is FailureType.EXIT_CODE
        assert not one.replying.done()
        assert len(containers(docker_engine, sandboxes)) == 1


async def test_a_child_that_reads_nothing_and_one_that_nobody_reads_hold_up_no_sibling(sandboxes):
    deaf = await sandboxes.make()
    writing = asyncio.create_task(deaf.write(b"T\0\0\0\0" + bytes(8 * MIB)))
    loud = await sandboxes.make()
    code = "import os\nwhile True: os.write(2, bytes(65536))"
    task = {
        "taskId": "",
        "taskType": "",
        "attempt": 1,
        "deadline": 0,
        "contentType": "application/json",
        "version": "",
        "memoryMiB": 1,
        "env": {},
    }
    for kind, body in ((b"T", orjson.dumps(task)), (b"P", orjson.dumps({"code": code}))):
        await loud.write(kind + len(body).to_bytes(4, "big") + body)
    for _ in range(20):
        assert await sandboxes.inside("result = 1") == 1
    await deaf.remove()
    await loud.remove()
    await asyncio.wait_for(writing, PATIENCE)


async def test_a_child_has_no_descriptor_of_its_parent(sandboxes):
    assert (
        await sandboxes.inside("""
import os
result = []
for name in os.listdir("/proc/self/fd"):
    try:
        target = os.readlink("/proc/self/fd/" + name)
    except OSError:
        continue  # the listing's own
    if not target.startswith(("/dev/null", "pipe:")):
        result.append([name, target])
""")
        == []
    )


async def test_processes_that_outlive_the_handler_are_killed_with_its_namespace(sandboxes, docker_engine):
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for descriptor in range(3, 1000):
            try: os.close(descriptor)
            except OSError: pass
        time.sleep(600)
    os._exit(0)
result = 1
"""
    sandbox = await sandboxes.make()
    reply = await invoke(sandbox, "python", sandboxes.request(payload=orjson.dumps({"code": code})))
    assert reply.result == b"1"
    await asyncio.wait_for(sandbox.wait(), PATIENCE)
    (container,) = containers(docker_engine, sandboxes)
    listed = docker_engine.api.top(container)["Processes"]
    assert len(listed) == 4  # init, the relay, the parent and who waits for it


async def test_more_tasks_than_a_container_may_have_get_another(sandboxes, docker_engine):
    supply = Forks(sandboxes.runtime, sandboxes.spec(), at_once=2)
    made = [await supply.make() for _ in range(3)]
    assert len(containers(docker_engine, sandboxes)) == 2
    await made[2].remove()
    await made[2].remove()
    await asyncio.gather(*(one.remove() for one in made))
    await supply.close()


async def test_a_parent_with_its_share_of_children_is_replaced_while_those_that_run_run_on(
    sandboxes, docker_engine
):
    supply = Forks(sandboxes.runtime, sandboxes.spec(), max_forks=1)
    first = await supply.make()
    (old,) = containers(docker_engine, sandboxes)
    async with asyncio.timeout(PATIENCE):
        while containers(docker_engine, sandboxes) == [old]:
            await (await supply.make()).remove()
            await asyncio.sleep(0.01)
    request = sandboxes.request(payload=b'{"code": "result = 1"}')
    assert (await invoke(first, "python", request)).result == b"1"
    await first.remove()
    async with asyncio.timeout(PATIENCE):
        while old in containers(docker_engine, sandboxes):
            await asyncio.sleep(0.01)
    await supply.close()


async def test_an_idle_functions_container_is_given_back(sandboxes, docker_engine):
    supply = Forks(sandboxes.runtime, sandboxes.spec())
    busy = await supply.make()
    await supply.rest()
    assert len(containers(docker_engine, sandboxes)) == 1
    assert (await sandboxes.see(busy, "python", sandboxes.request(payload=b'{"code": ""}'))).failure is None
    await asyncio.wait_for(busy.wait(), PATIENCE)
    await supply.rest()
    async with asyncio.timeout(PATIENCE):
        while containers(docker_engine, sandboxes):
            await asyncio.sleep(0.01)
    await supply.close()


# --- the import


@pytest.mark.parametrize(
    ("handler", "type", "message"),
    [
        ('raise LookupError("no model")', FailureType.ERROR, "no model"),
        ("import sys; sys.exit(5)", FailureType.EXIT_CODE,
         "the process exited with code 5 before the handler was imported"),
        ("print(\"boom\", flush=True); os._exit(6)", FailureType.EXIT_CODE,
         "the process exited with code 6 before the handler was imported"),
    ],
)  # fmt: skip
async def test_an_import_that_fails_is_each_tasks_failure(
    sandboxes, docker_engine, tmp_path, handler, type, message
):
    supply = Forks(sandboxes.runtime, function(docker_engine, tmp_path, handler))
    for _ in range(2):
        reply = await see(sandboxes, supply)
        assert (reply.failure.type, reply.failure.message) == (type, message)
        if "boom" in handler:
            assert reply.log == b"boom\n"
    await supply.close()


async def test_what_an_import_replaces_is_not_what_the_parent_forks_with(sandboxes, docker_engine, tmp_path):
    handler = "os.fork = os.kill = os.waitpid = os.wait4 = None"
    supply = Forks(sandboxes.runtime, function(docker_engine, tmp_path, handler))
    for _ in range(2):
        assert (await see(sandboxes, supply)).result == b"2"
    await supply.close()


@pytest.mark.parametrize("on_child", ["signal.SIG_IGN", "lambda *_: os.waitpid(-1, os.WNOHANG)"])
async def test_an_import_that_would_take_the_ends_of_children_gets_those_of_its_own_only(
    sandboxes, docker_engine, tmp_path, on_child
):
    handler = f"import signal; signal.signal(signal.SIGCHLD, {on_child})"
    kept = "signal.getsignal(signal.SIGCHLD) != signal.SIG_DFL"
    supply = Forks(sandboxes.runtime, function(docker_engine, tmp_path, handler, kept), at_once=1)
    for _ in range(3):
        assert (await see(sandboxes, supply)).result == b"true"
    assert len(containers(docker_engine, sandboxes)) == 1
    await supply.close()


# --- memory


async def test_a_child_that_fills_its_containers_memory_dies_before_the_parent(sandboxes, docker_engine):
    spec = sandboxes.spec(limits=Limits(memory_mib=64))
    supply = Forks(sandboxes.runtime, spec, at_once=1)
    reply = await see(
        sandboxes,
        supply,
        "import mmap\nheld = [mmap.mmap(-1, 8 << 20) for _ in range(60)]\n"
        "for area in held:\n    area.write(b'x' * len(area))",
        memory_mib=64,
    )
    assert reply.failure.type is FailureType.OUT_OF_MEMORY
    assert len(containers(docker_engine, sandboxes)) == 1
    assert (await see(sandboxes, supply)).result == b"1"
    await supply.close()


# --- where it cannot be


class Stricter:
    """A runtime that launches a parent with what an ordinary sandbox gets."""

    def __init__(self, runtime) -> None:
        self._runtime = runtime
        self.launched = 0

    async def launch(self, spec: SandboxSpec) -> Sandbox:
        self.launched += 1
        return await self._runtime.launch(replace(spec, use=Use.ONCE))


async def test_a_machine_that_forbids_it_is_refused_and_asked_again_later(
    sandboxes, docker_engine, monkeypatch
):
    runtime = Stricter(sandboxes.runtime)
    supply = Forks(runtime, sandboxes.spec())
    for _ in range(2):
        with pytest.raises(IsolationRefused, match="making a user namespace: Operation not permitted"):
            await supply.make()
    assert runtime.launched == 1
    assert "making a user namespace" in supply.refusal
    monkeypatch.setattr("dispatcher.pools.forks.REFUSED_SECONDS", 0.0)
    with pytest.raises(IsolationRefused):
        await supply.make()
    assert runtime.launched == 2
    await supply.close()
