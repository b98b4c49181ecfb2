"""What a function that runs on ECS asks for, and what carries its streams from there."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from pool_world import World

from dispatcher.frames import frame
from dispatcher.runtimes.base import Sandbox, SandboxSpec
from dispatcher.runtimes.carried import Carried, End
from dispatcher.runtimes.chosen import ChosenRuntime
from mayfly.errors import BlobNotFound, FunctionError, IsolationRefused, SettingsError
from mayfly.fargate import LARGEST, Size, size_of
from mayfly.function import Function, decode_function, encode_function
from mayfly.manifest import read_manifest
from mayfly.settings import MIB, Settings

GIB = 1024
ECS = SandboxSpec(image="i", task_id="t", function="f", runtime="ecs")


# --- what a function asks for


@pytest.mark.parametrize(
    ("cores", "memory", "size"),
    [
        (0.1, 16, Size(256, 512)),
        (0.25, 513, Size(256, GIB)),
        (0.25, 3 * GIB, Size(512, 3 * GIB)),
        (1, 256, Size(1024, 2 * GIB)),
        (3, GIB, Size(4096, 8 * GIB)),
        (8, 17 * GIB, Size(8192, 20 * GIB)),
        (16, 120 * GIB, LARGEST),
        (16.1, 16, None),
        (1, 120 * GIB + 1, None),
    ],
)
def test_a_function_has_the_smallest_size_of_fargate_that_it_fits_into(
    cores: float, memory: int, size: Size | None
) -> None:
    assert size_of(cores, memory) == size


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('isolation = "fork"', 'function.toml:3: isolation = "fork": with runtime = "ecs" every task has'),
        ("warm_pool = 2", "function.toml:3: warm_pool = 2: with runtime"),
        ("memory = 122881", "function.toml:3: cpu = 1 with memory = 122881: with runtime"),
        ("cpu = 17", "function.toml:1: cpu = 17 with memory = 256: with runtime"),
    ],
)
def test_what_cannot_be_on_ecs_is_refused_when_it_is_deployed(
    tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "function.toml").write_text(f'runtime = "ecs"\nnetwork = "egress"\n{line}\n')
    with pytest.raises(FunctionError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('runtime = "ecs"', 'function.toml:1: runtime = "ecs" needs network = "egress"'),
        ('runtime = "lambda"', 'function.toml:1: runtime is "lambda": it must be "ecs", or left out'),
    ],
)
def test_a_function_gets_no_network_and_no_runtime_that_it_did_not_ask_for(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "function.toml").write_text(text)
    with pytest.raises(FunctionError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value).startswith(message)


def test_the_catalog_keeps_a_runtime_that_is_not_known_yet() -> None:
    function = Function(name="f", image="i", version="1", runtime="lunar")
    assert decode_function(encode_function(function)) == function


def test_a_cluster_alone_is_not_enough() -> None:
    with pytest.raises(SettingsError, match="MAYFLY_ECS_SUBNETS and MAYFLY_ECS_SECURITY_GROUPS"):
        Settings(ecs_cluster="functions", functions_repository="r/f")


# --- which runtime


class Named:
    egress_refusal = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def healthy(self) -> bool:
        return True

    async def launch(self, spec: SandboxSpec) -> Sandbox:
        return self.name  # type: ignore[return-value]

    async def remove_orphans(self) -> int:
        return 1

    async def close(self) -> None:
        self.calls.append("close")


async def test_a_task_runs_on_the_runtime_that_its_function_names() -> None:
    own, ecs = Named("own"), Named("ecs")
    chosen = ChosenRuntime(own, {"ecs": ecs})
    await chosen.start()
    assert await chosen.launch(ECS) == "ecs"
    assert await chosen.launch(SandboxSpec(image="i", task_id="t", function="f")) == "own"
    assert await chosen.remove_orphans() == 2
    await chosen.close()
    assert own.calls == ecs.calls == ["start", "close"]


async def test_a_task_never_runs_on_another_runtime_instead() -> None:
    with pytest.raises(IsolationRefused, match="set MAYFLY_ECS_CLUSTER"):
        await ChosenRuntime(Named("own"), {}).launch(ECS)


async def test_nothing_is_kept_ready_for_a_function_on_ecs_and_it_takes_no_room() -> None:
    world = World(at_once=False, cores=1)
    there = world.function("there", runtime="ecs", warm_pool=2)
    taking = asyncio.create_task(world.take(there))
    await world.settle()
    assert world.engine.launching == 1
    world.function("here", warm_pool=1)
    await world.settle()
    assert world.engine.launching == 2, "the one here is made meanwhile"
    world.engine.lets(2)
    await (await taking).remove()
    await world.settle()
    assert world.pools.armed == {"here": 1}
    await world.pools.close()


async def test_what_was_kept_ready_goes_when_the_function_moves_to_ecs() -> None:
    world = World()
    await world.use(world.function())
    await world.passes(1)
    assert world.pools.kept_mib == 100
    world.function(runtime="ecs")
    await world.settle()
    assert world.pools.kept_mib == 0
    await world.pools.close()


# --- what carries its streams


@pytest.fixture
def remote(image_module: Callable[[str], ModuleType]) -> ModuleType:
    return image_module("mayfly_remote")


class Size_(NamedTuple):
    size: int


class Store:
    """Objects in memory. What is read comes a byte at a time."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes, content_type: str) -> None:
        self.objects[key] = data

    async def describe(self, key: str) -> Size_:
        if key not in self.objects:
            raise BlobNotFound(key)
        return Size_(len(self.objects[key]))

    async def stream(self, key: str, start: int) -> AsyncIterator[bytes]:
        async def chunks() -> AsyncIterator[bytes]:
            for byte in self.objects[key][start:]:
                yield bytes([byte])

        return chunks()

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    async def bare_url(self, method: str, key: str, seconds: int) -> str:
        return f"{method} {key}"


