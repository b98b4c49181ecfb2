"""Idempotency-Key: a task that is asked for twice is there once."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateway_world import World, check_problem

from mayfly.function import Function
from mayfly.settings import KIB
from mayfly.task import keyed_id


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


async def post(world: World, key: str = "order 7", **body: Any) -> httpx.Response:
    body = {"taskType": "echo", "payload": None, **body}
    return await world.http.post("/tasks", json=body, headers={"idempotency-key": key})


async def test_the_same_request_with_the_same_key_is_one_task(world: World) -> None:
    first, again = await post(world), await post(world)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json() == {"taskId": keyed_id("default", "order 7"), "status": "QUEUED"}
    assert first.headers["location"] == again.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(world.commands.records) == 1


async def test_a_repeat_is_answered_with_what_has_become_of_the_task(world: World) -> None:
    task_id = (await post(world)).json()["taskId"]
    world.read_model.hashes[task_id]["status"] = "COMPLETED"
    assert (await post(world)).json()["status"] == "COMPLETED"


async def test_a_repeat_is_answered_although_its_function_was_taken_away(world: World) -> None:
    await post(world)
    world.catalog.deploy(Function("echo", "i", "v", retired=True))
    assert (await post(world)).headers["idempotent-replayed"] == "true"


async def test_another_key_is_another_task(world: World) -> None:
    ids = {(await post(world, key)).json()["taskId"] for key in ("a", "A", "b", " a b")}
    assert len(ids) == 4
    assert len(world.commands.records) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"payload": 1},
        {"taskType": "broken"},
        {"priority": "high"},
        {"name": "n"},
        {"tags": ["t"]},
        {"timeoutSeconds": 3},
        {"delaySeconds": 3},
        {"runAt": "2001-01-01T00:00:00Z"},
        {"ttlSeconds": 3},
        {"retry": {"maxAttempts": 2}},
        {"queue": "default"},
        {"redeliver": True},
        {"concurrencyKey": "k"},
    ],
)
async def test_another_request_with_the_same_key_is_refused(world: World, change: dict[str, Any]) -> None:
    task_id = (await post(world)).json()["taskId"]
    problem = check_problem(await post(world, **change), 409, "idempotency_conflict", "Idempotency-Key")
    assert problem["taskId"] == task_id
    assert len(world.commands.records) == 1


async def test_what_comes_to_the_same_is_the_same_request(world: World) -> None:
    await post(world, priority="normal", tags=["a", "a"])
    assert (await post(world, tags=["a"])).headers["idempotent-replayed"] == "true"


async def test_a_key_stands_for_bytes_as_well(world: World) -> None:
    async def send(data: bytes, kind: str = "image/png") -> httpx.Response:
        headers = {"content-type": kind, "idempotency-key": "k"}
        return await world.http.post("/tasks?taskType=echo", content=data, headers=headers)

    await send(b"a")
    assert (await send(b"a")).headers["idempotent-replayed"] == "true"
    check_problem(await send(b"b"), 409, "idempotency_conflict", "Idempotency-Key")
    check_problem(await send(b"a", "image/gif"), 409, "idempotency_conflict", "Idempotency-Key")


async def test_the_hash_of_a_request_can_be_computed_by_others(world: World) -> None:
    await post(world, delaySeconds=1.5, priority="low", queue="big", name="é")
    asked = {
        "taskType": "echo",
        "delaySeconds": 1.5,
        "name": "é",
        "payloadSha256": hashlib.sha256(b"null").hexdigest(),
        "priority": "low",
        "queue": "big",
    }
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    assert world.commands.envelopes[0].request_sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb", "tör", "\x7f"])
async def test_a_key_that_is_none_is_refused(world: World, key: str) -> None:
    headers = {"idempotency-key": key.encode("latin-1")}
    answer = await world.http.post("/tasks", json={"taskType": "echo", "payload": 1}, headers=headers)
    check_problem(answer, 400, "invalid_header", "Idempotency-Key")
    assert world.commands.records == []


async def test_two_keys_are_refused(world: World) -> None:
    headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
    answer = await world.http.post("/tasks", json={"taskType": "echo", "payload": 1}, headers=headers)
    check_problem(answer, 400, "invalid_header", "Idempotency-Key")


# --- when something is down


async def test_an_ambiguous_append_is_made_again_in_the_same_place(world: World) -> None:
    world.catalog.deploy(Function("few", "i", "v", concurrency=1))
    world.commands.down = "timed out"
    problem = check_problem(await post(world, taskType="few"), 503, "log_unavailable", None)
    assert "no second task" in problem["detail"]
    world.commands.down = ""
    # The tasks of the function go elsewhere by now.
    world.catalog.deploy(Function("few", "i", "v", queue="big"))
    answer = await post(world, taskType="few")
    assert answer.json()["taskId"] == problem["taskId"]
    assert "idempotent-replayed" not in answer.headers
    reservation = world.read_model.reservations[problem["taskId"]]
    assert world.commands.partitions == [reservation.partition]
    assert [record[0] for record in world.commands.records] == ["default"]
    assert reservation.queue == "default"


async def test_a_reservation_from_before_they_named_the_queue_is_for_the_one_that_is_asked_for(
    world: World,
) -> None:
    world.commands.down = "timed out"
    task_id = (await post(world, taskType="echo", queue="big")).json()["taskId"]
    world.commands.down = ""
    old = world.read_model.reservations[task_id]._replace(queue=None)
    world.read_model.reservations[task_id] = old
    assert (await post(world, taskType="echo", queue="big")).status_code == 202
    assert [record[0] for record in world.commands.records] == ["big"]


async def test_without_the_read_model_a_key_is_not_taken_and_others_go_on(world: World) -> None:
    world.read_model.down = "refused"
    answer = await post(world)
    check_problem(answer, 503, "read_model_unavailable", None)
    assert answer.headers["retry-after"]
    assert world.commands.records == []
    assert (await world.post()).status_code == 202


async def test_a_request_that_is_refused_reserves_nothing(world: World) -> None:
    await post(world, taskType="nobody")
    await post(world, queue="nowhere")
    assert world.read_model.reservations == {}
    assert (await post(world)).status_code == 202


async def test_the_reservation_comes_before_the_payload_so_that_a_conflict_changes_no_bytes(
    world: World,
) -> None:
    first = "x" * 70 * KIB
    task_id = (await post(world, payload=first)).json()["taskId"]
    check_problem(await post(world, payload="y" * 70 * KIB), 409, "idempotency_conflict", "Idempotency-Key")
    assert json.loads(world.blobs.objects[f"payloads/{task_id}"]) == first


async def test_a_store_that_was_down_is_asked_again_under_the_same_key(world: World) -> None:
    world.blobs.down = "refused"
    check_problem(await post(world, payload="x" * 70 * KIB), 503, "blobs_unavailable", None)
    world.blobs.down = ""
    assert (await post(world, payload="x" * 70 * KIB)).status_code == 202
    assert len(world.commands.records) == 1


async def test_of_requests_that_come_together_with_one_key_all_name_one_task(world: World) -> None:
    answers = await asyncio.gather(*(post(world) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["taskId"] for answer in answers}) == 1
    assert len(set(world.commands.partitions)) == 1
