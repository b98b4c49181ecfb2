from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from scripted import TASK_ID, ScriptedGateway

from mayfly.client import (
    ApiError,
    AsyncClient,
    ChangeEvent,
    Client,
    LogEvent,
    ResetEvent,
    StatusEvent,
    UnexpectedAnswer,
    Unreachable,
)
from mayfly.client import events as client_events
from mayfly.client.events import ChangeStream, EventStream, Messages
from mayfly.client.wire import Pause

EVENTS = f"GET /tasks/{TASK_ID}/events"
CHANGES = "GET /events"
HEADERS = {"content-type": "text/event-stream; charset=utf-8"}


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def client(gateway: ScriptedGateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


@pytest.fixture
async def async_client(gateway: ScriptedGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.url) as client:
        yield client


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_events, "AGAIN_PAUSES", (0, 0))


def plain(events: list[Any]) -> list[str]:
    return [event.text if isinstance(event, LogEvent) else event.task.status.value for event in events]


def whole_way(gateway: ScriptedGateway) -> None:
    """A stream that breaks in its middle, and what goes on from there."""
    queued, running = ("status", gateway.task("QUEUED")), ("status", gateway.task("IN_PROGRESS"))
    gateway.stream(EVENTS, queued, running, ("log", {"text": "one\n"}), cut=True)
    gateway.stream(EVENTS, running, ("log", {"text": "two\n"}), ("status", gateway.task("COMPLETED")))


def test_what_happens_comes_in_order_until_the_end(gateway: ScriptedGateway, client: Client) -> None:
    whole_way(gateway)
    assert plain(list(client.events(TASK_ID))) == ["QUEUED", "IN_PROGRESS", "one\n", "two\n", "COMPLETED"]


def test_a_stream_that_broke_goes_on_after_the_last_event(gateway: ScriptedGateway, client: Client) -> None:
    whole_way(gateway)
    list(client.events(TASK_ID))
    first, second = gateway.requests
    assert first.headers["accept"] == "text/event-stream"
    assert "last-event-id" not in first.headers
    assert second.headers["last-event-id"] == "3"


def test_the_task_in_a_status_is_typed(gateway: ScriptedGateway, client: Client) -> None:
    running = gateway.task("IN_PROGRESS", progress={"fraction": 0.5})
    gateway.stream(EVENTS, ("status", running), ("status", gateway.task("COMPLETED", result=[1])))
    events = [event for event in client.events(TASK_ID) if isinstance(event, StatusEvent)]
    assert events[0].task.progress is not None
    assert events[0].task.progress.fraction == 0.5
    assert events[1].task.result == [1]


def test_a_reader_may_leave_before_the_end(gateway: ScriptedGateway, client: Client) -> None:
    gateway.stream(EVENTS, ("status", gateway.task("QUEUED")), cut=True)
    for _ in client.events(TASK_ID):
        break
    gateway.answer("GET /workers", {"workers": []})
    assert client.workers() == ()