def carried(store: Store, **changes: Any) -> Carried:
    options: Mapping[str, Any] = {"env": {"A": "b"}, "max_result": MIB, "max_log": 8, **changes}
    return Carried(store, "s", **options)


async def heard(store: Store, said: bytes, carrier: Carried) -> tuple[bytes, bytes]:
    store.objects["remote/s/out"] = said
    await carrier.read()
    carrier.streams.end()
    out = b"".join([chunk async for chunk in carrier.streams.stdout])
    log = b"".join([chunk async for chunk in carrier.streams.stderr])
    return out, log


async def test_what_is_written_is_a_chain_of_objects_that_each_name_the_next() -> None:
    store = Store()
    carrier = carried(store)
    assert await carrier.open() == "get_object remote/s/orders"
    orders = json.loads(store.objects["remote/s/orders"])
    assert orders["env"] == {"A": "b"}
    assert orders["input"] == "get_object remote/s/in/0"
    await carrier.write(b"first")
    await carrier.close_stdin()
    link = b"get_object remote/s/in/1"
    assert store.objects["remote/s/in/0"] == len(link).to_bytes(4, "big") + link + b"first"
    assert store.objects["remote/s/in/1"] == bytes(4)
    await carrier.remove()
    assert store.objects == {}


async def test_a_transcript_is_read_on_where_it_was_and_its_end_is_what_it_says(remote: ModuleType) -> None:
    store, transcript = Store(), remote.Transcript({"log": 16, "result": MIB})
    carrier = carried(store)
    transcript.hear(frame("A", b"{}"))
    transcript.hear_log(b"one ")
    store.objects["remote/s/out"] = transcript.take()
    await carrier.read()
    assert carrier.end is None
    transcript.hear_log(b"two three four five")
    transcript.hear(frame("R", b"{}") + frame("B", b"1"))
    transcript.end({"code": 0, "oom": False, "late": False, "told": False})
    out, log = await heard(store, transcript.take(), carrier)
    assert out == frame("A", b"{}") + frame("R", b"{}") + frame("B", b"1")
    assert carrier.end == End(code=0, dropped=7)
    assert log[:16] == b"one two three fo"
    assert len(log) == len(b"one two three four five"), "what was dropped there is counted here"


def test_of_progress_that_nobody_was_told_only_the_latest_is_carried(remote: ModuleType) -> None:
    transcript = remote.Transcript({"log": 16, "result": MIB})
    said = frame("A", b"{}") + b"".join(frame("G", b"%d" % number) for number in range(100))
    for at in range(0, len(said), 3):
        transcript.hear(said[at : at + 3])
    first = transcript.take()
    assert first.count(b"G") == 1
    assert first.endswith(frame("G", b"99"))
    transcript.hear(frame("G", b"100")[:6])
    assert transcript.take() == first, "half of a frame waits for its rest"
    transcript.hear(frame("G", b"100")[6:] + frame("R", b"{}"))
    whole = transcript.take()
    assert whole.startswith(first)
    assert whole.index(frame("G", b"100")) < whole.index(frame("R", b"{}")[:5])


@pytest.mark.parametrize(
    "said", [b"Z\0\0\0\1x", b"O\xff\xff\xff\xff", b"X\0\0\0\1{", frame("X", b'{"code": "no"}')]
)
async def test_what_is_no_transcript_is_believed_nothing_of(said: bytes) -> None:
    carrier = carried(store := Store())
    assert await heard(store, said, carrier) == (b"", b"")
    assert carrier.broken is not None
