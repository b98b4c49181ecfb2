"""The runtime `docker`: what happens when the engine or somebody else meddles."""

import asyncio
import gc
import json
import re
from collections.abc import Iterator

import docker
import pytest
from conftest import KINDS, Sandboxes, address_of, until
from structlog.testing import capture_logs

from dispatcher.invocation import invoke
from dispatcher.runtimes.docker import DockerRuntime
from mayfly.errors import SandboxLost, StackError
from mayfly.function import Function, Limits
from mayfly.settings import Settings
from mayfly.task import FailureType
from tests.engine import OwnEngine

PATIENCE = 60.0


@pytest.fixture(params=[kind for kind in KINDS if kind != "oci"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ours(client: docker.DockerClient, dispatcher: str) -> list[str]:
    found = client.api.containers(all=True, filters={"label": f"mayfly.dispatcher={dispatcher}"})
    return [container["Names"][0].strip("/") for container in found]


async def test_an_engine_that_refuses_to_start_a_container_says_why_and_keeps_none(sandboxes, engine):
    with pytest.raises(SandboxLost, match=r"no sandbox for probe: .*[Mm]inimum memory"):
        await sandboxes.runtime.launch(sandboxes.spec(limits=Limits(memory_mib=1)))
    await until(lambda: not ours(engine, "test"))


async def test_labels_say_whose_it_is_and_hold_no_secret(sandboxes, engine):
    sandbox = await sandboxes.runtime.launch(sandboxes.spec(env={"TOKEN": "hunter2"}))
    labels = engine.containers.get(sandbox.name).labels
    await sandbox.remove()
    ours = {name: value for name, value in labels.items() if name.startswith("mayfly.")}
    lock = ours.pop("mayfly.lock")
    ours.pop("mayfly.description", None)
    assert ours["mayfly.dispatcher"] == "test"
    assert ours["mayfly.task"] == "0193f5a0-0000-7000-8000-000000000001"
    assert ours["mayfly.function"] == "probe"
    assert re.fullmatch(r"[^:]+:/.*/dispatchers/test\.lock", lock)
    assert "hunter2" not in json.dumps(labels)


async def test_a_container_removed_from_outside_is_lost(sandboxes, engine):
    sandbox = await sandboxes.runtime.launch(sandboxes.spec())
    invoking = asyncio.create_task(
        invoke(sandbox, "python", sandboxes.request(payload=b'{"code": "import time; time.sleep(600)"}'))
    )
    await asyncio.to_thread(engine.api.remove_container, sandbox.name, force=True)
    with pytest.raises(SandboxLost, match="removed from outside"):
        await invoking
    await sandbox.remove()


async def test_a_function_killed_from_outside_is_an_exit_code(sandboxes, engine):
    sandbox = await sandboxes.runtime.launch(sandboxes.spec())
    invoking = asyncio.create_task(
        invoke(sandbox, "python", sandboxes.request(payload=b'{"code": "import time; time.sleep(600)"}'))
    )
    await asyncio.to_thread(engine.api.kill, sandbox.name, "SIGKILL")
    failure = (await invoking).failure
    assert failure.type is FailureType.EXIT_CODE
    assert failure.exit_code == 137
    assert failure.message.startswith("the process was ended by SIGKILL before ")
    await sandbox.remove()


async def test_the_engines_events_tell_what_was_killed_for_its_memory_too(sandboxes):
    eats = b'{"code": "held = []\\nwhile True: held.append(bytearray(8 << 20))"}'
    sandbox = await sandboxes.runtime.launch(sandboxes.spec(limits=Limits(memory_mib=64)))
    failure = (await invoke(sandbox, "python", sandboxes.request(payload=eats))).failure
    assert failure.type is FailureType.OUT_OF_MEMORY
    assert await sandboxes.runtime._asks.ran_out_of_memory(sandbox.name)
    await sandbox.remove()


# --- an engine that dies

# The SDK leaves a socket to the collector when it cannot connect.
leaves_sockets = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@leaves_sockets
async def test_no_engine_is_an_error_that_says_so(tmp_path):
    settings = Settings(state_dir=tmp_path, docker_host=f"unix://{tmp_path}/none.sock")
    runtime = DockerRuntime(settings, "nobody")
    with pytest.raises(StackError, match="no Docker engine answers"):
        await runtime.start()
    await runtime.close()
    gc.collect()


@pytest.fixture
def own_engine(docker_engine: docker.DockerClient, python_probe: Function) -> Iterator[OwnEngine]:
    engine = OwnEngine.somewhere()
    try:
        engine.start()
        client = docker.APIClient(base_url=engine.address, version="1.41")
        client.load_image(docker_engine.api.get_image(python_probe.image))
        client.close()
        yield engine
    finally:
        engine.remove()
        gc.collect()


@leaves_sockets
async def test_an_engine_killed_under_a_running_function_loses_the_sandbox_and_leaves_no_orphan(
    own_engine, python_probe, tmp_path
):
    runtime = DockerRuntime(Settings(state_dir=tmp_path, docker_host=own_engine.address, slots=2), "test")
    await runtime.start()
    boxes = Sandboxes(runtime, python_probe, python_probe)
    sandbox = await runtime.launch(boxes.spec())
    payload = b'{"code": "print(1, flush=True); import time; time.sleep(600)"}'
    invoking = asyncio.create_task(boxes.see(sandbox, "python", boxes.request(payload=payload)))
    waiting = await runtime.launch(boxes.spec())
    assert await asyncio.wait_for(anext(aiter(waiting.stdout)), PATIENCE)

    await asyncio.to_thread(own_engine.kill)
    with pytest.raises(SandboxLost):
        await asyncio.wait_for(invoking, PATIENCE)
    with pytest.raises(SandboxLost):
        await asyncio.wait_for(waiting.wait(), PATIENCE)
    with pytest.raises(SandboxLost, match="no sandbox for probe"):
        await runtime.launch(boxes.spec())
    assert not await runtime.healthy()

    await asyncio.to_thread(own_engine.start)
    assert await runtime.healthy()
    await waiting.remove()
    client = docker.DockerClient(base_url=own_engine.address, version="1.41")
    await until(lambda: not ours(client, "test"))
    assert await boxes.inside("result = 1") == 1
    await runtime.close()
    assert ours(client, "test") == []
    client.close()


@leaves_sockets
async def test_an_engine_that_is_stopped_in_order_loses_the_sandbox_too(own_engine, python_probe, tmp_path):
    runtime = DockerRuntime(Settings(state_dir=tmp_path, docker_host=own_engine.address, slots=2), "test")
    await runtime.start()
    boxes = Sandboxes(runtime, python_probe, python_probe)
    sandbox = await runtime.launch(boxes.spec())
    payload = b'{"code": "import time; time.sleep(600)"}'
    invoking = asyncio.create_task(boxes.see(sandbox, "python", boxes.request(payload=payload)))
    await asyncio.to_thread(own_engine.stop)
    with pytest.raises(SandboxLost):
        await asyncio.wait_for(invoking, PATIENCE)
    await runtime.close()


# --- what the engine starts a container with


def runtime_of(engine: docker.DockerClient, sandbox: str) -> str:
    return str(engine.api.inspect_container(sandbox)["HostConfig"]["Runtime"])


async def test_crun_is_taken_where_the_engine_has_it(crun_engine, python_probe, tmp_path):
    images = len(crun_engine.api.images(all=True))
    runtime = DockerRuntime(Settings(state_dir=tmp_path, docker_host=address_of(crun_engine)), "test")
    await runtime.start()
    try:
        boxes = Sandboxes(runtime, python_probe, python_probe)
        sandbox = await runtime.launch(boxes.spec())
        assert runtime_of(crun_engine, sandbox.name) == "crun"
        assert len(crun_engine.api.images(all=True)) == images
    finally:
        await runtime.close()


async def test_a_crun_that_starts_no_container_is_left_alone(
    docker_engine, python_probe, tmp_path, monkeypatch
):
    broken = lambda command: [*command, "--add-runtime", "crun=/bin/false"]  # noqa: E731
    monkeypatch.setattr("tests.engine.with_crun", broken)
    engine = OwnEngine.somewhere()
    client = docker.DockerClient(base_url=engine.address, version="1.41")
    try:
        engine.start()
        client.api.load_image(docker_engine.api.get_image(python_probe.image))
        runtime = DockerRuntime(Settings(state_dir=tmp_path, docker_host=engine.address), "test")
        with capture_logs() as logs:
            await runtime.start()
        boxes = Sandboxes(runtime, python_probe, python_probe)
        sandbox = await runtime.launch(boxes.spec())
        assert runtime_of(client, sandbox.name) == "runc"
        assert await boxes.inside("result = 1") == 1
        await runtime.close()
        assert client.api.containers(all=True) == []
    finally:
        client.close()
        engine.remove()
    (said,) = logs
    assert said["instead_of"] == "crun"
    assert said["reason"]


async def test_a_runtime_that_the_engine_does_not_have_is_an_error_that_says_so(runtime_settings):
    settings = runtime_settings.model_copy(update={"docker_runtime": "no-such-runtime"})
    runtime = DockerRuntime(settings, "nobody")
    with pytest.raises(StackError, match="MAYFLY_DOCKER_RUNTIME is no-such-runtime, and the Docker engine"):
        await runtime.start()
    await runtime.close()
