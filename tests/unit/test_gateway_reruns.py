"""POST /tasks/{id}/rerun: the same input again, byte for byte."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from gateway_world import World, check_problem

from gateway.models import Accepted, Task
from mayfly.function import Function
from mayfly.settings import KIB
from mayfly.task import BlobRef, Envelope, Lane, RetryPolicy, encode

BYTES = {"content-type": "image/png"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


async def rerun(world: World, task_id: str, **body: Any) -> httpx.Response:
    return await world.http.post(f"/tasks/{task_id}/rerun", json=body or None)


async def posted(world: World, **body: Any) -> str:
    """A task that has run: on the image of then."""
    answer = await world.post(**body)
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["taskId"]
    world.read_model.hashes[task_id] |= {"status": "FAILED", "image": "mayfly/echo:0"}
    return task_id


async def test_a_re_run_is_a_new_task_with_the_same_input_on_the_same_image(world: World) -> None:
    body = b'{"taskType": "echo", "payload": { "n": 1.10 }, "priority": "high", "queue": "big"}'
    answer = await world.http.post("/tasks", content=body, headers={"content-type": "application/json"})
    old = answer.json()["taskId"]
    world.read_model.hashes[old] |= {"status": "COMPLETED", "image": "mayfly/echo:0"}
    answer = await rerun(world, old)
    accepted = Accepted.model_validate(answer.json())
    assert (answer.status_code, accepted.status, accepted.rerun_of) == (202, "QUEUED", old)
    assert answer.headers["location"] == f"/tasks/{accepted.task_id}"
    assert accepted.task_id != old
    first, second = world.commands.envelopes
    assert bytes(second.payload) == bytes(first.payload) == b'{ "n": 1.10 }'
    assert (second.task_id, second.rerun_of, second.image) == (accepted.task_id, old, "mayfly/echo:0")
    assert second.payload_sha256 == first.payload_sha256
    assert world.commands.records[1][:2] == ("big", Lane.HIGH)
    task = Task.model_validate((await world.http.get(f"/tasks/{accepted.task_id}")).json())
    assert task.rerun_of == old


async def test_it_keeps_what_was_said_of_the_task_but_for_its_delay(world: World) -> None:
    old = await posted(
        world,
        name="n",
        tags=["t"],
        timeoutSeconds=3,
        ttlSeconds=9,
        retry={"maxAttempts": 2},
        concurrencyKey="k",
        redeliver=False,
        delaySeconds=500,
    )
    assert (await rerun(world, old)).json()["status"] == "QUEUED"
    again = world.commands.envelopes[1]
    assert (again.name, again.tags, again.timeout_seconds, again.ttl_seconds) == ("n", ("t",), 3.0, 9.0)
    assert (again.retry, again.concurrency_key) == (RetryPolicy(max_attempts=2), "k")
    assert (again.redeliver, again.delay_seconds, again.run_at) == (False, None, None)


async def test_on_the_latest_function_if_that_is_asked_for(world: World) -> None:
    old = await posted(world)
    assert (await rerun(world, old, latest=True)).status_code == 202
    assert (await rerun(world, old, latest=False)).status_code == 202
    assert [envelope.image for envelope in world.commands.envelopes] == [None, None, "mayfly/echo:0"]


async def test_a_task_that_never_ran_runs_on_todays_function(world: World) -> None:
    old = (await world.post(delaySeconds=60)).json()["taskId"]
    assert (await rerun(world, old)).status_code == 202
    assert world.commands.envelopes[1].image is None


async def test_todays_schema_holds_for_todays_function_only(world: World) -> None:
    old = await posted(world, payload=[1])
    world.catalog.deploy(Function("echo", "i", "v", schema={"type": "object"}))
    assert (await rerun(world, old)).status_code == 202
    check_problem(await rerun(world, old, latest=True), 422, "invalid_payload", "payload")


async def test_bytes_are_run_again_as_bytes(world: World) -> None:
    answer = await world.http.post("/tasks?taskType=echo", content=b"\xff\x00", headers=BYTES)
    await rerun(world, answer.json()["taskId"])
    again = world.commands.envelopes[1]
    assert base64.b64decode(again.payload_base64 or "") == b"\xff\x00"
    assert again.content_type == "image/png"


async def test_a_payload_in_the_store_is_there_under_the_new_tasks_own_key(world: World) -> None:
    old = await posted(world, payload="x" * 70 * KIB)
    new = (await rerun(world, old)).json()["taskId"]
    assert world.blobs.objects[f"payloads/{new}"] == world.blobs.objects[f"payloads/{old}"]
    ref = world.commands.envelopes[1].payload_ref
    assert ref is not None
    assert ref.key == f"payloads/{new}"


async def test_a_re_run_of_a_keyed_task_has_no_key(world: World) -> None:
    answer = await world.http.post(
        "/tasks", json={"taskType": "echo", "payload": 1}, headers={"idempotency-key": "k"}
    )
    old = answer.json()["taskId"]
    ids = {(await rerun(world, old)).json()["taskId"] for _ in range(2)}
    assert len(ids | {old}) == 3
    assert [envelope.request_sha256 is None for envelope in world.commands.envelopes] == [False, True, True]


# --- when the input is gone, or another


async def test_a_command_that_was_trimmed_is_gone(world: World) -> None:
    old = await posted(world)
    world.commands.trimmed = True
    check_problem(await rerun(world, old), 410, "input_gone", None)


@pytest.mark.parametrize("stored", [None, b"", b"x" * (70 * KIB + 2)])
async def test_a_payload_that_the_store_lost_or_changed_is_gone(world: World, stored: bytes | None) -> None:
    old = await posted(world, payload="x" * 70 * KIB)
    del world.blobs.objects[f"payloads/{old}"]
    if stored is not None:
        world.blobs.objects[f"payloads/{old}"] = stored
    check_problem(await rerun(world, old), 410, "input_gone", None)
    assert len(world.commands.records) == 1


@pytest.mark.parametrize(
    "value",
    [
        b"nonsense",
        encode(Envelope("echo", "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12")),
        encode(Envelope("echo", payload_base64="?")),
        encode(Envelope("echo", payload=msgspec.Raw(b"1"), payload_sha256="00")),
        encode(Envelope("echo", payload_ref=BlobRef("nothing/there", 1, "00"))),
    ],
)
async def test_a_command_that_is_not_the_one_that_was_sent_is_no_input(world: World, value: bytes) -> None:
    old = await posted(world)
    record = world.commands.records[0]
    task = json.loads(value) if value.startswith(b"{") else None
    if task is not None and "taskId" not in task:
        value = json.dumps({**task, "taskId": old}).encode()
    world.commands.records[0] = (*record[:3], value)
    check_problem(await rerun(world, old), 410, "input_gone", None)


async def test_a_task_that_there_is_not_cannot_be_run_again(world: World) -> None:
    answer = await rerun(world, "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12")
    check_problem(answer, 404, "unknown_task", None)


async def test_a_function_that_was_taken_away_runs_nothing_again(world: World) -> None:
    old = await posted(world)
    world.catalog.deploy(Function("echo", "i", "v", retired=True))
    check_problem(await rerun(world, old), 422, "unknown_task_type", "taskType")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code", "field"),
    [
        (b'{"latest": "yes"}', "application/json", 422, "invalid_body", "latest"),
        (b'{"newest": true}', "application/json", 422, "invalid_body", "newest"),
        (b"[]", "application/json", 422, "invalid_body", None),
        (b"{", "application/json", 400, "malformed_json", None),
        (b"latest=true", "application/x-www-form-urlencoded", 415, "unsupported_media_type", "Content-Type"),
        (b"latest", "image/png", 415, "unsupported_media_type", "Content-Type"),
    ],
)
async def test_a_body_that_says_something_else_is_refused(
    world: World, body: bytes, content_type: str, status: int, code: str, field: str | None
) -> None:
    old = await posted(world)
    answer = await world.http.post(
        f"/tasks/{old}/rerun", content=body, headers={"content-type": content_type}
    )
    check_problem(answer, status, code, field)
    assert len(world.commands.records) == 1


async def test_a_log_that_is_down_is_told_apart_from_one_that_lost_the_command(world: World) -> None:
    old = await posted(world)
    assert (await world.http.get(f"/tasks/{old}")).status_code == 200, "nothing is missing"
    world.commands.down = "timed out"
    check_problem(await rerun(world, old), 503, "log_unavailable", None)
