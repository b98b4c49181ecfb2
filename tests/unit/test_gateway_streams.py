"""What a task logs and becomes, as it happens: GET /tasks/{id}/logs and /tasks/{id}/events."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from gateway_world import Chunk, World, check_problem

from gateway.models import Task
from gateway.streams import Stream
from gateway.waiting import Waiters

TASK = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"
Event = tuple[str, dict[str, Any], str]
"""Name, data, id."""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


def events(text: str) -> list[Event]:
    """The events of a stream, as the standard says that a client reads them; without comments."""
    found: list[Event] = []
    for block in text.split("\n\n")[:-1]:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            fields[name] = fields[name] + "\n" + value if name in fields else value
        if "data" in fields:
            found.append((fields["event"], json.loads(fields["data"]), fields.get("id", "")))
    return found


def logged(world: World, *texts: str, fence: int = 7) -> None:
    for text in texts:
        number = len(world.read_model.chunks[TASK]) + 1
        world.read_model.chunks[TASK].append(Chunk(f"{number:04}-0", fence, text))


class Reader:
    """Whoever reads a stream, and what changes meanwhile."""

    def __init__(self, world: World, waiters: Waiters | None = None, heartbeat: float = 60.0) -> None:
        self.waiters = waiters or world.gateway.waiters
        stream = Stream(world.read_model, self.waiters, TASK, "", heartbeat)
        self.events: AsyncGenerator[bytes] = stream.events(world.read_model.hashes[TASK])

    async def next(self) -> str:
        async with asyncio.timeout(30):
            return (await anext(self.events)).decode()

    async def ends(self) -> bool:
        async with asyncio.timeout(30):
            return await anext(self.events, None) is None


def changed(world: World, status: str, **fields: str) -> None:
    world.task(TASK, status=status, fence="7", **fields)
    world.read_model.told.put_nowait((TASK, status))


# --- logs


async def test_the_log_of_a_task_that_runs_is_what_it_has_written_so_far(world: World) -> None:
    world.task(TASK, status="IN_PROGRESS", attempt="2", fence="7")
    logged(world, "of the attempt before\n", fence=3)
    logged(world, *(f"line {number}\n" for number in range(250)))
    logged(world, "of one that is overtaken\n", fence=3)
    answer = await world.http.get(f"/tasks/{TASK}/logs")
    assert answer.status_code == 200
    assert answer.text == "".join(f"line {number}\n" for number in range(250))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert (await world.http.get(f"/tasks/{TASK}/logs?attempt=2")).text == answer.text


async def test_a_task_that_runs_and_has_written_nothing_has_an_empty_log(world: World) -> None:
    world.task(TASK, status="IN_PROGRESS", attempt="1", fence="7")
    assert (await world.http.get(f"/tasks/{TASK}/logs")).text == ""


ATTEMPTS = json.dumps(
    [
        {
            "attempt": 1,
            "dispatcher": "d1",
            "startedAt": "2026-11-24T12:00:00.123Z",
            "finishedAt": "2026-11-24T12:00:01.123Z",
            "image": "mayfly/echo:0",
            "error": {"type": "Function.Error", "message": "it broke"},
            "logKey": "logs/1",
        },
        {
            "attempt": 2,
            "dispatcher": "d2",
            "startedAt": "2026-11-24T12:00:02.123Z",
            "finishedAt": "2026-11-24T12:00:03.123Z",
        },
    ]
)


async def test_the_log_of_an_earlier_attempt_is_given_by_its_number(world: World) -> None:
    world.task(TASK, status="COMPLETED", attempt="3", attempts=ATTEMPTS, logKey="logs/3")
    world.blobs.objects |= {"logs/1": b"first\n", "logs/3": b"third\n"}
    texts = [(await world.http.get(f"/tasks/{TASK}/logs?attempt={number}")).text for number in (1, 2, 3)]
    assert texts == ["first\n", "", "third\n"]
    assert (await world.http.get(f"/tasks/{TASK}/logs")).text == "third\n"
    check_problem(await world.http.get(f"/tasks/{TASK}/logs?attempt=4"), 404, "unknown_attempt", "attempt")


async def test_while_another_attempt_is_due_the_log_is_that_of_the_last_one(world: World) -> None:
    world.task(TASK, status="RETRYING", attempt="1", attempts=ATTEMPTS, logKey="logs/1")
    world.blobs.objects["logs/1"] = b"first\n"
    assert (await world.http.get(f"/tasks/{TASK}/logs")).text == "first\n"


@pytest.mark.parametrize("attempt", ["0", "-1", "x", "01", ""])
async def test_an_attempt_is_a_number_from_1(world: World, attempt: str) -> None:
    world.task(TASK, status="COMPLETED")
    answer = await world.http.get(f"/tasks/{TASK}/logs?attempt={attempt}")
    check_problem(answer, 400, "invalid_parameter", "attempt")


async def test_a_task_shows_its_attempts_and_why_the_last_one_failed(world: World) -> None:
    world.task(
        TASK,
        status="RETRYING",
        attempt="2",
        attempts=ATTEMPTS,
        dueAt="2026-11-24T12:00:09.123Z",
        ttlSeconds="9.5",
        concurrencyKey="k",
        errorType="Function.Error",
        errorMessage="it broke",
    )
    task = Task.model_validate((await world.http.get(f"/tasks/{TASK}")).json())
    assert (task.due_at, task.ttl_seconds, task.concurrency_key) == ("2026-11-24T12:00:09.123Z", 9.5, "k")
    assert task.error is not None
    first, second = task.attempts
    assert (first.attempt, first.dispatcher, first.image) == (1, "d1", "mayfly/echo:0")
    assert first.error is not None
    assert first.error.message == "it broke"
    assert first.logs_url == f"/tasks/{TASK}/logs?attempt=1"
    assert (second.error, second.logs_url) == (None, None)


# --- events


async def test_a_stream_has_the_log_and_the_status_until_the_task_has_ended(world: World) -> None:
    following = asyncio.create_task(world.gateway.waiters.follow())
    changed(world, "QUEUED")
    reader = Reader(world)
    assert events(await reader.next())[0][1]["status"] == "QUEUED"
    changed(world, "IN_PROGRESS", attempt="1")
    [(name, task, place)] = events(await reader.next())
    assert (name, Task.model_validate(task).status, place) == ("status", "IN_PROGRESS", "")
    logged(world, "one\ntwo\n")
    world.read_model.told.put_nowait((TASK, "IN_PROGRESS"))
    assert events(await reader.next()) == [("log", {"text": "one\ntwo\n"}, "0001-0")]
    changed(world, "IN_PROGRESS", attempt="1", progress="0.5")
    assert events(await reader.next())[0][1]["progress"] == {"fraction": 0.5}
    logged(world, "three\n")
    changed(world, "COMPLETED", attempt="1")
    assert events(await reader.next()) == [("log", {"text": "three\n"}, "0002-0")]
    assert events(await reader.next())[0][1]["status"] == "COMPLETED"
    assert await reader.ends()
    assert len(world.gateway.waiters) == 0
    following.cancel()


async def test_a_task_that_has_ended_gives_what_there_is_and_ends(world: World) -> None:
    world.task(TASK, status="FAILED", fence="7")
    logged(world, "before\n", fence=3)
    logged(world, "one\n", "two\n")
    answer = await world.http.get(f"/tasks/{TASK}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    found = events(answer.text)
    assert [name for name, _, _ in found] == ["log", "log", "status"]
    assert [data.get("text", data.get("status")) for _, data, _ in found] == ["one\n", "two\n", "FAILED"]


async def test_a_client_that_comes_back_goes_on_behind_the_last_line_that_it_has(world: World) -> None:
    world.task(TASK, status="COMPLETED", fence="7")
    logged(world, *(f"{number}\n" for number in range(250)))
    answer = await world.http.get(f"/tasks/{TASK}/events", headers={"last-event-id": "0248-0"})
    texts = [data["text"] for name, data, _ in events(answer.text) if name == "log"]
    assert texts == ["248\n", "249\n"]


@pytest.mark.parametrize("place", ["x", "1", "1-", "-1", "99999999999999999999-0", "1-0\t"])
async def test_a_place_that_no_log_has_is_refused(world: World, place: str) -> None:
    world.task(TASK, status="COMPLETED")
    answer = await world.http.get(f"/tasks/{TASK}/events", headers={"last-event-id": place})
    check_problem(answer, 400, "invalid_header", "Last-Event-ID")


async def test_the_log_of_the_next_attempt_follows_and_one_that_is_overtaken_says_no_more(
    world: World,
) -> None:
    world.task(TASK, status="COMPLETED", fence="7")
    logged(world, "first\n")
    logged(world, "second\n", fence=9)
    logged(world, "late\n", fence=7)
    found = events((await world.http.get(f"/tasks/{TASK}/events")).text)
    assert [data["text"] for name, data, _ in found if name == "log"] == ["first\n", "second\n"]


async def test_line_ends_in_a_result_do_not_break_the_stream(world: World) -> None:
    result = '{\r\n "a": 1,\r "b":\n\n 2}'
    world.task(TASK, status="COMPLETED", result=result)
    text = (await world.http.get(f"/tasks/{TASK}/events")).text
    assert "\r" not in text
    [(_, task, _)] = events(text)
    assert task["result"] == {"a": 1, "b": 2}


async def test_a_stream_on_which_nothing_happens_says_that_it_lives(world: World) -> None:
    world.task(TASK, status="QUEUED")
    reader = Reader(world, Waiters(world.read_model, recheck_seconds=0.01), heartbeat=0.0)
    assert events(await reader.next())[0][0] == "status"
    assert (await reader.next()).startswith(": ")
    await reader.events.aclose()
    assert len(reader.waiters) == 0


async def test_a_stream_goes_on_over_a_read_model_that_was_away(world: World) -> None:
    world.task(TASK, status="QUEUED")
    reader = Reader(world, Waiters(world.read_model, recheck_seconds=0.01), heartbeat=0.0)
    await reader.next()
    world.read_model.down = "refused"
    assert (await reader.next()).startswith(": ")
    del world.read_model.hashes[TASK]
    world.read_model.down = ""
    assert (await reader.next()).startswith(": ")
    world.task(TASK, status="COMPLETED")
    while (told := await reader.next()).startswith(": "):
        pass
    assert events(told)[0][1]["status"] == "COMPLETED"
    assert await reader.ends()


async def test_a_gateway_that_stops_ends_its_streams(world: World) -> None:
    world.task(TASK, status="QUEUED")
    reader = Reader(world)
    await reader.next()
    world.gateway.waiters.close()
    assert await reader.ends()


async def test_a_client_that_goes_away_leaves_nothing_behind(world: World) -> None:
    world.task(TASK, status="QUEUED")
    gone, sent = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            sent.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "GET",
        "path": f"/tasks/{TASK}/events",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "state": {},
    }
    serving = asyncio.create_task(world.app(scope, receive, send))  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await sent.wait()
        assert len(world.gateway.waiters) == 1
        gone.set()
        await serving
        while len(world.gateway.waiters):
            await asyncio.sleep(0)


async def test_head_of_a_stream_ends_at_once(world: World) -> None:
    world.task(TASK, status="QUEUED")
    answer = await world.http.head(f"/tasks/{TASK}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_there_are_no_events_of_a_task_that_there_is_not(world: World) -> None:
    check_problem(await world.http.get(f"/tasks/{TASK}/events"), 404, "unknown_task", None)
