"""The read model on a real Redis: written only forward, readable by whoever likes, and disposable."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import pytest
from msgspec.structs import replace
from pydantic import SecretStr
from redis.asyncio import Redis

from mayfly.adapters.redis import ReadModel
from mayfly.errors import ReadModelUnavailable
from mayfly.settings import Settings
from mayfly.task import Lane, Status, new_task_id
from mayfly.view import Change, QueuedTask, Reservation

DATABASE = "/9"
"""Of the session's Redis, and of these tests alone: a stack that runs beside them has another."""
SOON = 60.0
AT = 1_795_524_976_123
RESERVED = Reservation("00", 3, "default")
STATUSES = list(Status)


@pytest.fixture
async def url(settings: Settings) -> str:
    parts = urlsplit(settings.redis.get_secret_value())
    return urlunsplit(parts._replace(path=DATABASE))


@pytest.fixture
async def redis(url: str) -> AsyncIterator[Redis]:
    """What any other client sees."""
    async with Redis.from_url(url, decode_responses=True) as redis:
        await redis.flushdb()
        yield redis


@pytest.fixture
async def model(settings: Settings, url: str, redis: Redis) -> AsyncIterator[ReadModel]:
    model = ReadModel(settings.model_copy(update={"redis": SecretStr(url)}))
    yield model
    await model.close()


def task(
    task_id: str | None = None, *, at: int = AT, kind: str = "echo", tags: tuple[str, ...] = ()
) -> QueuedTask:
    return QueuedTask(
        task_id=task_id or new_task_id(),
        task_type=kind,
        queue="default",
        priority=Lane.NORMAL,
        partition=3,
        offset=17,
        created_at=at,
        payload_bytes=2,
        content_type="application/json",
        tags=tags,
    )


def change(one: QueuedTask, offset: int, status: Status, **fields: str) -> Change:
    # What every event that moves a task on does away with: see `mayfly.view`.
    removed = ("progress", "progressMessage")
    return Change(one.task_id, one.partition, offset, status, fields, removed)


async def write(model: ReadModel, *changes: Change, commands: tuple[QueuedTask, ...] = ()) -> None:
    await model.project(commands, changes)


async def indexes(redis: Redis, task_id: str) -> set[str]:
    """The sorted sets that the task is in, each with the score that it should have."""
    keys = [key async for key in redis.scan_iter("mayfly:tasks*")]
    found = {key.removeprefix("mayfly:") for key in keys if await redis.zscore(key, task_id) == AT}
    anywhere = {key.removeprefix("mayfly:") for key in keys if await redis.zscore(key, task_id) is not None}
    assert found == anywhere, "every index has the task under its createdAt"
    return found


# --- written only forward


async def test_a_queued_task_is_a_hash_of_texts_and_in_its_indexes(model: ReadModel, redis: Redis) -> None:
    one = QueuedTask(
        task_id=new_task_id(),
        task_type="thumbnail",
        queue="pictures",
        priority=Lane.HIGH,
        partition=5,
        offset=7,
        created_at=AT,
        payload_bytes=1234,
        content_type="image/jpeg",
        name="Ünïcödé",
        tags=("a", "b:c"),
        timeout_seconds=2.5,
    )
    await model.queued(one)
    assert await redis.hgetall(f"mayfly:task:{one.task_id}") == {
        "taskId": one.task_id,
        "taskType": "thumbnail",
        "queue": "pictures",
        "priority": "high",
        "status": "QUEUED",
        "command": "high:5:7",
        "createdAt": "2026-11-24T12:56:16.123Z",
        "contentType": "image/jpeg",
        "payloadBytes": "1234",
        "name": "Ünïcödé",
        "tags": '["a", "b:c"]',
        "timeoutSeconds": "2.5",
    }
    assert await indexes(redis, one.task_id) == {
        "tasks",
        "tasks:status:QUEUED",
        "tasks:type:thumbnail",
        "tasks:tag:a",
        "tasks:tag:b:c",
    }


