"""A tenant's changes as a stream in a real Redis, and as a real gateway tells them: over server-sent events,
over a WebSocket, and to the client."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx
import pytest
from gateway_process import PATIENCE, Process, StartGateway, until
from pydantic import SecretStr
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mayfly.adapters.redis import ReadModel
from mayfly.client import AsyncClient, ChangeEvent, ResetEvent
from mayfly.identity.keys import new_credential
from mayfly.settings import Settings
from mayfly.task import Lane, Status, new_task_id
from mayfly.view import Change, QueuedTask

DATABASE = "/11"
"""Of the session's Redis, and of these tests alone: they flush it."""
AT = 1_795_524_976_123
ACME = "acme"


@pytest.fixture
def url(settings: Settings) -> str:
    parts = urlsplit(settings.redis.get_secret_value())
    return urlunsplit(parts._replace(path=DATABASE))


@pytest.fixture
async def redis(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url, decode_responses=True) as redis:
        await redis.flushdb()
        yield redis


@pytest.fixture
async def model(settings: Settings, url: str, redis: Redis) -> AsyncIterator[ReadModel]:
    model = ReadModel(settings.model_copy(update={"redis": SecretStr(url)}))
    yield model
    await model.close()


def task(kind: str = "echo", tenant: str = "default", tags: tuple[str, ...] = ()) -> QueuedTask:
    return QueuedTask(
        task_id=new_task_id(),
        task_type=kind,
        queue="default",
        priority=Lane.NORMAL,
        partition=0,
        offset=0,
        created_at=AT,
        payload_bytes=2,
        content_type="application/json",
        tags=tags,
        tenant=tenant,
    )


def change(one: QueuedTask, offset: int, status: Status | None, **fields: str) -> Change:
    return Change(one.task_id, 0, offset, status, fields)


def whole(one: QueuedTask, end: Status = Status.COMPLETED, **fields: str) -> list[Change]:
    return [change(one, 1, Status.IN_PROGRESS, attempt="1"), change(one, 2, end, attempt="1", **fields)]


async def stream(redis: Redis, tenant: str = "") -> list[tuple[str, str]]:
    """What a tenant's stream holds: each task with its status, or what else an entry says."""
    entries = await redis.xrange(f"mayfly:events{tenant}")
    return [(fields.get("taskId") or next(iter(fields)), fields.get("status", "")) for _, fields in entries]


# --- what is written


async def test_each_change_is_an_entry_with_what_filters_ask_for(model: ReadModel, redis: Redis) -> None:
    one = task("mail", tags=("a", "ü"))
    await model.queued(one)
    await model.project([one], whole(one, Status.FAILED, errorType="Function.Error"))
    fields = [fields for _, fields in await redis.xrange("mayfly:events")]
    same = {"taskId": one.task_id, "taskType": "mail", "tags": json.dumps(("a", "ü"))}
    assert fields == [
        {**same, "status": "QUEUED", "attempt": "", "errorType": ""},
        {**same, "status": "IN_PROGRESS", "attempt": "1", "errorType": ""},
        {**same, "status": "FAILED", "attempt": "1", "errorType": "Function.Error"},
    ]


async def test_what_is_written_twice_is_told_once(model: ReadModel, redis: Redis) -> None:
    one = task()
    for _ in range(3):
        await model.project([one], whole(one))
    assert [status for _, status in await stream(redis)] == ["QUEUED", "IN_PROGRESS", "COMPLETED"]


async def test_a_change_of_something_else_comes_with_the_same_status(model: ReadModel, redis: Redis) -> None:
    one = task()
    await model.project([one], [change(one, 1, None, cancelRequestedAt="now")])
    assert await stream(redis) == [(one.task_id, "QUEUED")] * 2


async def test_each_tenants_changes_are_its_own_whatever_comes_first(model: ReadModel, redis: Redis) -> None:
    ours, theirs, late = task(), task(tenant=ACME), task(tenant=ACME)
    await model.project([ours, theirs], whole(theirs))
    # Before its command, nobody knows whose it is.
    await model.project([], whole(late))
    assert await stream(redis) == [(ours.task_id, "QUEUED")]
    await model.project([late], [])
    assert await stream(redis) == [(ours.task_id, "QUEUED")]
    assert (await stream(redis, "@acme"))[3:] == [(late.task_id, "COMPLETED")]