def test_a_stream_that_keeps_breaking_without_a_word_is_given_up(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.lose(EVENTS)
    with pytest.raises(Unreachable):
        list(client.events(TASK_ID))
    assert len(gateway.requests) == 3


def test_a_gateway_that_cannot_do_it_now_is_asked_again(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse(EVENTS, 503, "read_model_unavailable", "Redis is away")
    gateway.stream(EVENTS, ("status", gateway.task("COMPLETED")))
    assert plain(list(client.events(TASK_ID))) == ["COMPLETED"]


def test_a_task_that_there_is_not_has_no_events(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse(EVENTS, 404, "unknown_task", "no such task")
    with pytest.raises(ApiError, match="no such task"):
        list(client.events(TASK_ID))
    assert len(gateway.requests) == 1


def test_an_answer_that_is_no_stream_is_said_to_be_none(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(EVENTS, {"taskId": TASK_ID})
    with pytest.raises(UnexpectedAnswer, match="no stream of events"):
        list(client.events(TASK_ID))


async def test_the_async_client_follows_a_task_too(
    gateway: ScriptedGateway, async_client: AsyncClient
) -> None:
    whole_way(gateway)
    events = [event async for event in async_client.events(TASK_ID)]
    assert plain(events) == ["QUEUED", "IN_PROGRESS", "one\n", "two\n", "COMPLETED"]
    assert gateway.requests[1].headers["last-event-id"] == "3"


async def test_the_async_client_says_why_there_is_no_stream(
    gateway: ScriptedGateway, async_client: AsyncClient
) -> None:
    gateway.refuse(EVENTS, 404, "unknown_task", "no such task")
    with pytest.raises(ApiError, match="no such task"):
        _ = [event async for event in async_client.events(TASK_ID)]


# --- the changes of all tasks


def change(gateway: ScriptedGateway, status: str, **rest: Any) -> tuple[str, Any]:
    return "status", gateway.task(status, at="2026-11-24T12:00:00.123Z", tags=["a"], **rest)


def changes(gateway: ScriptedGateway) -> None:
    """A stream that ends as a gateway's does that stops, and one that goes on."""
    gateway.stream(CHANGES, ("subscribed", {}), change(gateway, "QUEUED"), ("unheard-of", {}))
    gateway.stream(CHANGES, ("subscribed", {}), ("reset", {}), change(gateway, "FAILED", errorType="E"))


def test_the_changes_of_all_tasks_come_typed_and_with_their_ids(
    gateway: ScriptedGateway, client: Client
) -> None:
    changes(gateway)
    stream = client.stream()
    first, second, third = (next(stream) for _ in range(3))
    assert isinstance(first, ChangeEvent)
    assert (first.change.status.value, first.change.task_id, first.id) == ("QUEUED", TASK_ID, "2")
    assert (first.change.tags, first.change.at.year) == (("a",), 2026)
    assert second == ResetEvent("2")
    assert isinstance(third, ChangeEvent)
    assert third.change.error_type == "E"


def test_the_filters_and_the_place_to_go_on_from_are_sent(gateway: ScriptedGateway, client: Client) -> None:
    changes(gateway)
    stream = client.stream(task_type="echo", status="FAILED", tag="a", last_event_id="17-3")
    for _ in range(2):
        next(stream)
    first, second = gateway.requests
    assert first.query == [("taskType", "echo"), ("status", "FAILED"), ("tag", "a")]
    assert first.headers["last-event-id"] == "17-3"
    assert second.query == first.query
    assert second.headers["last-event-id"] == "3", "that of the last event, whether it says anything or not"


async def test_the_async_client_has_the_changes_too(
    gateway: ScriptedGateway, async_client: AsyncClient
) -> None:
    changes(gateway)
    stream = async_client.stream()
    assert [type(await anext(stream)) for _ in range(3)] == [ChangeEvent, ResetEvent, ChangeEvent]


def test_a_heartbeat_moves_the_place_and_half_an_event_does_not() -> None:
    stream = ChangeStream(None, None, None, None)
    stream.request()
    assert stream.opens(200, HEADERS)
    assert list(stream.feed(b": nothing new\nid: 5-0\n\nevent: status\nid: 6-0\ndata: {")) == []
    assert stream.request().headers["last-event-id"] == "5-0"


def test_a_stream_that_was_open_and_fell_silent_is_no_failure() -> None:
    stream = EventStream(TASK_ID)
    for _ in range(10):
        stream.request()
        assert stream.opens(200, HEADERS)
        assert stream.broken(Unreachable("http://x", "no answer in time"), silent=True) == Pause(0)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_messages_are_the_same_however_they_are_cut(size: int) -> None:
    first = ": hello\r\nid: 7\r\nevent: log\r\ndata: ü\r\ndata:  b\r\n\r\n"
    body = (first + "event: none\n\ndata: x\n\ndata: cut").encode()
    messages = Messages()
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    found = [message for piece in pieces for message in messages.feed(piece)]
    assert found == [("log", "ü\n b", "7"), ("message", "x", "7")]