async def test_the_indexes_follow_the_status(model: ReadModel, redis: Redis) -> None:
    one = task(tags=("t",))
    rest = {"tasks", "tasks:type:echo", "tasks:tag:t"}
    await model.queued(one)
    for offset, status in enumerate((Status.IN_PROGRESS, Status.RETRYING, Status.IN_PROGRESS, Status.FAILED)):
        await write(model, change(one, offset, status))
        assert await indexes(redis, one.task_id) == {*rest, f"tasks:status:{status}"}


@pytest.mark.parametrize("offset", [10, 9, 0])
async def test_a_position_that_was_written_already_or_is_older_changes_nothing(
    model: ReadModel, redis: Redis, offset: int
) -> None:
    one = task()
    await model.queued(one)
    await write(model, change(one, 10, Status.IN_PROGRESS, attempt="2", dispatcher="new"))
    before = await redis.hgetall(f"mayfly:task:{one.task_id}")
    await write(model, change(one, offset, Status.COMPLETED, attempt="1", dispatcher="old"))
    assert await redis.hgetall(f"mayfly:task:{one.task_id}") == before
    assert before["position"] == "3:10"
    assert "tasks:status:COMPLETED" not in await indexes(redis, one.task_id)


async def test_positions_are_compared_as_numbers(model: ReadModel) -> None:
    one = task()
    await model.queued(one)
    await write(model, change(one, 9, Status.IN_PROGRESS), change(one, 10, Status.COMPLETED))
    found = await model.get(one.task_id)
    assert found is not None
    assert (found["status"], found["position"]) == ("COMPLETED", "3:10")


@pytest.mark.parametrize("terminal", [status for status in STATUSES if status.terminal])
async def test_a_terminal_task_stays_as_it_is_whatever_comes(
    model: ReadModel, redis: Redis, terminal: Status
) -> None:
    one = task()
    await model.queued(one)
    await write(model, change(one, 5, terminal, attempt="1"))
    before = await redis.hgetall(f"mayfly:task:{one.task_id}")
    later = [change(one, 6 + number, status, attempt="9") for number, status in enumerate(STATUSES)]
    await write(model, *later)
    assert await redis.hgetall(f"mayfly:task:{one.task_id}") == before


async def test_a_task_that_is_shown_as_queued_late_does_not_go_back(model: ReadModel, redis: Redis) -> None:
    """The gateway's first QUEUED races the dispatcher, and may come last."""
    one = task(tags=("t",))
    await write(
        model, change(one, 4, Status.IN_PROGRESS, attempt="1"), change(one, 5, Status.COMPLETED, result="1")
    )
    assert await model.get(one.task_id) is None, "half of a task is not shown"
    await model.queued(one)
    found = await model.get(one.task_id)
    assert found is not None
    assert (found["status"], found["result"], found["taskType"]) == ("COMPLETED", "1", "echo")
    assert await indexes(redis, one.task_id) == {
        "tasks",
        "tasks:status:COMPLETED",
        "tasks:type:echo",
        "tasks:tag:t",
    }


async def test_writing_the_same_again_changes_nothing(model: ReadModel, redis: Redis) -> None:
    one = task(tags=("t",))
    changes = [change(one, 4, Status.IN_PROGRESS, attempt="1"), change(one, 5, Status.FAILED, attempt="1")]
    await write(model, *changes, commands=(one,))
    before = await redis.hgetall(f"mayfly:task:{one.task_id}"), await indexes(redis, one.task_id)
    await write(model, *changes, commands=(one,))
    assert (await redis.hgetall(f"mayfly:task:{one.task_id}"), await indexes(redis, one.task_id)) == before


async def test_each_change_of_a_status_is_told_once(model: ReadModel) -> None:
    one = task()
    subscribed, told = asyncio.Event(), []

    async def listen() -> None:
        async for task_id, status in model.changes():
            if not task_id:
                subscribed.set()
            elif task_id == one.task_id:
                told.append(status)
                if status == "COMPLETED":
                    return

    async with asyncio.timeout(SOON), asyncio.TaskGroup() as group:
        group.create_task(listen())
        await subscribed.wait()
        await model.queued(one)
        await model.queued(one)
        claimed = change(one, 1, Status.IN_PROGRESS)
        await write(model, claimed, claimed, change(one, 2, Status.COMPLETED))
    assert told == ["QUEUED", "IN_PROGRESS", "COMPLETED"]