async def test_what_is_written_anew_is_no_news_but_its_end_is(model: ReadModel, redis: Redis) -> None:
    ours, theirs = task(), task(tenant=ACME)
    await model.begin_rebuild("default", 0, "token")
    await model.project([ours, theirs], whole(ours), quiet=True)
    assert await redis.exists("mayfly:events", "mayfly:events@acme") == 0
    assert await model.end_rebuild("default", 0, "token", "mark")
    assert await model.end_rebuild("default", 0, "token", "mark"), "its answer lost, it may be asked again"
    assert await stream(redis) == [("reset", "")]
    assert await stream(redis, "@acme") == [("reset", "")]


async def test_reading_goes_on_behind_an_entry_that_is_there(model: ReadModel, redis: Redis) -> None:
    place = await model.events_place("default")
    assert await model.events_place("default") == place
    ids = []
    for _ in range(5):
        await model.queued(task())
        ids.append((await redis.xrevrange("mayfly:events", count=1))[0][0])
    found = await model.events("default", place, 3)
    assert found is not None
    assert [one.id for one in found] == ids[:3]
    assert await model.events("default", ids[-1], 3) == []
    assert await model.events("default", "17-0", 3) is None
    assert await model.events(ACME, place, 3) is None
    await redis.flushdb()
    assert await model.events("default", place, 3) is None


async def test_what_is_old_goes_but_for_the_last(model: ReadModel, redis: Redis) -> None:
    for tenant in ("default", ACME):
        for _ in range(3):
            await model.queued(task(tenant=tenant))
    middle = (await redis.xrange("mayfly:events"))[1][0]
    await model.trim_events(int(middle.partition("-")[0]) - 1000)
    assert len(await stream(redis)) == 3
    await model.trim_events(AT * 2)
    assert (len(await stream(redis)), len(await stream(redis, "@acme"))) == (1, 1)
    last = await model.events_place("default")
    await model.queued(task())
    assert await model.events("default", last, 10), "who was told the last goes on behind it"


async def test_a_stream_is_bounded(model: ReadModel, redis: Redis) -> None:
    pipeline = redis.pipeline()
    for _ in range(50_200):
        pipeline.xadd("mayfly:events", {"x": "y"})
    await pipeline.execute()
    await model.queued(task())
    assert await redis.xlen("mayfly:events") < 50_200


# --- a gateway


@pytest.fixture
def gateway(start_gateway: StartGateway, url: str) -> Process:
    return start_gateway(MAYFLY_REDIS=url)


async def ready(http: httpx.AsyncClient, redis: Redis) -> None:
    await until(http, "/readyz", 200)
    await mark(http, redis)


async def mark(http: httpx.AsyncClient, redis: Redis) -> None:
    """Stands in for the dispatchers of the queues that others have served in this session."""
    async with asyncio.timeout(PATIENCE):
        while queues := (await until(http, "/rebuild", 200)).json()["queues"]:
            for queue in queues:
                await redis.hset(f"mayfly:positions:{queue}", mapping={str(at): "x" for at in range(100)})


