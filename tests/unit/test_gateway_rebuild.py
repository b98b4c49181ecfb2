"""While the read model has not all that the log has, reads are told to come again; others go on."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

import httpx
import pytest
from gateway_world import PARTITIONS, World, check_problem

from gateway.completeness import TRUSTED_SECONDS, UNUSED_SECONDS, Completeness
from mayfly.errors import ReadModelUnavailable

ID = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"
QUEUES = ("default", "big")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    # As it is when it is new: no dispatcher has told anything yet.
    world.read_model.marks.clear()
    async with world.http:
        yield world


def flush(world: World) -> None:
    world.read_model.marks.clear()
    world.read_model.hashes.clear()
    world.read_model.letters.clear()
    world.read_model.reservations.clear()


def rebuild(world: World) -> None:
    world.read_model.marks = dict.fromkeys(QUEUES, PARTITIONS)


async def post_keyed(world: World) -> httpx.Response:
    body = {"taskType": "echo", "payload": None}
    return await world.http.post("/tasks", json=body, headers={"idempotency-key": "order 7"})


# --- reading after a flush ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        f"/tasks/{ID}",
        f"/tasks/{ID}?wait=5",
        f"/tasks/{ID}/result",
        f"/tasks/{ID}/logs",
        f"/tasks/{ID}/events",
        "/tasks",
        "/tasks?status=FAILED",
        "/dead-letters",
    ],
)
async def test_after_a_flush_no_read_says_that_there_is_nothing(world: World, path: str) -> None:
    world.commands.served.add("default")
    flush(world)
    answer = await world.http.get(path)
    check_problem(answer, 503, "read_model_unavailable", None)
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("path", [f"/tasks/{ID}/cancel", f"/tasks/{ID}/rerun"])
async def test_after_a_flush_a_task_is_not_taken_for_unknown(world: World, path: str) -> None:
    world.commands.served.add("default")
    check_problem(await world.http.post(path), 503, "read_model_unavailable", None)
    assert world.commands.records == []
    assert world.commands.events == []


@pytest.mark.parametrize("selection", [{"all": True}, {"taskIds": [ID]}])
@pytest.mark.parametrize("what", ["redrive", "purge"])
async def test_after_a_flush_no_dead_letter_is_taken_for_gone(
    world: World, what: str, selection: dict[str, object]
) -> None:
    world.commands.served.add("default")
    answer = await world.http.post(f"/dead-letters/{what}", json=selection)
    assert answer.status_code == 503 or {one["code"] for one in answer.json()["failed"]} == {
        "read_model_unavailable"
    }
    assert world.commands.purged == []


async def test_marks_that_were_seen_are_missed_without_asking_the_log(world: World) -> None:
    world.task(ID)
    rebuild(world)
    assert (await world.http.get(f"/tasks/{ID}")).status_code == 200
    world.commands.down = "Kafka is away"
    flush(world)
    check_problem(await world.http.get(f"/tasks/{ID}"), 503, "read_model_unavailable", None)


async def test_one_partition_without_its_mark_is_enough(world: World) -> None:
    world.commands.served.add("big")
    world.read_model.marks = {"default": PARTITIONS, "big": PARTITIONS - 1}
    check_problem(await world.http.get("/tasks"), 503, "read_model_unavailable", None)


async def test_a_key_waits_until_it_is_known_what_it_was_used_for(world: World) -> None:
    rebuild(world)
    assert (await post_keyed(world)).status_code == 202
    flush(world)
    check_problem(await post_keyed(world), 503, "read_model_unavailable", None)
    assert len(world.commands.records) == 1


async def test_a_task_without_a_key_is_accepted_meanwhile(world: World) -> None:
    world.commands.served.add("default")
    answer = await world.post()
    assert (answer.status_code, answer.json()["status"]) == (202, "QUEUED")
    assert len(world.commands.records) == 1


async def test_reads_go_on_when_every_partition_is_marked_again(world: World) -> None:
    world.commands.served.update(QUEUES)
    assert (await world.http.get(f"/tasks/{ID}")).status_code == 503
    rebuild(world)
    world.task(ID)
    assert (await world.http.get(f"/tasks/{ID}")).json()["taskId"] == ID


async def test_workers_are_read_all_the_same(world: World) -> None:
    world.commands.served.add("default")
    assert (await world.http.get("/workers")).status_code == 200


# --- a queue that is new ------------------------------------------------------------------------------------


async def test_a_new_queue_that_nobody_has_served_is_no_trouble(world: World) -> None:
    check_problem(await world.http.get(f"/tasks/{ID}"), 404, "unknown_task", None)
    assert (await world.http.get("/tasks")).json() == {"tasks": [], "nextCursor": None}
    assert (await post_keyed(world)).status_code == 202


async def test_a_queue_that_nobody_has_served_is_asked_about_again_after_a_while(world: World) -> None:
    assert (await world.http.get("/tasks")).status_code == 200
    world.commands.served.add("default")
    world.clock += UNUSED_SECONDS * 2
    # Reads go on while the log is asked.
    while (answer := await world.http.get("/tasks")).status_code == 200:
        await asyncio.sleep(0)
    check_problem(answer, 503, "read_model_unavailable", None)


async def test_while_the_log_cannot_tell_whether_anything_is_missing_reads_wait(world: World) -> None:
    world.commands.down = "Kafka is away"
    check_problem(await world.http.get("/tasks"), 503, "read_model_unavailable", None)


async def test_a_log_that_goes_away_closes_no_reads_that_were_open(world: World) -> None:
    world.read_model.marks = {"default": PARTITIONS}
    assert (await world.http.get("/tasks")).status_code == 200
    world.commands.down = "Kafka is away"
    world.clock += UNUSED_SECONDS * 2
    assert (await world.http.get("/tasks")).status_code == 200


class Marks:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.served = {"used"}
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.there = 0

    async def marked(self, queues: Iterable[str]) -> Mapping[str, int]:
        return dict.fromkeys(queues, self.there)

    async def unmark_all(self, queue: str) -> None:
        raise AssertionError

    async def was_served(self, queue: str) -> bool:
        self.asked.append(queue)
        await self.let_go.wait()
        return queue in self.served


def completeness_of(marks: Marks, now: list[float]) -> Completeness:
    return Completeness(
        marks,
        partitions=1,
        queues=lambda: ["used", "unused"],
        was_served=marks.was_served,
        clock=lambda: now[0],
    )


async def test_the_log_is_asked_once_about_a_used_queue_and_once_a_second_about_others() -> None:
    marks, now = Marks(), [0.0]
    completeness = completeness_of(marks, now)
    for _ in range(3):
        with pytest.raises(ReadModelUnavailable, match="used"):
            await completeness.require()
    assert sorted(marks.asked) == ["unused", "used"]
    now[0] += TRUSTED_SECONDS * 2
    assert await completeness.missing() == ["used"]
    assert sorted(marks.asked) == ["unused", "unused", "used"]


async def test_no_read_waits_for_the_log_to_say_again_that_a_queue_is_unused() -> None:
    marks, now = Marks(), [0.0]
    completeness = completeness_of(marks, now)
    await completeness.missing()
    marks.let_go = asyncio.Event()
    now[0] += UNUSED_SECONDS * 2
    assert await completeness.missing() == ["used"]
    assert await completeness.missing() == ["used"]
    marks.served.add("unused")
    marks.let_go.set()
    while len(await completeness.missing()) < 2:
        await asyncio.sleep(0)
    assert marks.asked.count("unused") == 2


async def test_who_waits_for_the_log_waits_for_the_one_answer() -> None:
    marks = Marks()
    completeness = completeness_of(marks, [0.0])
    marks.let_go = asyncio.Event()
    waiting = [asyncio.create_task(completeness.missing()) for _ in range(3)]
    while len(marks.asked) < 2:
        await asyncio.sleep(0)
    waiting[0].cancel()
    marks.let_go.set()
    assert [await one for one in waiting[1:]] == [["used"], ["used"]]
    assert sorted(marks.asked) == ["unused", "used"]


async def test_a_queue_whose_first_marks_come_while_the_log_is_asked_lacks_nothing() -> None:
    marks = Marks()
    completeness = completeness_of(marks, [0.0])
    marks.let_go = asyncio.Event()
    missing = asyncio.create_task(completeness.missing())
    while len(marks.asked) < 2:
        await asyncio.sleep(0)
    marks.there = 1
    marks.let_go.set()
    assert await missing == []


# --- by hand ------------------------------------------------------------------------------------------------


async def test_a_rebuild_closes_reads_until_every_used_queue_is_told_anew(world: World) -> None:
    world.commands.served.add("default")
    rebuild(world)
    world.task(ID)
    assert (await world.http.get("/rebuild")).json() == {"complete": True, "queues": []}
    started = await world.http.post("/rebuild")
    assert (started.status_code, started.json()) == (202, {"complete": False, "queues": ["big", "default"]})
    assert (await world.http.get("/rebuild")).json() == started.json()
    check_problem(await world.http.get(f"/tasks/{ID}"), 503, "read_model_unavailable", None)
    world.read_model.marks["default"] = PARTITIONS
    assert (await world.http.get("/rebuild")).json() == {"complete": False, "queues": ["big"]}
    rebuild(world)
    assert (await world.http.get("/rebuild")).json() == {"complete": True, "queues": []}
    assert (await world.http.get(f"/tasks/{ID}")).status_code == 200


async def test_a_rebuild_of_nothing_is_complete_at_once(world: World) -> None:
    started = await world.http.post("/rebuild")
    assert (started.status_code, started.json()) == (202, {"complete": True, "queues": []})


async def test_a_rebuild_takes_no_parameters(world: World) -> None:
    check_problem(await world.http.post("/rebuild?queue=big"), 400, "invalid_parameter", "queue")
    check_problem(await world.http.get("/rebuild?queue=big"), 400, "invalid_parameter", "queue")


async def test_a_rebuild_cannot_begin_while_redis_is_away(world: World) -> None:
    world.read_model.down = "Redis is away"
    world.commands.served.add("default")
    check_problem(await world.http.post("/rebuild"), 503, "read_model_unavailable", None)
    check_problem(await world.http.get("/rebuild"), 503, "read_model_unavailable", None)
