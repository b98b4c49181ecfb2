"""Two tenants' tasks in one Redis: apart in every list and at every end, also when it is written anew."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from msgspec.structs import replace
from pydantic import SecretStr
from redis.asyncio import Redis

from dispatcher.housekeeping import Housekeeping
from dispatcher.rebuild import Rebuild
from mayfly.adapters.kafka import DEAD_LETTER_TOPIC, Log, ensure_topics, events_topic, lane_topic, replay
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.events import Claimed, DeadLetter, Event, Finished
from mayfly.history import History
from mayfly.settings import Settings
from mayfly.task import (
    BlobRef,
    Envelope,
    Failure,
    FailureType,
    Lane,
    Outcome,
    Result,
    Status,
    encode,
    new_task_id,
)
from mayfly.view import Change, QueuedTask, queued

DATABASE = "/10"
"""Of the session's Redis, and of these tests alone."""
AT = 1_795_524_976_123
TENANTS = ("default", "acme", "zeta")


@pytest.fixture
async def own(settings: Settings) -> Settings:
    parts = urlsplit(settings.redis.get_secret_value())
    return settings.model_copy(update={"redis": SecretStr(urlunsplit(parts._replace(path=DATABASE)))})


@pytest.fixture
async def redis(own: Settings) -> AsyncIterator[Any]:
    async with Redis.from_url(own.redis.get_secret_value(), decode_responses=True) as redis:
        await redis.flushdb()
        yield redis


@pytest.fixture
async def model(own: Settings, redis: Any) -> AsyncIterator[ReadModel]:
    model = ReadModel(own)
    yield model
    await model.close()


def task(tenant: str, *, at: int = AT, kind: str = "echo", tags: tuple[str, ...] = ("t",)) -> QueuedTask:
    return QueuedTask(
        task_id=new_task_id(),
        task_type=kind,
        queue="default",
        priority=Lane.NORMAL,
        partition=3,
        offset=17,
        created_at=at,
        payload_bytes=2,
        content_type="application/json",
        tags=tags,
        tenant=tenant,
    )


def change(one: QueuedTask, offset: int, status: Status, **fields: str) -> Change:
    ended = AT if status.terminal else None
    return Change(one.task_id, one.partition, offset, status, {"fence": "1", **fields}, (), ended)


async def standing(redis: Any, task_id: str) -> set[str]:
    """The sorted sets that have it."""
    keys = [key async for key in redis.scan_iter("mayfly:*") if await redis.type(key) == "zset"]
    return {key.removeprefix("mayfly:") for key in keys if await redis.zscore(key, task_id) is not None}


async def listed(model: ReadModel, tenant: str, **filters: str) -> set[str]:
    rows, cursor = await model.list(tenant=tenant, **filters)
    assert cursor is None
    return {row["taskId"] for row in rows}


async def letters(model: ReadModel, tenant: str, **filters: str) -> set[str]:
    rows, _ = await model.dead_letters(tenant=tenant, **filters)
    ids = await model.dead_letter_ids(tenant=tenant, **filters)
    found = {row["taskId"] for row in rows}
    assert set(ids) == found
    return found


async def snapshot(redis: Any) -> dict[str, Any]:
    """All that Redis knows of tasks."""
    found: dict[str, Any] = {}
    async for key in redis.scan_iter("mayfly:*"):
        match await redis.type(key):
            case "hash":
                found[key] = await redis.hgetall(key)
            case "zset":
                found[key] = await redis.zrange(key, 0, -1, withscores=True)
            case "set":
                found[key] = await redis.smembers(key)
            case "string":
                found[key] = await redis.get(key)
    return found


# --- lists


async def test_each_list_has_the_tenants_own_tasks_whatever_it_is_filtered_by(model: ReadModel) -> None:
    tasks = {tenant: [task(tenant), task(tenant, kind="other", tags=())] for tenant in TENANTS}
    await model.queued(*(one for both in tasks.values() for one in both))
    await model.project([], [change(both[0], 1, Status.COMPLETED) for both in tasks.values()])
    for tenant, (one, other) in tasks.items():
        assert await listed(model, tenant) == {one.task_id, other.task_id}
        assert await listed(model, tenant, status="COMPLETED") == {one.task_id}
        assert await listed(model, tenant, status="QUEUED") == {other.task_id}
        assert await listed(model, tenant, task_type="echo") == {one.task_id}
        assert await listed(model, tenant, tag="t") == {one.task_id}
        assert await listed(model, tenant, tag="t", status="COMPLETED", task_type="echo") == {one.task_id}
    assert await listed(model, "nobody") == set()


