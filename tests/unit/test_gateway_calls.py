"""POST /functions/{name}/invoke: a function asked, and its answer waited for."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateway_world import World, check_problem

from mayfly.task import keyed_id

JSON = {"content-type": "application/json"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


async def ended(world: World, call: Any, **fields: str) -> httpx.Response:
    """The answer of a call whose task comes to that end."""
    answer = asyncio.ensure_future(call)
    while not world.read_model.hashes:
        assert not answer.done(), answer.result().text
        await asyncio.sleep(0)
    [task_id] = world.read_model.hashes
    world.read_model.hashes[task_id] |= fields
    # What waits looks again: as at the process's end, without the wait for the next look.
    world.gateway.waiters._wake_all()
    return await answer


def invoke(world: World, body: bytes = b"", query: str = "", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return world.http.post(f"/functions/echo/invoke{query}", content=body, headers=named)


async def test_the_answer_is_the_functions_own_result(world: World) -> None:
    call = invoke(world, b' {"n": 1.10}\n', "?priority=high&tag=a&tag=b", content_type="application/json")
    answer = await ended(world, call, status="COMPLETED", result='{"n": 1.10}')
    assert (answer.status_code, answer.content) == (200, b'{"n": 1.10}')
    assert answer.headers["content-type"] == "application/json"
    [envelope] = world.commands.envelopes
    assert answer.headers["mayfly-task-id"] == envelope.task_id
    assert (bytes(envelope.payload), envelope.tags) == (b'{"n": 1.10}', ("a", "b"))
    assert world.commands.records[0][1] == "high"


async def test_bytes_go_in_and_bytes_come_out(world: World) -> None:
    world.blobs.objects["results/1"] = b"\x89PNG"
    call = invoke(world, b"\xff\xd8", content_type="image/jpeg")
    done = {"status": "COMPLETED", "resultKey": "results/1", "resultContentType": "image/png"}
    answer = await ended(world, call, **done)
    assert (answer.status_code, answer.content) == (200, b"\x89PNG")
    assert answer.headers["content-type"] == "image/png"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert world.commands.envelopes[0].payload_base64 == "/9g="


async def test_no_body_is_a_payload_of_null(world: World) -> None:
    await ended(world, invoke(world), status="COMPLETED", result="null")
    assert bytes(world.commands.envelopes[0].payload) == b"null"


async def test_a_function_that_failed_is_a_502_with_its_error(world: World) -> None:
    error = {"errorType": "Function.Error", "errorMessage": "no", "errorClass": "ValueError"}
    answer = await ended(world, invoke(world), status="FAILED", **error)
    problem = check_problem(answer, 502, "function_failed", None)
    assert problem["error"] == {"type": "Function.Error", "message": "no", "class": "ValueError"}
    assert problem["taskId"] == world.commands.envelopes[0].task_id


@pytest.mark.parametrize("kind", ["Function.Timeout", "Task.Expired"])
async def test_a_function_that_was_late_is_a_504(world: World, kind: str) -> None:
    answer = await ended(world, invoke(world), status="FAILED", errorType=kind, errorMessage="late")
    check_problem(answer, 504, "function_timed_out", None)


async def test_after_the_wait_the_answer_is_the_task(world: World) -> None:
    answer = await invoke(world, query="?wait=0")
    [task_id] = world.read_model.hashes
    assert (answer.status_code, answer.json()) == (202, {"taskId": task_id, "status": "QUEUED"})
    assert answer.headers["location"] == f"/tasks/{task_id}"


async def test_a_task_that_was_accepted_is_named_although_nobody_can_tell_of_it(world: World) -> None:
    world.read_model.down = "away"
    answer = await invoke(world)
    assert (answer.status_code, answer.json()["status"]) == (202, "QUEUED")


async def test_a_call_with_a_key_is_one_task(world: World) -> None:
    call = invoke(world, b"1", content_type="application/json", idempotency_key="order 7")
    first = await ended(world, call, status="COMPLETED", result="1")
    again = await invoke(world, b"1", content_type="application/json", idempotency_key="order 7")
    assert first.content == again.content == b"1"
    assert again.headers["idempotent-replayed"] == "true"
    assert [one.task_id for one in world.commands.envelopes] == [keyed_id("default", "order 7")]


@pytest.mark.parametrize(
    ("path", "status", "code", "field"),
    [
        ("/functions/nobody/invoke", 404, "unknown_function", None),
        ("/functions/thumbnail/invoke", 422, "invalid_payload", "payload"),
        ("/functions/echo/invoke?wait=61", 400, "invalid_parameter", "wait"),
        ("/functions/echo/invoke?taskType=echo", 400, "invalid_parameter", "taskType"),
        ("/functions/echo/invoke?timeoutSeconds=x", 400, "invalid_parameter", "timeoutSeconds"),
    ],
)
async def test_what_cannot_be_called_is_refused(
    world: World, path: str, status: int, code: str, field: str | None
) -> None:
    check_problem(await world.http.post(path, content=b"5", headers=JSON), status, code, field)
    assert not world.commands.records
