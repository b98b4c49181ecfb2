"""Where contenders meet: Mayfly's stack without dispatchers, the functions, and a Redis for the peers.

Each Mayfly contender starts dispatchers of its own, and no two that are up together have one queue. In the
slices of those that it takes turns with, its dispatchers have nothing to do.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import msgspec
import redis
from confluent_kafka.admin import AdminClient, OffsetSpec

from benchmarks.contenders.base import Unavailable
from benchmarks.posting import Connection, request
from benchmarks.stage import Program, Stack, own_stack, resident_mib
from mayfly.adapters.kafka import Log, client_config, ensure_topics, lane_topic
from mayfly.adapters.kafka_catalog import Catalog, publish
from mayfly.adapters.kafka_offsets import offsets
from mayfly.adapters.s3 import Blobs
from mayfly.function import Limits
from mayfly.manifest import EXPECTED
from mayfly.settings import Settings
from mayfly.stack import environment
from mayfly.stack.deployer import deployed
from mayfly.stack.home import Home
from mayfly.stack.stack import settings_of
from mayfly.task import JSON, Lane

ISOLATIONS: Final = ("container", "fork", "warm")
PARKED: Final = "bench-parked"
"""A function, and its queue, that nobody serves."""
LEADER_SECONDS: Final = 10.0
"""How long a topic that was just made may take until its partitions are served."""
READY: Final = "warm_pool = 4\n" if "warm_pool" in EXPECTED else ""
"""Containers that `bench-container` keeps armed, where that can be said; the others keep what they do by
themselves."""
COMPLETED: Final = "mayfly:tasks:status:COMPLETED"
FAILED: Final = "mayfly:tasks:status:FAILED"
AT_ONCE: Final = 32
"""Objects that are read from S3 at once."""
READ: Final = 500
"""Of the objects of one slice, as many at least, spread over it: to read one costs what a task costs."""

HANDLER: Final = '''\
"""Says when its process was started, in clock ticks since the machine's boot: see proc(5)."""

import os


def handler(event, context):
    stat = os.open("/proc/self/stat", os.O_RDONLY)
    fields = os.read(stat, 4096).rpartition(b")")[2].split()
    os.close(stat)
    return int(fields[19])
