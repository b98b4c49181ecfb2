"""Dead letters: listed, run again, purged."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateway_world import World, check_problem

from gateway import letters
from gateway.models import PurgeAnswer, RedriveAnswer, TaskList
from mayfly.function import Function
from mayfly.task import keyed_id

UNKNOWN = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"
DAY = 86_400_000


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


async def dead(world: World, at: int = 0, error: str = "Function.Error", **body: Any) -> str:
    """A task that failed for good, at that time."""
    answer = await world.post(**body)
    task_id: str = answer.json()["taskId"]
    world.read_model.hashes[task_id] |= {
        "status": "FAILED",
        "image": "mayfly/echo:0",
        "errorType": error,
        "errorMessage": "it broke",
    }
    world.read_model.letters[task_id] = at
    return task_id


async def call(world: World, what: str, **body: Any) -> httpx.Response:
    return await world.http.post(f"/dead-letters/{what}", json=body)


async def redrive(world: World, **body: Any) -> RedriveAnswer:
    answer = await call(world, "redrive", **body)
    assert answer.status_code == 200, answer.text
    return RedriveAnswer.model_validate(answer.json())


# --- lists


async def test_dead_letters_are_listed_as_the_tasks_that_they_are(world: World) -> None:
    task_id = await dead(world)
    world.read_model.next_cursor = "next"
    times = "since=1970-01-01T00:00:01Z&until=1970-01-02T00:00:00%2B00:00"
    answer = await world.http.get(
        f"/dead-letters?taskType=echo&errorType=Function.Error&{times}&cursor=c&limit=7"
    )
    found = TaskList.model_validate(answer.json())
    assert ([task.task_id for task in found.tasks], found.next_cursor) == ([task_id], "next")
    assert found.tasks[0].error is not None
    assert world.read_model.asked == [
        {
            "tenant": "default",
            "task_type": "echo",
            "error_type": "Function.Error",
            "since": 1000,
            "until": DAY,
            "cursor": "c",
            "limit": 7,
        }
    ]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("errorType=Function.Sad", "errorType"),
        ("since=yesterday", "since"),
        ("until=2026-11-24T12:00:00", "until"),
        ("limit=0", "limit"),
        ("cursor=broken", "cursor"),
        ("status=FAILED", "status"),
    ],
)
async def test_a_bad_filter_is_refused_by_name(world: World, query: str, field: str) -> None:
    check_problem(await world.http.get(f"/dead-letters?{query}"), 400, "invalid_parameter", field)


# --- redriven


async def test_a_redriven_letter_is_a_new_task_on_todays_function_and_a_letter_no_more(
    world: World,
) -> None:
    task_id = await dead(world, payload={"n": 1}, priority="low")
    answer = await redrive(world, taskIds=[task_id])
    [one] = answer.redriven
    assert (one.task_id, answer.failed, answer.remaining) == (task_id, [], 0)
    again = world.commands.envelopes[1]
    assert (again.task_id, again.rerun_of, again.image) == (one.new_task_id, task_id, None)
    assert bytes(again.payload) == b'{"n":1}'
    assert world.read_model.letters == {}
    assert world.commands.purged == [task_id]
    assert world.read_model.hashes[task_id]["status"] == "FAILED"


async def test_a_redrive_that_is_repeated_runs_nothing_twice(world: World) -> None:
    task_id = await dead(world)
    first = await redrive(world, taskIds=[task_id])
    again = await redrive(world, taskIds=[task_id])
    assert first == again
    assert first.redriven[0].new_task_id == keyed_id("redrive", task_id)
    assert len(world.commands.records) == 2


async def test_a_redrive_that_was_cut_short_before_the_purge_runs_nothing_twice(world: World) -> None:
    task_id = await dead(world)
    await redrive(world, taskIds=[task_id])
    world.read_model.letters[task_id] = 0
    assert len((await redrive(world, taskIds=[task_id])).redriven) == 1
    assert world.read_model.letters == {}
    assert len(world.commands.records) == 2


async def test_a_redriven_task_that_fails_again_is_redriven_as_another(world: World) -> None:
    task_id = await dead(world)
    [first] = (await redrive(world, all=True)).redriven
    world.read_model.hashes[first.new_task_id] |= {"status": "FAILED"}
    world.read_model.letters[first.new_task_id] = 1
    [second] = (await redrive(world, all=True)).redriven
    assert len({task_id, first.new_task_id, second.new_task_id}) == 3


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"all": True}, "abc"),
        ({"taskType": "echo"}, "ab"),
        ({"errorType": "Function.Timeout"}, "bc"),
        ({"taskType": "echo", "errorType": "Function.Timeout"}, "b"),
        ({"since": "1970-01-02T00:00:00Z"}, "bc"),
        ({"until": "1970-01-02T00:00:00Z"}, "a"),
        ({"since": "1970-01-02T00:00:00Z", "until": "1970-01-03T00:00:00Z"}, "b"),
        ({"taskType": "nobody"}, ""),
    ],
)
async def test_letters_are_chosen_by_what_they_have_in_common(
    world: World, criteria: dict[str, Any], expected: str
) -> None:
    ids = {
        "a": await dead(world),
        "b": await dead(world, DAY, "Function.Timeout"),
        "c": await dead(world, 2 * DAY, "Function.Timeout", taskType="thumbnail", payload={"width": 1}),
    }
    answer = await redrive(world, **criteria)
    assert [one.task_id for one in answer.redriven] == [ids[name] for name in expected]


async def test_what_cannot_be_redriven_says_why_and_stays(world: World) -> None:
    gone, fine, invalid = (
        await dead(world),
        await dead(world, 1),
        await dead(world, 2, taskType="thumbnail", payload={"width": 1}),
    )
    world.commands.records[0] = (*world.commands.records[0][:3], b"nonsense")
    world.catalog.deploy(Function("thumbnail", "i", "v", schema={"type": "array"}, queue="big"))
    answer = await redrive(world, taskIds=[gone, UNKNOWN, "x", fine, invalid])
    assert [one.task_id for one in answer.redriven] == [fine]
    assert [(one.task_id, one.code) for one in answer.failed] == [
        (gone, "input_gone"),
        (UNKNOWN, "unknown_dead_letter"),
        ("x", "unknown_dead_letter"),
        (invalid, "invalid_payload"),
    ]
    assert set(world.read_model.letters) == {gone, invalid}


async def test_one_call_takes_on_so_many_and_says_how_many_are_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "MOST", 2)
    for number in range(5):
        await dead(world, number)
    assert (await redrive(world, all=True)).remaining == 3
    assert (await redrive(world, all=True)).remaining == 1
    assert (await redrive(world, all=True)).remaining == 0
    assert world.read_model.letters == {}


async def test_a_call_that_takes_long_leaves_the_rest_for_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "SECONDS", -1.0)
    await dead(world)
    answer = await redrive(world, all=True)
    assert (answer.redriven, answer.remaining) == ([], 1)


async def test_a_log_that_breaks_on_the_way_ends_the_call_with_what_was_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [await dead(world, number) for number in range(3)]
    purge = world.commands.purge

    async def purge_once(task_id: str) -> None:
        await purge(task_id)
        world.commands.down = "timed out"

    monkeypatch.setattr(world.commands, "purge", purge_once)
    answer = await redrive(world, all=True)
    assert [one.task_id for one in answer.redriven] == ids[:1]
    assert [(one.task_id, one.code) for one in answer.failed] == [(ids[1], "log_unavailable")]
    assert answer.remaining == 1
    assert set(world.read_model.letters) == set(ids[1:])


async def test_without_the_log_or_the_read_model_nothing_is_done(world: World) -> None:
    await dead(world)
    world.commands.down = "timed out"
    check_problem(await call(world, "redrive", all=True), 503, "log_unavailable", None)
    world.read_model.down = "refused"
    check_problem(await call(world, "redrive", all=True), 503, "read_model_unavailable", None)


# --- purged


async def test_a_purged_letter_is_gone_and_its_task_is_not(world: World) -> None:
    first, second = await dead(world), await dead(world, DAY)
    answer = await call(world, "purge", until="1970-01-02T00:00:00Z")
    purged = PurgeAnswer.model_validate(answer.json())
    assert (purged.purged, purged.failed, purged.remaining) == ([first], [], 0)
    assert world.commands.purged == [first]
    assert set(world.read_model.letters) == {second}
    assert (await world.http.get(f"/tasks/{first}")).json()["status"] == "FAILED"
    assert len(world.commands.records) == 2


async def test_a_purge_that_is_repeated_comes_to_the_same(world: World) -> None:
    task_id = await dead(world)
    answers = [(await call(world, "purge", taskIds=[task_id])).json() for _ in range(2)]
    assert answers[0] == answers[1] == {"purged": [task_id], "failed": [], "remaining": 0}
    assert world.commands.purged == [task_id]


async def test_a_letter_that_there_is_not_cannot_be_purged(world: World) -> None:
    queued = (await world.post()).json()["taskId"]
    answer = PurgeAnswer.model_validate((await call(world, "purge", taskIds=[UNKNOWN, queued])).json())
    assert [(one.task_id, one.code) for one in answer.failed] == [
        (UNKNOWN, "unknown_dead_letter"),
        (queued, "unknown_dead_letter"),
    ]
    assert world.commands.purged == []


@pytest.mark.parametrize("what", ["redrive", "purge"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, None),
        ({"all": False}, None),
        ({"all": True, "taskType": "echo"}, None),
        ({"taskIds": [UNKNOWN], "errorType": "Function.Error"}, None),
        ({"taskIds": []}, "taskIds"),
        ({"taskIds": [1]}, "taskIds[0]"),
        ({"errorType": "Function.Sad"}, "errorType"),
        ({"since": "yesterday"}, "since"),
        ({"status": "FAILED"}, "status"),
    ],
)
async def test_a_choice_that_is_none_chooses_nothing(
    world: World, what: str, body: dict[str, Any], field: str | None
) -> None:
    await dead(world)
    check_problem(await call(world, what, **body), 422, "invalid_body", field)
    assert len(world.read_model.letters) == 1
