"""The runtime `oci`: its programs, its keeper, and the images that it unpacks."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE, Sandboxes, until
from docker.errors import DockerException

from dispatcher.runtimes import oci, program, rootfs
from dispatcher.runtimes.cgroups import hierarchies
from dispatcher.runtimes.oci import OciRuntime
from dispatcher.runtimes.program import programs
from dispatcher.runtimes.rootfs import RootFilesystems
from mayfly.errors import SandboxesUnavailable, SandboxLost, StackError
from mayfly.function import Limits
from mayfly.settings import Settings
from mayfly.task import FailureType
from tests.engine import build_image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start containers without an engine")

NAMES = [found.name for found in programs(hierarchies())]


@pytest.fixture
async def runtime(runtime_settings: Settings) -> OciRuntime:
    runtime = OciRuntime(runtime_settings, "test")
    await runtime.start()
    yield runtime
    await runtime.close()


def keeper_of(runtime: OciRuntime) -> int:
    assert runtime._launcher is not None
    assert runtime._launcher._keeper is not None
    return runtime._launcher._keeper.pid


# --- what it starts containers with


@pytest.mark.parametrize("name", NAMES)
async def test_each_program_confines_and_tells_the_end(
    runtime_settings, python_probe, unix_probe, monkeypatch, name
):
    chosen = [found for found in programs(hierarchies()) if found.name == name]
    monkeypatch.setattr(oci, "programs", lambda _: chosen)
    runtime = OciRuntime(runtime_settings, f"test-{name}")
    await runtime.start()
    try:
        boxes = Sandboxes(runtime, python_probe, unix_probe)
        found = await boxes.inside("""
