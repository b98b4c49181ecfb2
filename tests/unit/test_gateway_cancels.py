"""POST /tasks/{id}/cancel: the log has the request when it is answered."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from gateway_world import World, check_problem

from gateway.models import Cancelling, Task
from mayfly.events import CancelRequested
from mayfly.task import Lane

TASK = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"
OTHER = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f13"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


@pytest.mark.parametrize("status", ["QUEUED", "SCHEDULED", "IN_PROGRESS", "RETRYING"])
async def test_a_cancel_is_an_event_in_its_commands_partition(world: World, status: str) -> None:
    world.task(TASK, status=status, queue="big", command="high:5:17")
    answer = await world.http.post(f"/tasks/{TASK}/cancel")
    assert answer.status_code == 202
    assert Cancelling.model_validate(answer.json()).status == status
    assert world.commands.events == [("big", 5, TASK, CancelRequested(TASK, Lane.HIGH, 17))]
    assert world.read_model.cancels == [TASK]


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
async def test_a_task_that_has_ended_is_not_cancelled(world: World, status: str) -> None:
    world.task(TASK, status=status)
    check_problem(await world.http.post(f"/tasks/{TASK}/cancel"), 409, "task_finished", None)
    assert world.commands.events == []


async def test_a_task_that_is_cancelled_is_so_again(world: World) -> None:
    world.task(TASK, status="CANCELLED")
    answer = await world.http.post(f"/tasks/{TASK}/cancel")
    assert (answer.status_code, answer.json()) == (200, {"taskId": TASK, "status": "CANCELLED"})
    assert world.commands.events == []


@pytest.mark.parametrize("task_id", [OTHER, "1"])
async def test_there_is_nothing_to_cancel_of_a_task_that_there_is_not(world: World, task_id: str) -> None:
    check_problem(await world.http.post(f"/tasks/{task_id}/cancel"), 404, "unknown_task", None)


async def test_a_log_that_is_down_takes_no_cancel_and_nobody_is_told(world: World) -> None:
    world.task(TASK, command="normal:0:0")
    world.commands.down = "timed out"
    answer = await world.http.post(f"/tasks/{TASK}/cancel")
    check_problem(answer, 503, "log_unavailable", None)
    assert world.read_model.cancels == []


async def test_a_cancel_that_nobody_hears_of_is_in_the_log_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def append_event(*_event: object) -> None:
        world.read_model.down = "refused"

    world.task(TASK, command="normal:0:0")
    monkeypatch.setattr(world.commands, "append_event", append_event)
    assert (await world.http.post(f"/tasks/{TASK}/cancel")).status_code == 202


async def test_whoever_waits_is_answered_when_the_task_has_ended(world: World) -> None:
    world.task(TASK, status="IN_PROGRESS", command="normal:0:0")
    following = asyncio.create_task(world.gateway.waiters.follow())
    asking = asyncio.create_task(world.http.post(f"/tasks/{TASK}/cancel?wait=60"))
    while len(world.gateway.waiters) == 0:
        await asyncio.sleep(0)
    world.task(TASK, status="CANCELLED")
    world.read_model.told.put_nowait((TASK, "CANCELLED"))
    answer = await asyncio.wait_for(asking, 10)
    assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
    following.cancel()


async def test_a_task_shows_that_its_end_was_asked_for(world: World) -> None:
    world.task(TASK, status="IN_PROGRESS", cancelRequestedAt="2026-11-24T12:00:01.000Z")
    task = Task.model_validate((await world.http.get(f"/tasks/{TASK}")).json())
    assert task.cancel_requested_at == "2026-11-24T12:00:01.000Z"
