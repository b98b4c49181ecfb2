"""The runtime `docker`: a sandbox's life, and what happens when the engine or somebody else meddles."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import docker
import pytest
from conftest import Sandboxes

from dispatcher.invocation import invoke
from dispatcher.runtimes.docker import DockerRuntime
from mayfly.errors import SandboxLost, StackError
from mayfly.function import Function, Limits
from mayfly.settings import Settings
from mayfly.task import Failure, FailureType
from tests.engine import OwnEngine

REPOSITORY = Path(__file__).parent.parent.parent
PATIENCE = 60.0


def ours(client: docker.DockerClient, dispatcher: str) -> list[str]:
    found = client.api.containers(all=True, filters={"label": f"mayfly.dispatcher={dispatcher}"})
    return [container["Names"][0].strip("/") for container in found]


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


async def read_to_end(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in stream])


# --- the streams


async def test_closing_stdin_reaches_the_process_as_an_end_of_file(sandboxes):
    sandbox = await sandboxes.runtime.launch(
        sandboxes.unix_spec(
            "import sys\nfor line in sys.stdin: print(line.strip()[::-1], flush=True)\nprint('end')"
        )
    )
    stdout = aiter(sandbox.stdout)
    await sandbox.write(b"first\n")
    assert await asyncio.wait_for(anext(stdout), PATIENCE) == b"tsrif\n"
    await sandbox.write(b"second\n")
    await sandbox.close_stdin()
    assert await asyncio.wait_for(read_to_end(stdout), PATIENCE) == b"dnoces\nend\n"
    assert await sandbox.wait() == (0, False)
    await sandbox.remove()


async def test_stdout_and_stderr_come_apart_and_whole(sandboxes):
    sandbox = await sandboxes.runtime.launch(
        sandboxes.unix_spec("""
import os
for number in range(2000):
    os.write(1, b"out%d\\n" % number)
    os.write(2, b"err%d\\n" % number)
""")
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await asyncio.gather(read_to_end(sandbox.stdout), read_to_end(sandbox.stderr))
    assert out == b"".join(b"out%d\n" % number for number in range(2000))
    assert err == b"".join(b"err%d\n" % number for number in range(2000))
    await sandbox.remove()


async def test_a_process_whose_output_nobody_reads_waits_for_its_reader(sandboxes):
    sandbox = await sandboxes.runtime.launch(
        sandboxes.unix_spec("""
import os
block = b"x" * 65536
for number in range(1, 1025):
    written = 0
    while written < len(block):
        written += os.write(1, block[written:])
