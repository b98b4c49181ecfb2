"""Redis is disposable: flushed, or set back to an earlier day, it is written anew from the log.

On parts of their own, since a flush is everybody's.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import docker
import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from dispatcher.housekeeping import Housekeeping
from mayfly.adapters.kafka import DEAD_LETTER_TOPIC, Log, events_topic, replay
from mayfly.adapters.kafka_catalog import publish
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.build import build
from mayfly.client import Client
from mayfly.errors import BlobNotFound
from mayfly.events import Claimed, Deferred, Event, Purpose, decode_event
from mayfly.function import Function
from mayfly.history import History
from mayfly.task import RetryPolicy, Status
from tests.conftest import LiveStack, launch
from tests.e2e.conftest import PATIENCE, Fleet
from tests.web import WEB

HANDLER = """\
def handler(event, context):
    print("attempt", context.attempt)
    if context.attempt <= event.get("failures", 0):
        raise ValueError("not yet")
    return "x" * event.get("size", 3)
"""
LARGE = 100_000
"""Bytes of a result that is in S3 alone."""
KEY = "order 7"
TINY_DAYS = 0.00001
"""0.9 s."""
Snapshot = dict[str, Any]


@pytest.fixture(scope="module")
def stack_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    base = tmp_path_factory.mktemp("flushed")
    stack = launch("parts", base / "stack", base / "functions", variables={})
    try:
        yield stack.until_up()
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def fickle_image(docker_engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Function:
    folder = tmp_path_factory.mktemp("functions") / "fickle"
    folder.mkdir()
    (folder / "handler.py").write_text(HANDLER)
    return build(folder, docker_engine, on_progress=lambda _: None)


@pytest.fixture
async def fickle(fleet: Fleet, fickle_image: Function) -> Function:
    """Fails in its first `failures` attempts, then returns `size` characters; deployed."""
    function = msgspec.structs.replace(fickle_image, queue=fleet.settings.queue)
    log = Log(fleet.settings)
    await log.start()
    await publish(log, function)
    await log.close()
    return function


@pytest.fixture
async def redis(fleet: Fleet) -> AsyncIterator["Redis[str]"]:
    """Empty, as the parts are new to each test: an earlier test's queue has no dispatcher any more."""
    async with Redis.from_url(fleet.settings.redis.get_secret_value(), decode_responses=True) as redis:
        yield redis


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        await asyncio.sleep(0.05)


async def last_events(fleet: Fleet) -> dict[str, tuple[str, Event]]:
    """Each task's last event that readers see: its position, and what it is."""
    found: dict[str, tuple[str, Event]] = {}
    partitions = range(fleet.settings.partitions)
    histories = [History(number) for number in partitions]
    topic = events_topic(fleet.settings.queue)
    async for batch in replay(fleet.settings, [(topic, number) for number in partitions]):
        for entry in batch:
            event = decode_event(entry.value)
            assert event is not None
            if histories[entry.partition].change(entry.offset, event, entry.timestamp) is not None:
                found[event.task_id] = (f"{entry.partition}:{entry.offset}", event)
    return found


def lets_wait(event: Event) -> bool:
    return isinstance(event, Deferred) or (isinstance(event, Claimed) and event.purpose is Purpose.DEFER)


async def snapshot(redis: "Redis[str]") -> Snapshot:
    """All that Redis knows of tasks. Marks are new ones each time; live logs are gone after a while."""
    found: Snapshot = {}
    async for key in redis.scan_iter("mayfly:*"):
        if key.startswith("mayfly:task:"):
            found[key] = await redis.hgetall(key)
        elif key.startswith(("mayfly:tasks", "mayfly:dead-letters")):
            found[key] = await redis.zrange(key, 0, -1, withscores=True)
        elif key.startswith("mayfly:idempotency:"):
            found[key] = await redis.get(key)
    return found