async def test_a_cursor_of_one_tenants_list_shows_nothing_of_it_to_another(model: ReadModel) -> None:
    await model.queued(*(task("acme", at=AT + number) for number in range(4)), task("zeta", at=AT))
    _, cursor = await model.list(tenant="acme", limit=2)
    rows, _ = await model.list(tenant="zeta", cursor=cursor)
    assert [row["tenant"] for row in rows] == ["zeta"]


async def test_dead_letters_are_the_tenants_own_until_they_are_forgotten(
    model: ReadModel, redis: Any
) -> None:
    tasks = {tenant: task(tenant) for tenant in TENANTS}
    failed = [change(one, 1, Status.FAILED, errorType="Function.Error") for one in tasks.values()]
    await model.project(tasks.values(), failed)
    for tenant, one in tasks.items():
        assert await letters(model, tenant) == {one.task_id}
        assert await letters(model, tenant, task_type="echo", error_type="Function.Error") == {one.task_id}
        assert await letters(model, tenant, error_type="Function.Timeout") == set()
        assert await model.has_dead_letter(one.task_id)
    await model.forget_dead_letter(tasks["acme"].task_id)
    await model.not_dead([tasks["zeta"].task_id])
    assert [await letters(model, tenant) for tenant in TENANTS] == [{tasks["default"].task_id}, set(), set()]
    for tenant in ("acme", "zeta"):
        assert not await model.has_dead_letter(tasks[tenant].task_id)
        assert "tasks:ended" in await standing(redis, tasks[tenant].task_id)
        assert await listed(model, tenant, status="FAILED") == {tasks[tenant].task_id}


# --- the order in which it is told


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("end", [Status.FAILED, Status.COMPLETED, Status.IN_PROGRESS])
async def test_what_is_told_before_its_command_comes_to_the_same(
    model: ReadModel, redis: Any, tenant: str, end: Status
) -> None:
    one, later = task(tenant), task(tenant)
    courses = [[change(each, 1, Status.IN_PROGRESS), change(each, 2, end)] for each in (one, later)]
    await model.project([one], courses[0])
    await model.project([], courses[1])
    for other in TENANTS:
        assert later.task_id not in await listed(model, other), "half of a task is nobody's"
        assert later.task_id not in await letters(model, other) or other == "default"
    await model.queued(later)
    assert await standing(redis, later.task_id) == await standing(redis, one.task_id)
    at = "" if tenant == "default" else f"@{tenant}"
    assert {key for key in await standing(redis, later.task_id) if key.startswith("tasks")} >= {
        f"tasks{at}",
        f"tasks{at}:status:{end}",
        f"tasks{at}:type:echo",
        f"tasks{at}:tag:t",
    }


@pytest.mark.parametrize("first", TENANTS)
@pytest.mark.parametrize("second", TENANTS)
async def test_a_second_command_with_its_id_is_nobodys_way_to_a_task(
    model: ReadModel, redis: Any, first: str, second: str
) -> None:
    """Whoever writes into the topics may name any id, and any tenant."""
    one = task(first)
    await model.project([one], [change(one, 1, Status.FAILED)])
    before = await snapshot(redis)
    await model.queued(replace(one, tenant=second, created_at=AT + 1, tags=("mine",)))
    assert await snapshot(redis) == before


async def test_of_two_tenants_commands_the_first_counts_in_whatever_order_they_are_told(
    model: ReadModel, redis: Any
) -> None:
    """A rebuild reads a topic after the other."""
    for first, second in (("acme", "zeta"), ("default", "acme"), ("acme", "default")):
        one, other = task(first), task(first)
        for told, late in ((one, False), (other, True)):
            copy = replace(told, tenant=second, created_at=AT + 1, task_type="copied", tags=("mine",))
            await model.project([copy, told] if late else [told, copy], [change(told, 1, Status.FAILED)])
        assert await standing(redis, other.task_id) == await standing(redis, one.task_id)
        assert await listed(model, second, task_type="copied") == set()
        await redis.flushdb()


# --- the end


async def test_a_sweep_takes_every_tenants_old_tasks_and_leaves_nothing_of_them(
    model: ReadModel, redis: Any, own: Settings
) -> None:
    class Nothing:
        async def append_dead_letter(self, task_id: str, value: bytes | None) -> None:
            gone.append(task_id)

    gone: list[str] = []
    tasks = [task(tenant) for tenant in TENANTS for _ in range(3)]
    young = [task(tenant, at=AT + 1) for tenant in TENANTS]
    await model.project(
        [*tasks, *young],
        [change(one, 1, (Status.COMPLETED, Status.FAILED)[number % 2]) for number, one in enumerate(tasks)],
    )
    blobs = Blobs(own)
    await blobs.ensure_bucket()
    sweeper = Housekeeping(
        model,
        blobs,
        Nothing(),
        days=1,
        dead_letter_days=1,
        upload_hours=24,
        now=lambda: AT / 1000 + 2 * 86_400,
    )
    assert await sweeper.sweep() == len(tasks)
    assert set(gone) == {one.task_id for one in tasks[1::2]}
    for tenant, one in zip(TENANTS, young, strict=True):
        assert await listed(model, tenant) == {one.task_id}
        assert await letters(model, tenant) == set()
    for one in tasks:
        assert await standing(redis, one.task_id) == set()
        assert await redis.exists(f"mayfly:task:{one.task_id}") == 0