# --- progress


async def test_progress_is_shown_for_the_fence_that_runs_and_gone_when_it_has_ended(model: ReadModel) -> None:
    one = task()
    await model.queued(one)
    await model.progress(one.task_id, 4, 0.5, "before it runs")
    await write(model, change(one, 4, Status.IN_PROGRESS, fence="4"))
    await model.progress(one.task_id, 3, 0.9, "of one that was taken over")
    found = await model.get(one.task_id)
    assert found is not None
    assert "progress" not in found
    await model.progress(one.task_id, 4, 0.25, "a quarter")
    found = await model.get(one.task_id)
    assert found is not None
    assert (found["progress"], found["progressMessage"]) == ("0.25", "a quarter")
    await write(model, change(one, 5, Status.COMPLETED, fence="4"))
    await model.progress(one.task_id, 4, 0.75, "after its end")
    found = await model.get(one.task_id)
    assert found is not None
    assert not {"progress", "progressMessage"} & found.keys()


async def test_a_takeover_starts_without_the_progress_of_the_attempt_before(model: ReadModel) -> None:
    one = task()
    await model.queued(one)
    await write(model, change(one, 4, Status.IN_PROGRESS, fence="4"))
    await model.progress(one.task_id, 4, 0.9, "nearly")
    await write(model, change(one, 5, Status.IN_PROGRESS, fence="5"))
    found = await model.get(one.task_id)
    assert found is not None
    assert "progress" not in found


# --- marks


async def test_a_mark_is_moved_only_from_the_one_that_was_there(model: ReadModel) -> None:
    assert await model.mark("default", 3, "", "a")
    assert await model.mark("default", 3, "a", "b")
    assert not await model.mark("default", 3, "a", "c"), "another owner was here, or Redis came back older"
    assert await model.marks("default") == {3: "b"}
    assert await model.mark("default", 3, "a", "b"), "what was written, its answer lost, may be written again"


async def test_a_flushed_redis_shows_in_every_partition_that_is_marked(
    model: ReadModel, redis: Redis
) -> None:
    for partition in range(3):
        assert await model.mark("default", partition, "", "a")
    assert await model.marked(["default", "other"]) == {"default": 3, "other": 0}
    await redis.flushdb()
    assert await model.marked(["default"]) == {"default": 0}
    assert not await model.mark("default", 0, "a", "b")


async def test_a_mark_that_is_taken_away_is_missed(model: ReadModel) -> None:
    for partition in range(3):
        await model.mark("default", partition, "", "a")
    await model.begin_rebuild("default", 1, "token")
    assert await model.marks("default") == {0: "a", 2: "a"}
    await model.unmark_all("default")
    assert await model.marks("default") == {}


async def test_each_queue_has_marks_of_its_own(model: ReadModel) -> None:
    await model.mark("one", 0, "", "a")
    await model.mark("two", 0, "", "b")
    assert (await model.marks("one"), await model.marks("two")) == ({0: "a"}, {0: "b"})


async def test_a_partition_that_is_being_rebuilt_does_not_count_as_told(model: ReadModel) -> None:
    await model.mark("default", 0, "", "a")
    await model.mark("default", 1, "", "a")
    await model.begin_rebuild("default", 1, "token")
    assert await model.marked(["default", "none"]) == {"default": 1, "none": 0}
    assert not await model.end_rebuild("default", 1, "another", "b"), "something was lost meanwhile"
    assert await model.end_rebuild("default", 1, "token", "b")
    assert await model.end_rebuild("default", 1, "token", "b"), "its answer lost, it may be asked again"
    assert await model.marks("default") == {0: "a", 1: "b"}