'''
"""What stands for a no-op: the rates are to count only sandboxes that were made while the clock ran. By `os`,
for `open` makes three objects around a file, and a forked process gets copies of what that touches."""
TICKS: Final = os.sysconf("SC_CLK_TCK")


class Arena:
    """Up from `start` on, in a directory that goes with it."""

    def __init__(self, stack: Stack, running: ExitStack) -> None:
        self.stack = stack
        self.directory = stack.base
        self.limits = Limits()
        """Of every function here: what a manifest that names none gives."""
        self._running = running
        self._taken: set[str] = set()
        self._peers: str | None = None

    def start(self) -> None:
        for isolation in ISOLATIONS:
            name = f"bench-{isolation}"
            manifest = f'isolation = "{isolation}"\nqueue = "{name}"\n'
            self.stack.write(name, HANDLER, manifest + (READY if isolation == "container" else ""))
        self.stack.write(PARKED, HANDLER, f'queue = "{PARKED}"\n')
        self.stack.start()
        self.settings = settings_of(environment(self.stack.directory))
        self.redis = redis.Redis.from_url(self.settings.redis.get_secret_value(), decode_responses=True)
        self.url = self.stack.url
        self.connection = Connection(self.url)

    # --- Mayfly

    @property
    def engine(self) -> str:
        return environment(self.stack.directory)["MAYFLY_DOCKER_HOST"]

    @property
    def image(self) -> str:
        """That of `bench-container`."""
        return str(self.get("/functions/bench-container")["image"])

    def get(self, path: str) -> Any:
        status, body = self.connection.exchange(request(self.url, "GET", path))
        assert status == 200, body
        return json.loads(body)

    def refused(self, isolation: str) -> str | None:
        """Why there is no function with that isolation."""
        states = {state.name: state for state in deployed(Home(self.stack.directory))}
        return states[f"bench-{isolation}"].error

    def require(self, isolation: str) -> None:
        if why := self.refused(isolation):
            raise Unavailable(why.partition("\n")[0])

    @contextmanager
    def dispatchers(self, queue: str, count: int, variables: Mapping[str, str]) -> Iterator[list[Program]]:
        env = {**environment(self.stack.directory), "MAYFLY_QUEUE": queue, **variables}
        command = [sys.executable, "-P", "-m", "dispatcher"]
        with ExitStack() as running:
            names = [f"{queue}-{number}" for number in range(count)]
            yield [running.enter_context(self.program(name, command, env)) for name in names]

    def make_queue(self, queue: str) -> None:
        asyncio.run(ensure_topics(self.settings.model_copy(update={"queue": queue})))

    def commands(self, queue: str) -> int:
        """How many were appended to its lane `normal`."""
        admin = AdminClient(client_config(self.settings))
        topic, latest = lane_topic(queue, Lane.NORMAL), OffsetSpec.latest()  # type: ignore[no-untyped-call]
        slots = [(topic, number) for number in range(self.settings.partitions)]
        # The topic may have been made just now, and have no leaders yet.
        return sum(offsets(admin, slots, latest, patience=LEADER_SECONDS).values())

    def completed(self) -> int:
        """Tasks with that status in Redis. Raises `Unavailable` once one has failed."""
        pipeline = self.redis.pipeline(transaction=False)
        completed, failed = pipeline.zcard(COMPLETED).zcard(FAILED).execute()
        if failed:
            raise Unavailable(f"a task failed: {self._failure()}")
        return int(completed)

    def _failure(self) -> str:
        task_id = self.redis.zrange(FAILED, 0, 0)[0]
        return " ".join(filter(None, self.redis.hmget(f"mayfly:task:{task_id}", "errorType", "errorMessage")))

    def take(self) -> list[float]:
        """Of each task that was completed since the last call, when its sandbox was made: seconds on
        CLOCK_BOOTTIME. Each names its result in S3; as many as `READ` are read, and are what Redis shows."""
        ids = [one for one in self.redis.zrange(COMPLETED, 0, -1) if one not in self._taken]
        self._taken.update(ids)
        pipeline = self.redis.pipeline(transaction=False)
        for task_id in ids:
            pipeline.hmget(f"mayfly:task:{task_id}", "resultKey", "result")
        found = pipeline.execute()
        assert all(key for key, _ in found)
        asyncio.run(_compare(self.settings, found[:: max(1, len(found) // READ)]))
        return [int(result) / TICKS for _, result in found]

    def use_store(self, count: int) -> None:
        """Puts so many objects into S3, and reads each fourth: a JVM that has compiled what it runs for
        writes alone compiles it anew after the first reads."""
        asyncio.run(_use(self.settings, count))

    def check_results(self) -> None:
        """Where S3 is the stack's own, the objects can be counted: one for each completed task."""
        folder = self.stack.directory / "s3" / "data" / self.settings.s3_bucket / "results"
        objects = sum(len(files) for _, _, files in os.walk(folder))
        completed = self.redis.zcard(COMPLETED)
        assert objects >= completed, f"{completed} tasks are COMPLETED, {objects} results are in S3"

    @property
    def gateway_mib(self) -> float:
        return resident_mib(self.stack.part(self.url))

    def copies(self, isolation: str, count: int) -> list[str]:
        """So many functions more, of the same image and queue: only the catalog sees that they are others."""
        names = [f"bench-{isolation}-{number}" for number in range(count)]
        asyncio.run(_publish(self.settings, f"bench-{isolation}", names))
        return names

    # --- the peers, and processes

    def redis_for_peers(self) -> str:
        """Its URL, without a database: a server of their own that keeps nothing on disk."""
        if self._peers is None:
            port = self.port("peers-redis")
            command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            self._running.enter_context(self.program("peers-redis", command, listens=port))
            self._peers = f"redis://127.0.0.1:{port}"
        return self._peers

    def port(self, name: str) -> int:
        return Home(self.directory).port(name, None)

    def program(
        self,
        name: str,
        command: Sequence[str],
        variables: Mapping[str, str] | None = None,
        *,
        listens: int | None = None,
        kill: bool = False,
    ) -> Program:
        own = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        log = self.directory / f"{name}.log"
        return Program(command, log, {**own, **(variables or {})}, listens=listens, kill=kill)


@contextmanager
def arena() -> Iterator[Arena]:
    with own_stack("bench", dispatchers=0) as stack, ExitStack() as running:
        made = Arena(stack, running)
        made.start()
        yield made


async def _compare(settings: Settings, found: Sequence[tuple[str, str]]) -> None:
    blobs, at_once = Blobs(settings), asyncio.Semaphore(AT_ONCE)

    async def one(key: str, result: str) -> None:
        async with at_once:
            stored = await blobs.get(key)
        assert stored.decode() == result, f"{key} is {stored!r} in S3 and {result!r} in Redis"

    await asyncio.gather(*(one(key, result) for key, result in found))


async def _use(settings: Settings, count: int) -> None:
    blobs, numbers = Blobs(settings), iter(range(count))

    async def some() -> None:
        for number in numbers:
            await blobs.put(f"run-in/{number}", b"0", JSON)
            if number % 4 == 0:
                await blobs.get(f"run-in/{number}")

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def _publish(settings: Settings, original: str, names: Sequence[str]) -> None:
    catalog, log = Catalog(settings), Log(settings)
    await log.start()
    await catalog.start()
    function = catalog.get(original)
    assert function is not None
    for name in names:
        await publish(log, msgspec.structs.replace(function, name=name))
    await catalog.close()
    await log.close()