async def read(answer: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any], str]]:
    """The events of a stream: name, data, id."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line and "data" in fields:
            yield fields["event"], json.loads(fields["data"]), fields["id"]
        if not line:
            fields = {}
            continue
        name, _, value = line.partition(": ")
        fields[name] = value


async def test_a_reader_that_reconnects_loses_nothing_and_gets_nothing_twice(
    gateway: Process, model: ReadModel, redis: Redis
) -> None:
    tasks = [task() for _ in range(150)]

    async def work() -> None:
        for one in tasks:
            await model.project([one], whole(one))

    async with gateway.client() as http:
        await ready(http, redis)
        place = await model.events_place("default")
        working = asyncio.create_task(work())
        got: list[tuple[str, str]] = []
        async with asyncio.timeout(PATIENCE):
            while len(got) < 3 * len(tasks):
                async with http.stream("GET", "/events", headers={"last-event-id": place}) as answer:
                    taken = 0
                    async for name, data, last in read(answer):
                        place = last
                        if name == "status":
                            got.append((data["taskId"], data["status"]))
                            taken += 1
                        if taken == 17 or len(got) == 3 * len(tasks):
                            break
        await working
    expected = [(one.task_id, status) for one in tasks for status in ("QUEUED", "IN_PROGRESS", "COMPLETED")]
    assert got == expected


async def test_after_a_flush_a_reader_is_told_so_and_goes_on(
    gateway: Process, model: ReadModel, redis: Redis
) -> None:
    async with gateway.client() as http:
        await ready(http, redis)
        async with asyncio.timeout(PATIENCE), http.stream("GET", "/events") as answer:
            events = read(answer)
            assert (await anext(events))[0] == "subscribed"
            await model.queued(task())
            name, _, before = await anext(events)
            assert name == "status"
            await redis.flushdb()
            await mark(http, redis)
            name, _, after = await anext(events)
            assert name == "reset"
            one = task()
            await model.queued(one)
            assert (await anext(events))[1]["taskId"] == one.task_id
        async with http.stream("GET", "/events", headers={"last-event-id": before}) as answer:
            events = read(answer)
            assert [(await anext(events))[0] for _ in range(2)] == ["subscribed", "reset"]
        async with http.stream("GET", "/events", headers={"last-event-id": after}) as answer:
            events = read(answer)
            assert [(await anext(events))[0] for _ in range(2)] == ["subscribed", "status"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=FAILED", ["a:FAILED", "c:FAILED"]),
        ("taskType=mail", ["b:QUEUED", "b:IN_PROGRESS", "b:COMPLETED"]),
        ("tag=x", ["a:QUEUED", "a:IN_PROGRESS", "a:FAILED", "b:QUEUED", "b:IN_PROGRESS", "b:COMPLETED"]),
        ("tag=x&status=COMPLETED", ["b:COMPLETED"]),
        ("taskType=echo&status=FAILED&tag=x", ["a:FAILED"]),
    ],
)
async def test_filters_narrow_together(
    gateway: Process, model: ReadModel, redis: Redis, query: str, expected: list[str]
) -> None:
    a, b, c = task(tags=("x", "y")), task("mail", tags=("x",)), task()
    wanted = dict(parse_qsl(query))
    last, end = task(wanted.get("taskType", "echo"), tags=("x",)), Status(wanted.get("status", "QUEUED"))
    names = {a.task_id: "a", b.task_id: "b", c.task_id: "c", last.task_id: "last"}
    async with gateway.client() as http:
        await ready(http, redis)
        begin = await model.events_place("default")
        for one, status in ((a, Status.FAILED), (b, Status.COMPLETED), (c, Status.FAILED)):
            await model.project([one], whole(one, status))
        await model.project([last], [change(last, 1, end)] if end is not Status.QUEUED else [])
        headers = {"last-event-id": begin}
        async with (
            asyncio.timeout(PATIENCE),
            http.stream("GET", f"/events?{query}", headers=headers) as answer,
        ):
            events = read(answer)
            await anext(events)
            found = [await anext(events) for _ in range(len(expected) + 1)]
    told = [f"{names[data['taskId']]}:{data['status']}" for _, data, _ in found]
    assert told == [*expected, f"last:{end}"]


async def test_the_client_goes_on_over_a_gateway_that_starts_anew(
    start_gateway: StartGateway, url: str, model: ReadModel, redis: Redis
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    first = start_gateway(MAYFLY_REDIS=url, MAYFLY_PORT=port)
    one, two, three = task(), task(), task()
    async with first.client() as http, AsyncClient(first.url) as client:
        await ready(http, redis)
        place = await model.events_place("default")
        stream = client.stream(task_type="echo", last_event_id=place)
        async with asyncio.timeout(PATIENCE):
            await model.queued(one)
            assert await taken(stream) == one.task_id
            assert await asyncio.to_thread(first.end) == 0
            await model.queued(two)
            again = start_gateway(MAYFLY_REDIS=url, MAYFLY_PORT=port)
            async with again.client() as anew:
                await until(anew, "/healthz", 200)
                await model.queued(three)
                assert [await taken(stream), await taken(stream)] == [two.task_id, three.task_id]
                await redis.flushdb()
                await mark(anew, redis)
                assert isinstance(await anext(stream), ResetEvent)
    assert "Traceback" not in first.errors + again.errors


async def taken(stream: AsyncIterator[Any]) -> str:
    event = await anext(stream)
    assert isinstance(event, ChangeEvent)
    return event.change.task_id


# --- a WebSocket


def opened(gateway: Process, **options: Any) -> connect:
    # As patient as all the rest: the library's own limits are those of a quick machine.
    patient = {"open_timeout": PATIENCE, "close_timeout": PATIENCE, "ping_timeout": None}
    return connect(f"{gateway.url.replace('http', 'ws')}/events", proxy=None, **patient, **options)


async def heard(connection: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        message: dict[str, Any] = json.loads(await connection.recv())
        return message


async def test_a_websocket_tells_the_same_and_goes_on_after_an_error(
    gateway: Process, model: ReadModel, redis: Redis
) -> None:
    one = task()
    async with gateway.client() as http:
        await ready(http, redis)
    async with opened(gateway) as connection:
        await connection.send("nonsense")
        error = await heard(connection)
        assert (error["event"], error["data"]["code"]) == ("error", "invalid_message")
        await (await connection.ping())
        await connection.send(json.dumps({"subscribe": {"status": "COMPLETED"}}))
        begin = await heard(connection)
        await model.project([one], whole(one))
        told = await heard(connection)
        assert (told["data"]["taskId"], told["data"]["status"]) == (one.task_id, "COMPLETED")
    async with opened(gateway) as connection:
        await connection.send(json.dumps({"subscribe": {}, "lastEventId": begin["id"]}))
        statuses = [(await heard(connection))["data"].get("status") for _ in range(4)]
        assert statuses == [None, "QUEUED", "IN_PROGRESS", "COMPLETED"]
        await connection.send("x" * 20_000)
        with pytest.raises(ConnectionClosed) as closed:
            await heard(connection)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    assert gateway.errors.count("Traceback") == 0


async def test_a_gateway_that_stops_closes_its_websockets(gateway: Process, redis: Redis) -> None:
    async with gateway.client() as http:
        await ready(http, redis)
    async with opened(gateway) as idle, opened(gateway) as following:
        await following.send(json.dumps({"subscribe": {}}))
        await heard(following)
        assert await asyncio.to_thread(gateway.end) == 0
        for connection in (idle, following):
            with pytest.raises(ConnectionClosed) as closed:
                await heard(connection)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
    assert gateway.errors.count("Traceback") == 0


@pytest.fixture
def asking(start_gateway: StartGateway, url: str) -> tuple[Process, dict[str, str]]:
    """A gateway that asks who calls, and its operator's header."""
    admin = str(new_credential())
    process = start_gateway(MAYFLY_REDIS=url, MAYFLY_AUTH="true", MAYFLY_ADMIN_KEY=admin)
    return process, {"authorization": f"Bearer {admin}"}


