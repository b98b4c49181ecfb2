"""What happens to all of a tenant's tasks, as server-sent events: GET /events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from gateway_world import PARTITIONS, World, check_problem
from test_gateway_streams import TASK, Event, events

from gateway.feed import Feed, Feeds
from gateway.models_events import EventFilters, TaskChange
from gateway.waiting import Waiters

OTHER = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f13"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


def told(world: World, status: str, task_id: str = TASK, tenant: str = "default", **fields: str) -> str:
    change = {"taskType": "echo", "tags": "[]", "attempt": "", "errorType": "", **fields}
    return world.read_model.tell(tenant, taskId=task_id, status=status, **change)


async def until_now(world: World, query: str = "", after: str = "") -> list[Event]:
    """All that a client is told before the gateway stops."""
    world.gateway.waiters.close()
    answer = await world.http.get(f"/events{query}", headers={"last-event-id": after} if after else {})
    assert answer.status_code == 200, answer.text
    return events(answer.text)


class Reader:
    """Whoever follows, and what happens meanwhile."""

    def __init__(
        self, world: World, tenant: str = "default", *, heartbeat: float = 60.0, admitted: bool = True
    ) -> None:
        self.waiters = Waiters(world.read_model, recheck_seconds=0.01)
        feeds = Feeds(world.read_model, self.waiters, heartbeat_seconds=heartbeat)
        self.admitted = admitted
        feed = Feed(world.read_model, tenant, EventFilters())
        self.events: AsyncGenerator[bytes] = feeds._events(feed, lambda: self.admitted)

    async def next(self) -> str:
        async with asyncio.timeout(30):
            return (await anext(self.events)).decode()

    async def event(self) -> Event:
        while (told := await self.next()).startswith(": "):
            pass
        return events(told)[0]

    async def ends(self) -> bool:
        async with asyncio.timeout(30):
            return await anext(self.events, None) is None


async def test_a_change_is_told_with_what_the_task_has_become(world: World) -> None:
    begin = told(world, "QUEUED")
    place = told(world, "FAILED", tags='["a"]', attempt="2", errorType="Function.Error")
    [(first, filters, at), (name, change, event_id)] = await until_now(world, after=begin)
    assert (first, filters, at) == ("subscribed", {"taskType": None, "status": None, "tag": None}, begin)
    assert (name, event_id) == ("status", place)
    TaskChange.model_validate(change)
    assert change == {
        "taskId": TASK,
        "taskType": "echo",
        "status": "FAILED",
        "tags": ["a"],
        "at": "2026-11-24T12:00:00.123Z",
        "attempt": 2,
        "errorType": "Function.Error",
    }


async def test_a_client_without_a_place_begins_now(world: World) -> None:
    last = told(world, "QUEUED")
    [(name, _, place)] = await until_now(world)
    assert (name, place) == ("subscribed", last)


async def test_a_client_that_comes_back_gets_what_came_behind_its_last_event_once(world: World) -> None:
    places = [told(world, "QUEUED") for _ in range(1200)]
    got: list[Event] = []
    feed = Feed(world.read_model, "default", EventFilters(), places[99])
    while not got or feed.behind:
        got += [(one.event, {}, one.id) async for one in feed.news()]
    assert [place for name, _, place in got if name == "status"] == places[100:]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["1", "2", "3", "4"]),
        ("?status=FAILED", ["2", "4"]),
        ("?taskType=echo", ["1", "2"]),
        ("?tag=a", ["2", "3"]),
        ("?taskType=echo&status=FAILED", ["2"]),
        ("?taskType=echo&status=QUEUED&tag=a", []),
        ("?tag=", []),
    ],
)
async def test_filters_narrow_together(world: World, query: str, expected: list[str]) -> None:
    begin = told(world, "QUEUED", "0")
    told(world, "QUEUED", "1")
    told(world, "FAILED", "2", tags='["a", "b"]')
    told(world, "QUEUED", "3", taskType="mail", tags='["a"]')
    told(world, "FAILED", "4", taskType="mail")
    found = await until_now(world, query, begin)
    assert [change["taskId"] for name, change, _ in found if name == "status"] == expected


@pytest.mark.parametrize(
    ("query", "field"), [("?status=DONE", "status"), ("?state=FAILED", "state"), ("?tag=a&tag=b", "tag")]
)
async def test_a_filter_that_is_none_is_refused(world: World, query: str, field: str) -> None:
    check_problem(await world.http.get(f"/events{query}"), 400, "invalid_parameter", field)


@pytest.mark.parametrize("place", ["x", "1-", "-1", "1-0\t", "$"])
async def test_a_place_that_no_stream_has_is_refused(world: World, place: str) -> None:
    answer = await world.http.get("/events", headers={"last-event-id": place})
    check_problem(answer, 400, "invalid_header", "Last-Event-ID")


async def test_a_client_whose_place_is_gone_is_told_and_goes_on_from_now(world: World) -> None:
    told(world, "QUEUED")
    last = told(world, "COMPLETED")
    found = await until_now(world, after="17-0")
    assert [(name, place) for name, _, place in found] == [("subscribed", "17-0"), ("reset", last)]


async def test_another_tenants_place_is_no_place_and_its_changes_are_not_told(world: World) -> None:
    theirs = told(world, "QUEUED", tenant="acme")
    told(world, "COMPLETED", tenant="acme")
    found = await until_now(world, after=theirs)
    assert [name for name, _, _ in found] == ["subscribed", "reset"]


async def test_what_happens_is_told_as_it_happens(world: World) -> None:
    reader = Reader(world)
    assert (await reader.event())[0] == "subscribed"
    for status in ("QUEUED", "IN_PROGRESS", "COMPLETED"):
        place = told(world, status)
        name, change, event_id = await reader.event()
        assert (name, change["status"], event_id) == ("status", status, place)
    await reader.events.aclose()
    assert len(reader.waiters) == 0


async def test_a_flush_is_told_once_all_is_written_anew(world: World) -> None:
    reader = Reader(world, heartbeat=0.0)
    told(world, "QUEUED")
    await reader.event()
    world.read_model.streams.clear()
    world.read_model.marks.clear()
    for _ in range(3):
        assert (await reader.next()).startswith(": "), "a list would be refused now"
    world.read_model.marks = {"default": PARTITIONS, "big": PARTITIONS}
    assert (await reader.event())[0] == "reset"
    told(world, "COMPLETED")
    assert (await reader.event())[1]["status"] == "COMPLETED"
    await reader.events.aclose()


async def test_what_was_written_anew_may_be_news(world: World) -> None:
    reader = Reader(world)
    told(world, "QUEUED")
    await reader.event()
    for _ in range(8):
        place = world.read_model.tell(reset="1")
    assert (await reader.event()) == ("reset", {}, place)
    place = told(world, "COMPLETED")
    assert (await reader.event())[2] == place
    await reader.events.aclose()


async def test_a_heartbeat_has_the_place_that_a_client_has_come_to(world: World) -> None:
    reader = Reader(world, heartbeat=0.0)
    await reader.event()
    place = world.read_model.tell(begin="1")
    while f"\nid: {place}\n\n" not in (beat := await reader.next()):
        assert beat.startswith(": nothing new\nid: ")
    await reader.events.aclose()


async def test_a_read_model_that_was_away_costs_nothing(world: World) -> None:
    reader = Reader(world, heartbeat=0.0)
    await reader.event()
    world.read_model.down = "refused"
    place = told(world, "QUEUED")
    for _ in range(3):
        assert (await reader.next()).startswith(": ")
    world.read_model.down = ""
    assert (await reader.event())[2] == place
    await reader.events.aclose()


async def test_who_may_read_no_more_is_told_nothing_more(world: World) -> None:
    reader = Reader(world, heartbeat=0.0)
    await reader.event()
    reader.admitted = False
    assert await reader.ends()


async def test_while_tasks_are_missing_nobody_begins(world: World) -> None:
    world.read_model.marks.clear()
    world.commands.served.add("default")
    check_problem(await world.http.get("/events"), 503, "read_model_unavailable", None)


async def test_head_of_the_stream_ends_at_once(world: World) -> None:
    answer = await world.http.head("/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"


async def test_the_openapi_document_has_the_filters(world: World) -> None:
    document: dict[str, Any] = (await world.http.get("/openapi.json")).json()
    named = {one["name"] for one in document["paths"]["/events"]["get"]["parameters"]}
    assert named == {"status", "taskType", "tag", "Last-Event-ID"}