async def test_a_flush_between_the_first_look_and_the_answer_is_no_empty_answer(
    model: ReadModel, redis: Redis
) -> None:
    one, looks = task(), []

    async def flushed_after_the_first_look() -> None:
        looks.append(None)
        if len(looks) % 2 == 0:
            raise ReadModelUnavailable("it is being rebuilt")
        await redis.flushdb()

    model.guard(flushed_after_the_first_look)
    for call in (
        lambda: model.get(one.task_id),
        lambda: model.list(),
        lambda: model.dead_letters(),
        lambda: model.dead_letter_ids(),
        lambda: model.has_dead_letter(one.task_id),
        lambda: model.reservation(one.task_id),
        lambda: model.reserve(one.task_id, RESERVED),
    ):
        await model.queued(one)
        with pytest.raises(ReadModelUnavailable, match="is being rebuilt"):
            await call()


# --- what is kept


async def test_the_first_command_of_a_task_is_the_one_that_is_shown(model: ReadModel, redis: Redis) -> None:
    first = task()
    await model.queued(first)
    before = await redis.hgetall(f"mayfly:task:{first.task_id}")
    await model.queued(replace(first, created_at=AT + 5, offset=99, name="again"))
    assert await redis.hgetall(f"mayfly:task:{first.task_id}") == before


async def test_what_ended_long_ago_is_found_and_all_of_it_removed(model: ReadModel, redis: Redis) -> None:
    done, failed, young = task(tags=("a",)), task(), task()
    for one, at, status in (
        (done, 1000, Status.COMPLETED),
        (failed, 1000, Status.FAILED),
        (young, 3000, Status.COMPLETED),
    ):
        await model.queued(one)
        key = {"resultKey": f"results/{one.task_id}/1-1"} if status is Status.COMPLETED else {}
        await write(model, change(one, 1, status, **key)._replace(ended_at=at))
    [old] = await model.ended_before(2000, 500, 10)
    assert (old.task_id, old.dead_letter) == (done.task_id, False)
    assert old.keys == (f"payloads/{done.task_id}", f"results/{done.task_id}/1-1")
    dead = [one.task_id for one in await model.ended_before(500, 2000, 10)]
    assert dead == [failed.task_id]
    await model.not_dead([failed.task_id])
    assert {one.task_id for one in await model.ended_before(2000, 0, 10)} == {done.task_id, failed.task_id}
    await model.remove([done.task_id, failed.task_id])
    assert await model.get(done.task_id) is None
    left = {key async for key in redis.scan_iter("mayfly:*") if await redis.type(key) == "zset"}
    members = {member for key in left for member in await redis.zrange(key, 0, -1)}
    assert members == {young.task_id}


async def test_a_task_whose_key_was_used_anew_is_not_removed_with_the_one_before(
    model: ReadModel, redis: Redis
) -> None:
    """Two dispatchers sweep the same, and a client is faster than the second."""
    one = task()
    await write(model, change(one, 1, Status.COMPLETED)._replace(ended_at=1000), commands=(one,))
    [old] = await model.ended_before(2000, 0, 10)
    await model.remove([old.task_id])
    await model.reserve(one.task_id, RESERVED)
    await model.queued(replace(one, created_at=AT + 5, offset=99))
    await model.remove([old.task_id])
    fields = await model.get(one.task_id)
    assert fields is not None
    assert fields["status"] == Status.QUEUED
    assert await model.reservation(one.task_id) == RESERVED


async def test_nothing_is_left_of_a_task_that_is_removed(model: ReadModel, redis: Redis) -> None:
    one, other = task(tags=("t",)), task(tags=("t",))
    await model.reserve(one.task_id, RESERVED)
    await write(
        model,
        change(one, 5, Status.FAILED)._replace(ended_at=AT),
        change(other, 5, Status.COMPLETED),
        commands=(one, other),
    )
    await model.append_log(one.task_id, 5, "at work")
    await model.remove([one.task_id, new_task_id()])
    left = [key async for key in redis.scan_iter(f"*{one.task_id}*")]
    assert left == []
    for key in [key async for key in redis.scan_iter("mayfly:*") if await redis.type(key) == "zset"]:
        assert await redis.zscore(key, one.task_id) is None, key
    assert await indexes(redis, other.task_id) >= {"tasks", "tasks:tag:t", "tasks:status:COMPLETED"}