async def milliseconds(redis: Redis) -> int:
    seconds, micros = await redis.time()
    return seconds * 1000 + micros // 1000


async def test_each_tenant_hears_of_its_own_tasks_only(
    asking: tuple[Process, dict[str, str]], model: ReadModel, redis: Redis
) -> None:
    gateway, operator = asking
    ours, theirs = task(tenant=ACME), task()
    async with gateway.client() as http:
        http.headers.update(operator)
        await ready(http, redis)
        body = {"scopes": ["read"], "tenant": ACME}
        key = (await http.post("/keys", json=body)).json()["key"]
        place = await model.events_place(ACME)
        # Written in the same millisecond, an entry of another tenant's could have the same id.
        while await milliseconds(redis) <= int(place.partition("-")[0]):
            pass
        await model.project([theirs, ours], [*whole(theirs), *whole(ours)])
        headers = {"authorization": f"Bearer {key}", "last-event-id": place}
        async with asyncio.timeout(PATIENCE), http.stream("GET", "/events", headers=headers) as answer:
            events = read(answer)
            await anext(events)
            assert {(await anext(events))[1]["taskId"] for _ in range(3)} == {ours.task_id}
    with pytest.raises(InvalidStatus) as refused:
        async with opened(gateway):
            pass
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["code"] == "unauthenticated"
    async with opened(gateway, subprotocols=["mayfly", f"bearer.{key}"]) as connection:
        assert connection.subprotocol == "mayfly"
        await connection.send(json.dumps({"subscribe": {}, "lastEventId": place}))
        await heard(connection)
        assert {(await heard(connection))["data"]["taskId"] for _ in range(3)} == {ours.task_id}
    async with opened(gateway, additional_headers=operator) as connection:
        await connection.send(json.dumps({"subscribe": {}, "lastEventId": place}))
        assert [(await heard(connection))["event"] for _ in range(2)] == ["subscribed", "reset"]
    assert key not in gateway.errors


async def test_a_page_of_another_site_opens_no_websocket(gateway: Process, redis: Redis) -> None:
    async with gateway.client() as http:
        await ready(http, redis)
    with pytest.raises(InvalidStatus) as refused:
        async with opened(gateway, origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    async with opened(gateway, origin=gateway.url):
        pass