""")
    )
    # 64 MiB, of which only the buffers on the way take what is not asked for.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sandbox.wait(), 1)
    async with asyncio.timeout(PATIENCE):
        total = 0
        async for chunk in sandbox.stdout:
            total += len(chunk)
    assert total == 1024 * 65536
    assert await sandbox.wait() == (0, False)
    await sandbox.remove()


async def test_a_signal_reaches_the_function_itself(sandboxes):
    sandbox = await sandboxes.runtime.launch(
        sandboxes.unix_spec("""
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
print("ready", flush=True)
time.sleep(600)
""")
    )
    assert await asyncio.wait_for(anext(aiter(sandbox.stdout)), PATIENCE) == b"ready\n"
    await sandbox.kill("SIGTERM")
    assert await asyncio.wait_for(sandbox.wait(), PATIENCE) == (42, False)
    await sandbox.kill("SIGTERM")
    await sandbox.remove()


# --- no sandbox


async def test_a_missing_image_is_named(sandboxes):
    with pytest.raises(SandboxLost, match="has no image mayfly/fn-gone:1: deploy the function again"):
        await sandboxes.runtime.launch(sandboxes.spec(image="mayfly/fn-gone:1"))


async def test_a_program_that_is_not_there_is_named_in_the_log(sandboxes, docker_engine, tmp_path):
    (tmp_path / "Dockerfile").write_text('FROM mayfly/base\nENTRYPOINT ["/no/such/program"]\n')
    image, _ = docker_engine.images.build(path=str(tmp_path), tag="mayfly/test-noprogram:1", rm=True)
    try:
        reply = await sandboxes.unix("", spec={"image": "mayfly/test-noprogram:1"})
        assert reply.failure == Failure(
            FailureType.EXIT_CODE, "the process exited with code 127", exit_code=127
        )
        assert b"/no/such/program" in reply.log
    finally:
        docker_engine.images.remove(image.id, force=True)


async def test_an_engine_that_refuses_to_start_a_container_says_why_and_keeps_none(sandboxes, docker_engine):
    with pytest.raises(SandboxLost, match=r"no sandbox for probe: .*[Mm]inimum memory"):
        await sandboxes.runtime.launch(sandboxes.spec(limits=Limits(memory_mib=1)))
    await until(lambda: not ours(docker_engine, "test"))


async def test_a_cancelled_launch_leaves_no_container(sandboxes, docker_engine):
    for delay in (0.0, 0.01, 0.05, 0.1, 0.2):
        launching = asyncio.create_task(sandboxes.runtime.launch(sandboxes.spec()))
        await asyncio.sleep(delay)
        launching.cancel()
        await asyncio.wait({launching})
        if not launching.cancelled():
            await launching.result().remove()
    await sandboxes.runtime.close()
    assert ours(docker_engine, "test") == []


# --- the end


async def test_removing_gives_everything_back(sandboxes, docker_engine):
    async def one() -> None:
        sandbox = await sandboxes.runtime.launch(sandboxes.spec())
        await sandbox.remove()
        await sandbox.remove()
        await until(lambda: not ours(docker_engine, "test"))

    gc.disable()
    try:
        # Both clients keep a few connections to the engine.
        for _ in range(4):
            await one()
        before = descriptors()
        for _ in range(8):
            await one()
        assert descriptors() - before < 8
    finally:
        gc.enable()


async def test_closing_removes_what_still_runs(sandboxes, docker_engine):
    for _ in range(3):
        await sandboxes.runtime.launch(sandboxes.spec())
    assert len(ours(docker_engine, "test")) == 3
    await sandboxes.runtime.close()
    assert ours(docker_engine, "test") == []


async def test_a_container_removed_from_outside_is_lost(sandboxes, docker_engine):
    sandbox = await sandboxes.runtime.launch(sandboxes.spec())
    invoking = asyncio.create_task(
        invoke(sandbox, "python", sandboxes.request(payload=b'{"code": "import time; time.sleep(600)"}'))
    )
    await asyncio.to_thread(docker_engine.api.remove_container, sandbox.name, force=True)
    with pytest.raises(SandboxLost, match="removed from outside"):
        await invoking
    await sandbox.remove()


async def test_a_function_killed_from_outside_is_an_exit_code(sandboxes, docker_engine):
    sandbox = await sandboxes.runtime.launch(sandboxes.spec())
    invoking = asyncio.create_task(
        invoke(sandbox, "python", sandboxes.request(payload=b'{"code": "import time; time.sleep(600)"}'))
    )
    await asyncio.to_thread(docker_engine.api.kill, sandbox.name, "SIGKILL")
    failure = (await invoking).failure
    assert failure.type is FailureType.EXIT_CODE
    assert failure.exit_code == 137
    assert failure.message.startswith("the process was ended by SIGKILL before ")
    await sandbox.remove()


async def test_running_out_of_memory_is_told_every_time(sandboxes):
    for _ in range(8):
        reply = await sandboxes.python(
            "held = []\nwhile True: held.append(bytearray(8 << 20))",
            spec={"limits": Limits(memory_mib=48)},
            memory_mib=48,
        )
        assert reply.failure == Failure(
            FailureType.OUT_OF_MEMORY, "the function used more than its 48 MiB of memory", exit_code=137
        )


# --- a dispatcher that died

DISPATCHER = """
import asyncio, sys
from pathlib import Path
from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.docker import DockerRuntime
from mayfly.settings import Settings

async def main(state, engine, image, name):
    runtime = DockerRuntime(Settings(state_dir=Path(state), docker_host=engine, slots=2), name)
    await runtime.start()
    for number in range(2):
        await runtime.launch(SandboxSpec(image=image, task_id=f"t{number}", function="probe"))
    print("launched", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


def another(settings: Settings, image: str, name: str) -> "subprocess.Popen[bytes]":
    """A dispatcher of the same machine and state folder, with two sandboxes."""
    command = [
        sys.executable,
        "-c",
        DISPATCHER,
        str(settings.state_dir),
        str(settings.docker_host),
        image,
        name,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert process.stdout is not None
    assert process.stdout.readline() == b"launched\n"
    return process


async def test_orphans_of_a_killed_dispatcher_are_removed_and_those_of_a_live_one_are_not(
    sandboxes, runtime_settings, docker_engine
):
    image = sandboxes.python_probe.image
    dead, alive = await asyncio.gather(
        asyncio.to_thread(another, runtime_settings, image, "dead"),
        asyncio.to_thread(another, runtime_settings, image, "alive"),
    )
    try:
        mine = await sandboxes.runtime.launch(sandboxes.spec())
        dead.kill()
        dead.wait()
        assert await sandboxes.runtime.remove_orphans() == 2
        assert ours(docker_engine, "dead") == []
        assert len(ours(docker_engine, "alive")) == 2
        assert ours(docker_engine, "test") == [mine.name]
        assert await sandboxes.runtime.remove_orphans() == 0
    finally:
        for process in (dead, alive):
            process.kill()
            process.wait()
            process.stdout.close()
        assert await sandboxes.runtime.remove_orphans() == 2


async def test_sandboxes_of_another_state_folder_are_left_alone(
    sandboxes, runtime_settings, docker_engine, tmp_path
):
    elsewhere = runtime_settings.model_copy(update={"state_dir": tmp_path / "elsewhere"})
    process = await asyncio.to_thread(another, elsewhere, sandboxes.python_probe.image, "stranger")
    process.kill()
    process.wait()
    process.stdout.close()
    assert await sandboxes.runtime.remove_orphans() == 0
    assert len(ours(docker_engine, "stranger")) == 2
    successor = DockerRuntime(elsewhere, "successor")
    await successor.start()
    assert await successor.remove_orphans() == 2
    await successor.close()


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