class Tasks:
    """Tasks of all kinds, each at rest."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.keyed = client.submit("fickle", {}, idempotency_key=KEY).task_id
        self.completed = [
            client.submit("fickle", {"size": LARGE}, tags=["large"]).task_id,
            client.submit("fickle", {}, name="n", tags=["a", "b"], idempotent=False).task_id,
            client.submit("fickle", {"failures": 1}, retry=RetryPolicy(2, initial_delay=0)).task_id,
        ]
        self.failed = [
            client.submit("fickle", {"failures": 9}, retry=RetryPolicy(1)).task_id,
            client.submit("fickle", {"failures": 9}, retry=RetryPolicy(2, initial_delay=0)).task_id,
        ]
        self.scheduled = client.submit("fickle", {}, delay=3600).task_id
        self.retrying = client.submit(
            "fickle", {"failures": 9}, retry=RetryPolicy(2, initial_delay=86_400, max_delay=86_400)
        ).task_id
        self.cancelled = client.submit("fickle", {}, delay=3600).task_id

    @property
    def all(self) -> list[str]:
        done = [self.keyed, *self.completed, *self.failed]
        return [*done, self.scheduled, self.retrying, self.cancelled]

    async def at_rest(self, fleet: Fleet, redis: "Redis[str]") -> None:
        self.client.cancel(self.cancelled)
        for task_id in (self.keyed, *self.completed):
            assert self.client.wait(task_id, PATIENCE).status is Status.COMPLETED
        for task_id in self.failed:
            assert self.client.wait(task_id, PATIENCE).status is Status.FAILED
        assert self.client.wait(self.cancelled, PATIENCE).status is Status.CANCELLED

        async def shown() -> bool:
            events = await last_events(fleet)
            waiting = (self.scheduled, self.retrying)
            if not all(task_id in events and lets_wait(events[task_id][1]) for task_id in waiting):
                return False
            positions = [await redis.hget(f"mayfly:task:{task_id}", "position") for task_id in self.all]
            return positions == [events[task_id][0] for task_id in self.all]

        await until(shown, "all that was told is shown")


class Reader(threading.Thread):
    """Asks for everything, again and again, and keeps what was answered otherwise than before."""

    def __init__(self, url: str, tasks: Tasks) -> None:
        super().__init__()
        self._http = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False)
        lists = [
            "/tasks",
            "/tasks?status=COMPLETED",
            "/tasks?taskType=fickle",
            "/tasks?tag=a",
            "/dead-letters",
        ]
        self._paths = [*(f"/tasks/{task_id}" for task_id in tasks.all), *lists]
        self._keyed = tasks.keyed
        self._before = {path: self._http.get(path) for path in self._paths}
        assert {answer.status_code for answer in self._before.values()} == {200}
        self._ended = threading.Event()
        self.refused = threading.Event()
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self._ended.is_set():
            for path in self._paths:
                self._look(path, self._http.get(path), 200, self._before[path].json())
            same = {"taskId": self._keyed, "status": "COMPLETED"}
            self._look("the same key and body", self._post({}), 202, same)
            self._look("the same key, another body", self._post({"size": 4}), 409, None)

    def _post(self, payload: object) -> httpx.Response:
        body = {"taskType": "fickle", "payload": payload}
        return self._http.post("/tasks", json=body, headers={"idempotency-key": KEY})

    def _look(self, what: str, answer: httpx.Response, status: int, body: Any) -> None:
        if answer.status_code == 503 and answer.json()["code"] == "read_model_unavailable":
            self.refused.set()
        elif answer.status_code != status or (body is not None and answer.json() != body):
            self.wrong.append(f"{what}: {answer.status_code} {answer.text}")

    def end(self) -> None:
        self._ended.set()
        self.join()
        # Once more, when all is there: nothing is refused any more.
        self.refused.clear()
        self._ended.clear()
        for path in self._paths:
            self._look(path, self._http.get(path), 200, self._before[path].json())
        assert not self.refused.is_set()
        assert self.wrong == []
        self._http.close()


async def complete(client: Client) -> bool:
    return client.rebuild_state().complete


@pytest.mark.timeout(600)
async def test_a_flush_shows_nobody_less_than_there_was_and_everything_comes_back(
    fleet: Fleet, fickle: Function, redis: "Redis[str]"
) -> None:
    await redis.flushall()
    client = fleet.gateway()
    fleet.dispatchers(2)
    tasks = Tasks(client)
    await tasks.at_rest(fleet, redis)
    before = await snapshot(redis)
    assert len([key for key in before if key.startswith("mayfly:task:")]) == len(tasks.all)
    assert {task_id for task_id, _ in before["mayfly:dead-letters"]} == set(tasks.failed)
    reader = Reader(client.url, tasks)
    reader.start()
    try:
        await redis.flushall()
        await until(lambda: asyncio.to_thread(reader.refused.wait, 0), "the flush is noticed")
        await until(lambda: complete(client), "all is written anew")
    finally:
        reader.end()
    assert await snapshot(redis) == before
    assert len(fleet.attempts().claims[tasks.keyed]) == 1, "it ran once"
    assert client.cancel(tasks.scheduled).task_id == tasks.scheduled
    assert client.wait(tasks.scheduled, PATIENCE).status is Status.CANCELLED, "what waits is alive"


@pytest.mark.timeout(600)
async def test_a_rebuild_by_hand_ends_where_it_began(
    fleet: Fleet, fickle: Function, redis: "Redis[str]"
) -> None:
    await redis.flushall()
    client = fleet.gateway()
    fleet.dispatchers(1)
    tasks = Tasks(client)
    await tasks.at_rest(fleet, redis)
    before = await snapshot(redis)
    # A rebuild mends what somebody has broken, too.
    await redis.delete(f"mayfly:task:{tasks.completed[0]}", "mayfly:tasks:status:COMPLETED")
    assert fleet.settings.queue in client.rebuild().queues
    await until(lambda: complete(client), "all is written anew")
    assert await snapshot(redis) == before


@pytest.mark.timeout(600)
async def test_a_redis_that_comes_back_older_is_noticed_and_mended(
    fleet: Fleet, fickle: Function, redis: "Redis[str]"
) -> None:
    await redis.flushall()
    client = fleet.gateway()
    fleet.dispatchers(1)
    early = client.submit("fickle", {}, delay=3600).task_id
    await until(lambda: _is(redis, early, "SCHEDULED"), "it is shown")
    marks, task = f"mayfly:positions:{fleet.settings.queue}", f"mayfly:task:{early}"

    async def all_marked() -> bool:
        return bool(await redis.hlen(marks) == fleet.settings.partitions)

    await until(all_marked, "every partition is marked")
    raw = Redis.from_url(fleet.settings.redis.get_secret_value())
    backup = {key: await raw.dump(key) for key in (marks, task, "mayfly:tasks:status:SCHEDULED")}
    client.cancel(early)
    assert client.wait(early, PATIENCE).status is Status.CANCELLED
    now = {"marks": await redis.hgetall(marks)}

    async def marked_since() -> bool:
        now["marks"] = await redis.hgetall(marks)
        partition = (await redis.hget(task, "position") or "").partition(":")[0]
        return now["marks"] != await _restored(raw, backup[marks], partition)

    await until(marked_since, "the cancel is marked")
    after = await redis.hgetall(task)
    await redis.delete("mayfly:tasks:status:CANCELLED", "mayfly:tasks:ended")
    for key, value in backup.items():
        await raw.restore(key, 0, value, replace=True)
    assert (await redis.hgetall(task))["status"] == "SCHEDULED"
    await until(lambda: _is(redis, early, "CANCELLED"), "the loss is noticed")
    await until(lambda: complete(client), "all is written anew")
    assert await redis.hgetall(task) == after
    assert await redis.zscore("mayfly:tasks:status:SCHEDULED", early) is None
    assert await redis.zscore("mayfly:tasks:status:CANCELLED", early) is not None
    assert await redis.zscore("mayfly:tasks:ended", early) is not None
    await raw.aclose()


async def _is(redis: "Redis[str]", task_id: str, status: str) -> bool:
    found = await redis.hmget(f"mayfly:task:{task_id}", "status", "position")
    return found[0] == status and found[1] is not None


async def _restored(raw: Redis, value: bytes, partition: str) -> dict[str, str]:
    """What a dump holds."""
    await raw.restore("test:marks", 0, value, replace=True)
    found = await raw.hgetall("test:marks")
    await raw.delete("test:marks")
    return {key.decode(): mark.decode() for key, mark in found.items()}


# --- housekeeping


@pytest.mark.timeout(600)
async def test_what_ended_long_ago_is_swept_dead_letters_later_and_a_swept_key_is_free(
    fleet: Fleet, fickle: Function, redis: "Redis[str]"
) -> None:
    await redis.flushall()
    client = fleet.gateway()
    fleet.dispatchers(1)
    tasks = Tasks(client)
    await tasks.at_rest(fleet, redis)
    fields = {task_id: await redis.hgetall(f"mayfly:task:{task_id}") for task_id in tasks.all}
    ended = [tasks.keyed, *tasks.completed, tasks.cancelled]
    objects = [
        key for task_id in ended for name, key in fields[task_id].items() if name in ("resultKey", "logKey")
    ]
    letters = [fields[task_id]["logKey"] for task_id in tasks.failed]
    read_model, blobs, log = ReadModel(fleet.settings), Blobs(fleet.settings), Log(fleet.settings)
    await log.start()

    async def until_swept(count: int, **days: float) -> None:
        house = Housekeeping(read_model, blobs, Letters(log), upload_hours=24, **days)
        swept = 0

        async def done() -> bool:
            nonlocal swept
            swept += await house.sweep()
            return swept == count

        await until(done, f"{count} tasks are swept")

    await until_swept(0, days=0, dead_letter_days=0)
    await until_swept(len(ended), days=TINY_DAYS, dead_letter_days=30)
    for task_id in ended:
        assert WEB.get(f"{client.url}/tasks/{task_id}").status_code == 404
    for key in objects:
        with pytest.raises(BlobNotFound):
            await blobs.get(key)
    left = {task["taskId"] for task in _list(client, "/tasks")}
    assert left == {*tasks.failed, tasks.scheduled, tasks.retrying}
    assert {task["taskId"] for task in _list(client, "/dead-letters")} == set(tasks.failed)
    for key in letters:
        assert await blobs.get(key)

    again = client.submit("fickle", {"size": 5}, idempotency_key=KEY)
    assert again.task_id == tasks.keyed
    assert client.result(again.task_id, PATIENCE) == "xxxxx", "a swept key is free for another request"

    await until_swept(len(tasks.failed), days=0, dead_letter_days=TINY_DAYS)
    assert _list(client, "/dead-letters") == []
    for key in letters:
        with pytest.raises(BlobNotFound):
            await blobs.get(key)
    last: dict[str, bytes | None] = {}
    async for batch in replay(fleet.settings, [(DEAD_LETTER_TOPIC, 0)]):
        last |= {entry.key: entry.value for entry in batch}
    assert {last.get(task_id, b"") for task_id in tasks.failed} == {None}, "their records are gone too"
    await log.close()
    await read_model.close()


class Letters:
    """The dead letters' topic."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def append_dead_letter(self, task_id: str, value: bytes | None) -> None:
        await self._log.append(DEAD_LETTER_TOPIC, value, key=task_id)


def _list(client: Client, path: str) -> list[dict[str, Any]]:
    answer = WEB.get(f"{client.url}{path}", params={"limit": "200"})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["tasks"]
    return found
