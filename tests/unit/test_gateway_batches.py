"""POST /tasks/batch and GET /batches/{id}: many tasks in one request, each for itself."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateway_world import World, check_problem

from gateway import items
from gateway.batches import Window
from gateway.models_calls import Batch, BatchAnswer
from mayfly.task import keyed_id, part_id

NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


def lines(*tasks: Any) -> bytes:
    return b"\n".join(task if isinstance(task, bytes) else json.dumps(task).encode() for task in tasks)


def echo(payload: Any = None, **rest: Any) -> dict[str, Any]:
    return {"taskType": "echo", "payload": payload, **rest}


async def send(world: World, *tasks: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.http.post("/tasks/batch", content=lines(*tasks), headers=NDJSON | named)


async def test_every_item_has_its_own_answer_in_its_place(world: World) -> None:
    answer = await send(
        world,
        echo(1, tags=["a"]),
        b'{"taskType": "echo"',
        b"",
        echo(2) | {"taskType": "nobody"},
        {"taskType": "thumbnail", "payload": {"width": 0}},
        echo(3),
    )
    assert answer.status_code == 200
    said = BatchAnswer.model_validate(answer.json())
    assert (said.accepted, said.refused, said.stopped) == (2, 3, None)
    assert [item.status for item in said.items] == [202, 400, 422, 422, 202]
    problems = [(item.problem.code, item.problem.field) for item in said.items if item.problem]
    assert problems == [
        ("malformed_json", None),
        ("unknown_task_type", "taskType"),
        ("invalid_payload", "payload.width"),
    ]
    ids = [item.task.task_id for item in said.items if item.task]
    assert sorted(ids) == sorted(envelope.task_id for envelope in world.commands.envelopes)
    assert {envelope.batch for envelope in world.commands.envelopes} == {said.batch_id}
    task = (await world.http.get(f"/tasks/{ids[0]}")).json()
    assert (task["batch"], task["tags"]) == (said.batch_id, ["a"])


async def test_an_array_is_a_batch_too(world: World) -> None:
    body = [echo(1), 5, echo({"n": 2})]
    said = (await world.http.post("/tasks/batch", json=body)).json()
    assert [item["status"] for item in said["items"]] == [202, 422, 202]
    assert sorted(bytes(one.payload) for one in world.commands.envelopes) == [b"1", b'{"n":2}']


async def test_the_tasks_of_a_batch_are_counted_by_what_they_have_come_to(world: World) -> None:
    said = (await send(world, *(echo(number) for number in range(3)))).json()
    first = said["items"][0]["task"]["taskId"]
    world.read_model.hashes[first]["status"] = "FAILED"
    path = f"/batches/{said['batchId']}"
    assert (await world.http.get(path, params={"status": "FAILED"})).json()["taskIds"] == [first]
    check_problem(await world.http.get(f"{path}?status=x"), 400, "invalid_parameter", "status")
    found = Batch.model_validate((await world.http.get(path)).json())
    assert (found.tasks, found.ended) == (3, 1)
    assert {status: count for status, count in found.statuses.items() if count} == {"QUEUED": 2, "FAILED": 1}


@pytest.mark.parametrize("batch_id", ["nothing", "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"])
async def test_a_batch_that_there_is_not_is_a_404(world: World, batch_id: str) -> None:
    check_problem(await world.http.get(f"/batches/{batch_id}"), 404, "unknown_batch", None)


async def test_with_a_key_the_same_batch_makes_no_second_task(world: World) -> None:
    tasks = [echo(number) for number in range(3)]
    first = await send(world, *tasks, idempotency_key="import")
    again = await send(world, *tasks, idempotency_key="import")
    assert first.json() == again.json()
    assert len(world.commands.records) == 3
    ids = [item["task"]["taskId"] for item in first.json()["items"]]
    assert ids == [part_id("default", "import", str(index)) for index in range(3)]
    assert first.json()["batchId"] == part_id("default", "import", "batch")


async def test_an_item_that_is_another_one_than_before_is_refused_and_the_others_are_not(
    world: World,
) -> None:
    await send(world, echo(1), echo(2), idempotency_key="import")
    said = (await send(world, echo(1), echo(5), echo(3), idempotency_key="import")).json()
    assert [item["status"] for item in said["items"]] == [202, 409, 202]
    assert said["items"][1]["problem"]["taskId"] == part_id("default", "import", "1")


def test_no_key_of_a_task_names_a_task_of_a_batch() -> None:
    assert part_id("default", "import", "1") not in {
        keyed_id("default", key) for key in ("import", "import1", "import 1", "import/1", "1")
    }


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", NDJSON, 422, "invalid_body"),
        (b"\n \n", NDJSON, 422, "invalid_body"),
        (b"[]", {"content-type": "application/json"}, 422, "invalid_body"),
        (b"{}", {"content-type": "application/json"}, 422, "invalid_body"),
        (b"[1,", {"content-type": "application/json"}, 400, "malformed_json"),
        (b"[" * 5000, {"content-type": "application/json"}, 400, "too_deep"),
        (b"[]", {"content-type": "text/csv"}, 415, "unsupported_media_type"),
        (b"[" + b"1," * 10_000 + b"1]", {"content-type": "application/json"}, 413, "batch_too_large"),
    ],
)
async def test_a_body_that_is_no_batch_is_refused_as_a_whole(
    world: World, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await world.http.post("/tasks/batch", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def test_what_was_accepted_before_the_body_could_not_be_read_on_is_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "MAX_ITEMS", 2)
    said = (await send(world, echo(1), echo(2), echo(3))).json()
    assert [item["status"] for item in said["items"]] == [202, 202]
    assert said["stopped"]["code"] == "batch_too_large"


async def test_the_lines_are_bounded_together_and_each() -> None:
    world = World(batch_bytes=1000, payload_bytes=100)
    async with world.http:
        too_long = b'{"taskType": "echo", "payload": "' + b"x" * 17_000 + b'"}'
        check_problem(await send(world, echo(1), too_long), 413, "body_too_large", None)
    world = World(payload_bytes=100)
    async with world.http:
        large = echo("x" * 200)
        said = (await send(world, echo(1), too_long, large, echo(2))).json()
        assert [item["status"] for item in said["items"]] == [202, 413, 413, 202]


async def test_lines_are_put_together_from_whatever_pieces_they_come_in(world: World) -> None:
    body = lines(echo("ä" * 10), echo(2)) + b"\n"

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 3):
            yield body[at : at + 3]

    said = (await world.http.post("/tasks/batch", content=pieces(), headers=NDJSON)).json()
    assert [item["status"] for item in said["items"]] == [202, 202]


async def test_without_the_log_the_answer_names_those_that_may_run_and_tries_no_further_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.batches.AT_ONCE", 1)
    world.commands.down = "away"
    said = (await send(world, echo(1), echo(2), b"{", echo(3))).json()
    assert [item["status"] for item in said["items"]] == [503] * 4
    assert ["taskId" in item["problem"] for item in said["items"]] == [True, False, False, False]
    assert said["batchId"] is None


async def test_without_redis_a_batch_with_a_key_is_refused_as_a_whole(world: World) -> None:
    world.read_model.down = "away"
    answer = await send(world, echo(1), echo(2), idempotency_key="import")
    check_problem(answer, 503, "read_model_unavailable", None)
    assert (await send(world, echo(1), echo(2))).json()["accepted"] == 2


async def test_so_many_are_on_their_way_at_once_of_so_many_bytes() -> None:
    window = Window(2, 100)
    await window.enter(500)
    window.leave(500)
    await window.enter(60)
    entered = []

    async def enter(size: int) -> None:
        await window.enter(size)
        entered.append(size)

    async with asyncio.TaskGroup() as group:
        group.create_task(enter(50))
        await asyncio.sleep(0)
        assert entered == []
        window.leave(60)
    assert entered == [50]