async def test_a_redis_that_has_lost_the_scripts_is_given_them_again(model: ReadModel, redis: Redis) -> None:
    first, second = task(), task()
    await write(model, commands=(first,))
    await redis.script_flush()
    await model.project([second], [change(second, 1, Status.COMPLETED)])
    found = await model.get(second.task_id)
    assert found is not None
    assert found["status"] == "COMPLETED"


# --- lists


async def listed(model: ReadModel, limit: int = 50, **filters: str) -> list[str]:
    """The ids of a whole list, page by page."""
    ids: list[str] = []
    cursor: str | None = None
    while True:
        rows, cursor = await model.list(cursor=cursor, limit=limit, **filters)
        assert len(rows) <= limit
        ids += [row["taskId"] for row in rows]
        if cursor is None:
            return ids


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
async def test_a_list_is_newest_first_and_whole_however_it_is_paged(model: ReadModel, limit: int) -> None:
    # Three to a millisecond, so that pages end within one.
    tasks = [task(at=AT + number // 3) for number in range(20)]
    await model.queued(*tasks)
    order = sorted(tasks, key=lambda one: (one.created_at, one.task_id), reverse=True)
    assert await listed(model, limit) == [one.task_id for one in order]


async def test_more_tasks_than_a_page_reads_at_once_may_share_a_millisecond(model: ReadModel) -> None:
    tasks = [task() for _ in range(450)]
    await model.queued(*tasks)
    assert await listed(model, 100) == sorted((one.task_id for one in tasks), reverse=True)


async def test_what_is_queued_meanwhile_moves_no_page(model: ReadModel) -> None:
    tasks = [task(at=AT + number) for number in range(6)]
    await model.queued(*tasks)
    first, cursor = await model.list(limit=3)
    await model.queued(*(task(at=AT + 100 + number) for number in range(3)))
    second, _ = await model.list(limit=3, cursor=cursor)
    ids = [row["taskId"] for row in first + second]
    assert ids == [one.task_id for one in reversed(tasks)]


async def test_filters_narrow_a_list_alone_and_together(model: ReadModel) -> None:
    tasks = [
        task(at=AT + number, kind=kind, tags=tags)
        for number, (kind, tags) in enumerate(
            [("a", ("x",)), ("a", ("x", "y")), ("b", ("x",)), ("b", ()), ("a", ())]
        )
    ]
    await model.queued(*tasks)
    await write(model, *(change(tasks[number], 1, Status.COMPLETED) for number in (0, 1, 2)))

    async def found(**filters: str) -> list[int]:
        ids = [one.task_id for one in tasks]
        found = await listed(model, 50, **filters)
        assert await listed(model, 1, **filters) == found
        return [ids.index(task_id) for task_id in found]

    assert await found() == [4, 3, 2, 1, 0]
    assert await found(status="COMPLETED") == [2, 1, 0]
    assert await found(task_type="a") == [4, 1, 0]
    assert await found(tag="x") == [2, 1, 0]
    assert await found(status="QUEUED", task_type="a") == [4]
    assert await found(status="COMPLETED", task_type="a") == [1, 0]
    assert await found(status="COMPLETED", task_type="a", tag="y") == [1]
    assert await found(tag="nobody's") == []


@pytest.mark.parametrize("cursor", ["x", "////", "AAAA", "MTIz", "e30", "bmFuOmE", "aW5mOmE", "é", " "])
async def test_a_cursor_that_no_list_gave_is_refused(model: ReadModel, cursor: str) -> None:
    with pytest.raises(ValueError, match="the cursor is not one that a list gave"):
        await model.list(cursor=cursor)


# --- heartbeats


async def test_a_dispatcher_that_beats_no_more_is_gone_and_forgotten(model: ReadModel, redis: Redis) -> None:
    long = {"id": "long", "fences": ["3:7"], "slots": 2}
    await model.beat("long", long, life_seconds=600)
    await model.beat("short", {"id": "short", "fences": []}, life_seconds=0.05)
    async with asyncio.timeout(SOON):
        while await redis.exists("mayfly:dispatcher:short"):
            await asyncio.sleep(0.01)
    assert await model.dispatchers() == [long]
    assert await redis.smembers("mayfly:dispatchers") == {"long"}
    assert json.loads(await redis.get("mayfly:dispatcher:long") or "") == long


async def test_a_dispatcher_that_leaves_is_gone_at_once(model: ReadModel) -> None:
    one, two = {"id": "one", "fences": []}, {"id": "two", "fences": []}
    await model.beat("one", one, life_seconds=600)
    await model.beat("two", two, life_seconds=600)
    await model.leave("one")
    assert await model.dispatchers() == [two]
    await model.leave("two")
    assert await model.dispatchers() == []


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "no JSON",
        b"\xff",
        "[" * 100_000,
        "7",
        "[]",
        "{}",
        '{"id": "b"}',
        '{"id": "b", "fences": 1}',
        '{"id": "b", "fences": [[]]}',
        '{"id": "a", "fences": []}',
        '{"id": ["b"], "fences": []}',
    ],
)
async def test_what_is_no_heartbeat_is_passed_over(model: ReadModel, redis: Redis, junk: str | bytes) -> None:
    beats = [{"id": one, "fences": ["3:7"]} for one in ("a", "c")]
    for beat in beats:
        await model.beat(str(beat["id"]), beat, life_seconds=600)
    await redis.sadd("mayfly:dispatchers", "b", b"\xff")
    await redis.set("mayfly:dispatcher:b", junk)
    assert await model.dispatchers() == beats