async def test_a_sweep_takes_no_more_at_once_than_it_was_told(model: ReadModel) -> None:
    tasks = [task(tenant) for tenant in TENANTS for _ in range(5)]
    ends = (Status.COMPLETED, Status.FAILED)
    await model.project(tasks, [change(one, 1, ends[number % 2]) for number, one in enumerate(tasks)])
    assert len(await model.ended_before(AT + 1, AT + 1, 4)) == 4
    assert len(await model.ended_before(AT + 1, AT + 1, 100)) == 15


async def test_a_letter_whose_task_is_gone_is_not_met_for_ever(model: ReadModel, redis: Any) -> None:
    one = task("acme")
    await model.project([one], [change(one, 1, Status.FAILED)])
    await redis.delete(f"mayfly:task:{one.task_id}")
    [old] = await model.ended_before(0, AT + 1, 10)
    assert (old.task_id, old.dead_letter) == (one.task_id, True)
    await model.remove([one.task_id])
    assert await model.ended_before(0, AT + 1, 10) == []


# --- written anew


class Tasks:
    """Tasks in the log, and in the read model as their dispatchers would have told it."""

    def __init__(self, settings: Settings, log: Log, model: ReadModel) -> None:
        self.settings, self.log, self.model = settings, log, model
        self.histories = [History(number) for number in range(settings.partitions)]

    async def end(self, tenant: str, outcome: Outcome | None) -> str:
        envelope = Envelope("echo", str(uuid.uuid4()), tags=("t",), tenant=tenant)  # type: ignore[arg-type]
        queue = self.settings.queue
        topic = lane_topic(queue, Lane.NORMAL)
        at = await self.log.append(topic, encode(envelope), key=envelope.task_id)
        place = {"partition": at.partition, "offset": at.offset, "at": at.timestamp}
        await self.model.queued(queued(envelope, queue=queue, lane=Lane.NORMAL, **place))
        claim = Claimed(envelope.task_id, Lane.NORMAL, at.offset, 1, "d", "n")
        fence = await self.append(claim, at.partition)
        if outcome is not None:
            await self.append(Finished(envelope.task_id, fence, 1, outcome), at.partition)
        if outcome is not None and outcome.failure is not None:
            letter = DeadLetter(envelope.task_id, queue, envelope, outcome.failure, AT)
            await self.log.append(DEAD_LETTER_TOPIC, encode(letter), key=envelope.task_id)
        return envelope.task_id

    async def append(self, event: Event, partition: int) -> int:
        topic = events_topic(self.settings.queue)
        at = await self.log.append(topic, encode(event), key=event.task_id, partition=partition)
        told = self.histories[partition].change(at.offset, event, at.timestamp)
        await self.model.project([], [told] if told else [])
        return at.offset


async def test_a_rebuild_after_a_flush_keeps_tenants_apart_as_before(
    own: Settings, model: ReadModel, redis: Any
) -> None:
    await ensure_topics(own)
    log = Log(own)
    await log.start()
    tasks = Tasks(own, log, model)
    broken = Outcome(AT, AT + 1, failure=Failure(FailureType.ERROR, "no"))
    done = Outcome(AT, AT + 1, Result(BlobRef("results/x", 2, "00")))
    ids = {
        tenant: [await tasks.end(tenant, outcome) for outcome in (None, done, broken)] for tenant in TENANTS
    }
    before = await snapshot(redis)
    await redis.flushdb()
    rebuild = Rebuild(
        lambda places: replay(own, places),
        model,
        queue=own.queue,
        lane_topics={lane: lane_topic(own.queue, lane) for lane in Lane},
        events_topic=events_topic(own.queue),
        dead_letter_topic=DEAD_LETTER_TOPIC,
    )
    for number in range(own.partitions):
        await rebuild.partition(number)
    await log.close()
    assert json.dumps(await snapshot(redis), sort_keys=True, default=sorted) == json.dumps(
        before, sort_keys=True, default=sorted
    )
    for tenant, own_ids in ids.items():
        assert await listed(model, tenant) == set(own_ids)
        assert await letters(model, tenant) == {own_ids[2]}
