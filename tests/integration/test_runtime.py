"""A sandbox's life, whichever runtime launches it."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conftest import KINDS, PATIENCE, until

from mayfly.errors import SandboxLost
from mayfly.function import Limits
from mayfly.settings import Settings
from mayfly.task import Failure, FailureType
from tests.engine import build_image

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


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
# In naps: a signal that comes after Python looked for one, and before the kernel sleeps, wakes nobody.
while True:
    time.sleep(0.05)
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


async def test_a_program_that_is_not_there_is_named_in_the_log(sandboxes, engine):
    tag = "mayfly/test-noprogram:1"
    build_image(engine, 'FROM mayfly/base\nENTRYPOINT ["/no/such/program"]\n', tag)
    try:
        reply = await sandboxes.unix("", spec={"image": tag})
        assert reply.failure == Failure(
            FailureType.EXIT_CODE, "the process exited with code 127", exit_code=127
        )
        assert b"/no/such/program" in reply.log
    finally:
        engine.images.remove(tag, force=True)


async def test_a_cancelled_launch_leaves_no_container(sandboxes, left):
    # What only a first launch does may take longer than all that follows.
    await (await sandboxes.runtime.launch(sandboxes.spec())).remove()
    for delay in (0.0, 0.01, 0.05, 0.1, 0.2):
        launching = asyncio.create_task(sandboxes.runtime.launch(sandboxes.spec()))
        await asyncio.sleep(delay)
        launching.cancel()
        await asyncio.wait({launching})
        if not launching.cancelled():
            await launching.result().remove()
    await sandboxes.runtime.close()
    assert left("test") == []


# --- the end


async def test_removing_gives_everything_back(sandboxes, left):
    async def one() -> None:
        sandbox = await sandboxes.runtime.launch(sandboxes.spec())
        await sandbox.remove()
        await sandbox.remove()
        await until(lambda: not left("test"))

    gc.disable()
    try:
        # Clients keep a few connections to the engine.
        for _ in range(4):
            await one()
        before = descriptors()
        for _ in range(8):
            await one()
        assert descriptors() - before < 8
    finally:
        gc.enable()


async def test_closing_removes_what_still_runs(sandboxes, left):
    for _ in range(3):
        await sandboxes.runtime.launch(sandboxes.spec())
    assert len(left("test")) == 3
    await sandboxes.runtime.close()
    assert left("test") == []


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
from dispatcher.runtimes.choice import runtime_of
from mayfly.settings import Settings

async def main(kind, state, engine, image, name):
    settings = Settings(runtime=kind, state_dir=Path(state), docker_host=engine, slots=2)
    runtime = runtime_of(settings, name)
    await runtime.start()
    for number in range(2):
        await runtime.launch(SandboxSpec(image=image, task_id=f"t{number}", function="probe"))
    print("launched", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


def another(kind: str, settings: Settings, image: str, name: str) -> "subprocess.Popen[bytes]":
    """A dispatcher of the same machine and state folder, with two sandboxes."""
    command = [
        sys.executable,
        "-c",
        DISPATCHER,
        kind,
        str(settings.state_dir),
        str(settings.docker_host),
        image,
        name,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert process.stdout is not None
    assert process.stdout.readline() == b"launched\n"
    return process


def kill(process: "subprocess.Popen[bytes]") -> None:
    """With the processes that it has started, which might tidy up behind it: those first."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == process.pid:
                os.kill(int(path.parent.name), signal.SIGKILL)
    process.kill()
    process.wait()


async def test_orphans_of_a_killed_dispatcher_are_removed_and_those_of_a_live_one_are_not(
    sandboxes, runtime_settings, left
):
    image = sandboxes.python_probe.image
    dead, alive = await asyncio.gather(
        asyncio.to_thread(another, sandboxes.kind, runtime_settings, image, "dead"),
        asyncio.to_thread(another, sandboxes.kind, runtime_settings, image, "alive"),
    )
    try:
        mine = await sandboxes.runtime.launch(sandboxes.spec())
        kill(dead)
        assert await sandboxes.runtime.remove_orphans() == 2
        assert left("dead") == []
        assert len(left("alive")) == 2
        assert left("test") == [mine.name]
        assert await sandboxes.runtime.remove_orphans() == 0
    finally:
        for process in (dead, alive):
            kill(process)
            process.stdout.close()
        assert await sandboxes.runtime.remove_orphans() == 2
        assert left("alive") == []


async def test_sandboxes_of_another_state_folder_are_left_alone(
    sandboxes, runtime_settings, left, tmp_path, unpacked
):
    elsewhere = runtime_settings.model_copy(update={"state_dir": tmp_path / "elsewhere"})
    elsewhere.state_dir.mkdir()
    (elsewhere.state_dir / "oci").symlink_to(unpacked)
    image = sandboxes.python_probe.image
    process = await asyncio.to_thread(another, sandboxes.kind, elsewhere, image, "stranger")
    kill(process)
    process.stdout.close()
    assert await sandboxes.runtime.remove_orphans() == 0
    assert len(left("stranger", elsewhere)) == 2
    successor = type(sandboxes.runtime)(elsewhere, "successor")
    await successor.start()
    assert await successor.remove_orphans() == 2
    assert left("stranger", elsewhere) == []
    await successor.close()