# --- a Redis that is away


async def test_every_method_says_that_redis_is_away(settings: Settings) -> None:
    model = ReadModel(settings.model_copy(update={"redis": SecretStr("redis://127.0.0.1:1/0")}))
    one = task(str(uuid.uuid4()))
    calls = [
        model.ping(),
        model.queued(one),
        model.project([], [change(one, 1, Status.FAILED)]),
        model.mark("default", 0, "", "a"),
        model.begin_rebuild("default", 0, "token"),
        model.end_rebuild("default", 0, "token", "a"),
        model.marked(["default"]),
        model.append_log(one.task_id, 1, "text"),
        model.known(one.task_id),
        model.ended_before(1, 1, 1),
        model.remove([one.task_id]),
        anext(aiter(model.cancels())),
        model.progress(one.task_id, 1, 0.5, ""),
        model.marks("default"),
        model.get(one.task_id),
        model.list(),
        model.beat("one", {}, 1),
        model.leave("one"),
        model.dispatchers(),
        model.events_place("default"),
        model.events("default", "1-0", 1),
        model.trim_events(1),
        anext(aiter(model.changes())),
    ]
    for call in calls:
        with pytest.raises(ReadModelUnavailable, match="Redis does not answer"):
            await call
    await model.close()


# --- batches


async def test_a_batch_counts_its_tasks_by_status_whatever_order_they_are_told_in(
    model: ReadModel, redis: Redis
) -> None:
    batch, other = new_task_id(), new_task_id()
    first, second, third = (replace(task(), batch=batch) for _ in range(3))
    foreign = replace(task(), batch=batch, tenant="acme")
    await write(model, change(second, 1, Status.IN_PROGRESS))  # before its command
    await model.queued(first, second, third, foreign, replace(task(), batch=other))
    await write(model, change(first, 2, Status.COMPLETED), change(first, 1, Status.IN_PROGRESS))
    await model.queued(first)  # as a rebuild tells it again
    assert await model.batch("default", batch) == {
        first.task_id: "COMPLETED",
        second.task_id: "IN_PROGRESS",
        third.task_id: "QUEUED",
    }
    assert await model.batch("acme", batch) == {foreign.task_id: "QUEUED"}
    assert await model.batch("other", batch) == {}


async def test_a_batch_goes_with_its_tasks(model: ReadModel, redis: Redis) -> None:
    batch = new_task_id()
    for tenant in ("default", "acme"):
        one = replace(task(), batch=batch, tenant=tenant)
        await model.queued(one)
        ended = Change(one.task_id, one.partition, 5, Status.COMPLETED, {}, (), AT)
        await write(model, ended)
        assert await model.batch(tenant, batch) == {one.task_id: "COMPLETED"}
        await model.remove([one.task_id])
        assert await model.batch(tenant, batch) == {}
    assert [key async for key in redis.scan_iter("mayfly:batch*")] == []