import os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
mounts = {line.split()[1]: line.split()[3].split(",") for line in open("/proc/mounts")}
result = [status[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")]
result += [os.getuid(), "ro" in mounts["/"], os.access("/sys/fs/cgroup", os.W_OK)]
""")
        assert found == ["0" * 16, "0" * 16, "1", "2", 65532, True, False]
        hungry = await boxes.python(
            "held = []\nwhile True: held.append(bytearray(8 << 20))", spec={"limits": Limits(memory_mib=48)}
        )
        assert hungry.failure.type is FailureType.OUT_OF_MEMORY
        sandbox = await runtime.launch(boxes.unix_spec("import time; time.sleep(600)"))
        await sandbox.kill("SIGKILL")
        assert await asyncio.wait_for(sandbox.wait(), PATIENCE) == (137, False)
        await sandbox.remove()
    finally:
        await runtime.close()


async def test_without_root_it_says_so_and_what_else_there_is(runtime_settings, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(StackError, match=r"as root on Linux.*MAYFLY_RUNTIME=docker"):
        await OciRuntime(runtime_settings, "nobody").start()


async def test_without_a_program_it_names_a_package(runtime_settings, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(program, "SYSTEM", "/nowhere")
    with pytest.raises(StackError, match="needs runc or crun") as raised:
        await OciRuntime(runtime_settings, "nobody").start()
    assert "crun" in raised.value.mend


async def test_programs_that_start_nothing_are_told_with_their_reasons(runtime_settings, monkeypatch):
    monkeypatch.setattr(oci, "programs", lambda _: [program.Program(("/bin/false",))])
    runtime = OciRuntime(runtime_settings, "nobody")
    with pytest.raises(StackError, match="can start no container here: false: /bin/false ended with 1"):
        await runtime.start()
    await runtime.close()
    assert not Path(runtime._folder.path).exists()


async def test_what_a_program_refuses_is_told_in_its_words_and_leaves_nothing(sandboxes, left):
    with pytest.raises(SandboxLost, match=r"no sandbox for probe: .*(?i:rlimit)"):
        await sandboxes.runtime.launch(sandboxes.spec(limits=Limits(open_files=1 << 40)))
    await until(lambda: not left("test"))


async def test_egress_is_refused(sandboxes):
    assert "MAYFLY_RUNTIME=docker" in sandboxes.runtime.egress_refusal
    with pytest.raises(SandboxLost, match="the runtime oci makes no networks"):
        await sandboxes.runtime.launch(sandboxes.spec(network="egress"))


# --- its keeper


async def test_a_killed_keeper_loses_its_sandboxes_and_another_takes_its_place(sandboxes, left):
    sandbox = await sandboxes.runtime.launch(sandboxes.unix_spec("import time; time.sleep(600)"))
    os.kill(keeper_of(sandboxes.runtime), signal.SIGKILL)
    with pytest.raises(SandboxLost, match="the keeper of the sandboxes died"):
        await asyncio.wait_for(sandbox.wait(), PATIENCE)
    assert await sandboxes.inside("result = 1") == 1
    await until(lambda: not left("test"))
    await sandbox.remove()


LAUNCH = """
import asyncio, sys
from pathlib import Path
from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.oci import OciRuntime
from mayfly.settings import Settings

async def main(state, engine, image):
    runtime = OciRuntime(Settings(state_dir=Path(state), docker_host=engine), "dead")
    await runtime.start()
    await runtime.launch(SandboxSpec(image=image, task_id="", function="probe"))
    print("launched", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_keeper_ends_the_sandboxes_of_a_dispatcher_that_was_killed(sandboxes, runtime_settings, left):
    state, engine = str(runtime_settings.state_dir), str(runtime_settings.docker_host)
    command = [sys.executable, "-c", LAUNCH, state, engine, sandboxes.python_probe.image]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"launched\n"
        assert len(left("dead")) == 1
        process.kill()
    await until(lambda: not left("dead"))


# --- the images


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_a_full_disk_is_told_from_a_broken_sandbox_and_keeps_nothing(
    runtime_settings, python_probe, small_disk
):
    runtime = OciRuntime(runtime_settings.model_copy(update={"state_dir": small_disk}), "test")
    await runtime.start()
    boxes = Sandboxes(runtime, python_probe, python_probe)
    try:
        with pytest.raises(
            SandboxesUnavailable, match=r"(?s)cannot be unpacked: tar: .*No space left on device"
        ):
            await runtime.launch(boxes.spec())
        assert [path.name for path in (small_disk / "oci/rootfs").iterdir()] == ["lock"]
    finally:
        await runtime.close()


async def test_an_engine_that_is_down_is_waited_for_and_only_to_unpack(sandboxes, monkeypatch):
    assert await sandboxes.inside("result = 1") == 1

    def refuse(settings: Settings) -> None:
        raise DockerException("connection refused")

    monkeypatch.setattr(rootfs, "connect", refuse)
    assert await sandboxes.inside("result = 2") == 2
    with pytest.raises(SandboxesUnavailable, match="no Docker engine answers"):
        await sandboxes.runtime.launch(sandboxes.spec(image="mayfly/fn-other:1"))


@pytest.fixture
def tiny_images(docker_engine) -> Iterator[list[str]]:
    tags = [f"mayfly/test-tiny:{number}" for number in range(3)]
    for tag in tags:
        build_image(docker_engine, f"FROM scratch\nCOPY Dockerfile /\nCMD ['{tag}']\n", tag)
    yield tags
    for tag in tags:
        docker_engine.images.remove(tag, force=True)


@pytest.fixture
def own_settings(runtime_settings: Settings, tmp_path: Path) -> Settings:
    return runtime_settings.model_copy(update={"state_dir": tmp_path / "own"})


async def test_an_image_is_unpacked_once_however_many_ask(own_settings, tiny_images, docker_engine):
    first, second = RootFilesystems(own_settings), RootFilesystems(own_settings)
    folder = own_settings.state_dir / "oci/rootfs"
    folder.mkdir(parents=True)
    # What a process that was killed halfway has left.
    (folder / "0123.part/etc").mkdir(parents=True)
    roots = await asyncio.gather(*(images.take(tiny_images[0]) for images in (first, first, second)))
    assert len({root.path for root in roots}) == 1
    assert (roots[0].path / "Dockerfile").is_file()
    assert sorted(path.suffix for path in folder.iterdir()) == ["", "", ".lock"]
    assert docker_engine.api.containers(all=True, filters={"label": f"{rootfs.LABEL}={folder}"}) == []
    first.close()
    second.close()


async def test_images_that_nobody_uses_make_room_for_others(own_settings, tiny_images, monkeypatch):
    monkeypatch.setattr(rootfs, "KEPT", 2)
    images, others = RootFilesystems(own_settings), RootFilesystems(own_settings)
    paths = []
    for tag in tiny_images[:2]:
        paths.append((await images.take(tag)).path)
    await others.take(tiny_images[0])
    for tag in tiny_images[:2]:
        images.give_back(tag)
    images.close()
    third = RootFilesystems(own_settings)
    paths.append((await third.take(tiny_images[2])).path)
    # The oldest is in use.
    assert [path.exists() for path in paths] == [True, False, True]
    others.close()
    third.close()
