"""The same events over a WebSocket."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_world import World, check_problem
from socket_world import Socket
from test_gateway_feed import told
from test_gateway_identity import a_world, bearer, key

from gateway import flow
from mayfly.identity.principal import Scope


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(flow, "BREATH_SECONDS", 0.001)
    world = World()
    following = asyncio.create_task(world.gateway.waiters.follow())
    async with world.http:
        yield world
    following.cancel()


async def test_a_client_subscribes_and_is_told_what_happens(world: World) -> None:
    async with Socket(world) as socket:
        socket.say({"subscribe": {"taskType": "echo"}})
        first = await socket.hear()
        filters = {"taskType": "echo", "status": None, "tag": None}
        assert (first["event"], first["data"]) == ("subscribed", filters)
        told(world, "QUEUED", taskType="mail")
        place = told(world, "COMPLETED")
        change = await socket.hear()
        assert (change["id"], change["event"], change["data"]["status"]) == (place, "status", "COMPLETED")
    assert len(world.gateway.waiters) == 0


async def test_a_client_that_comes_back_goes_on_where_it_was(world: World) -> None:
    begin, first, second = told(world, "QUEUED"), told(world, "IN_PROGRESS"), told(world, "COMPLETED")
    async with Socket(world) as socket:
        socket.say({"subscribe": {}, "lastEventId": begin})
        assert [(await socket.hear())["id"] for _ in range(3)] == [begin, first, second]
        socket.say({"subscribe": {}, "lastEventId": "17-0"})
        assert [(await socket.hear())["event"] for _ in range(2)] == ["subscribed", "reset"]


async def test_another_subscription_takes_the_place_of_the_one_before(world: World) -> None:
    async with Socket(world) as socket:
        socket.say({"subscribe": {"status": "FAILED"}})
        await socket.hear()
        socket.say({"subscribe": {"status": "COMPLETED"}})
        assert (await socket.hear())["data"]["status"] == "COMPLETED"
        told(world, "FAILED")
        told(world, "COMPLETED")
        assert (await socket.hear())["data"]["status"] == "COMPLETED"
        assert len(world.gateway.waiters) == 1


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("no json", None),
        (b"\x00", None),
        ([], None),
        ({}, None),
        ({"subscribe": {}, "ping": 1}, None),
        ({"unsubscribe": {}}, "unsubscribe"),
        ({"subscribe": {"state": "FAILED"}}, "subscribe.state"),
        ({"subscribe": {"status": "DONE"}}, "subscribe.status"),
        ({"subscribe": {}, "lastEventId": "x"}, "lastEventId"),
    ],
)
async def test_what_is_not_understood_is_answered_and_the_connection_goes_on(
    world: World, message: Any, field: str | None
) -> None:
    async with Socket(world) as socket:
        socket.say(message)
        answer = await socket.hear()
        assert (answer["event"], answer["data"]["code"]) == ("error", "invalid_message")
        assert answer["data"].get("field") == field
        socket.say({"ping": "still there?"})
        assert await socket.hear() == {"id": None, "event": "pong", "data": "still there?"}


async def test_a_slow_reader_is_read_for_at_its_own_pace_and_told_what_it_missed(world: World) -> None:
    async with Socket(world) as socket:
        socket.say({"subscribe": {}})
        await socket.hear()
        socket.writable.clear()
        told(world, "QUEUED")
        while world.read_model.told.qsize():
            await asyncio.sleep(0)
        # Redis has let go of all that came meanwhile.
        for _ in range(3):
            told(world, "COMPLETED")
        del world.read_model.streams["default"][:-1]
        last = told(world, "FAILED")
        socket.writable.set()
        while (heard := await socket.hear())["event"] != "reset":
            pass
        assert heard["id"] == last


async def test_a_gateway_that_stops_closes_its_sockets(world: World) -> None:
    async with Socket(world) as socket:
        socket.say({"subscribe": {}})
        await socket.hear()
        world.gateway.waiters.close()
        assert await socket.closed() == 1012


# --- who may


@pytest.mark.parametrize("subprotocols", [("mayfly", "bearer.{key}"), ("Bearer.{key}", "mayfly")])
async def test_a_browser_says_who_it_is_with_a_subprotocol(subprotocols: tuple[str, ...]) -> None:
    world = a_world()
    credential = key(world, Scope.READ)
    offered = tuple(name.format(key=credential) for name in subprotocols)
    async with Socket(world, subprotocols=offered) as socket:
        assert (socket.answer, socket.subprotocol) == (None, "mayfly")


async def test_a_credential_is_never_taken_as_the_subprotocol() -> None:
    world = a_world()
    credential = key(world, Scope.READ)
    async with Socket(world, subprotocols=(f"bearer.{credential}",)) as socket:
        assert socket.answer is not None
        problem = check_problem(socket.answer, 400, "invalid_header", "Sec-WebSocket-Protocol")
        assert credential not in str(problem)


async def test_two_credentials_are_refused() -> None:
    world = a_world()
    credential = key(world, Scope.READ)
    offered = ("mayfly", f"bearer.{credential}")
    async with Socket(world, headers=bearer(credential), subprotocols=offered) as socket:
        assert socket.answer is not None
        check_problem(socket.answer, 401, "unauthenticated", None)


async def test_a_credential_in_the_query_is_refused() -> None:
    world = a_world()
    async with Socket(world, query=f"access_token={key(world, Scope.READ)}") as socket:
        assert socket.answer is not None
        check_problem(socket.answer, 401, "unauthenticated", None)


async def test_a_query_is_refused(world: World) -> None:
    async with Socket(world, query="status=FAILED") as socket:
        assert socket.answer is not None
        check_problem(socket.answer, 400, "invalid_parameter", "status")


async def test_each_tenant_hears_of_its_own_tasks() -> None:
    world = a_world()
    begin = told(world, "QUEUED", tenant="acme")
    told(world, "COMPLETED", tenant="other")
    mine = told(world, "FAILED", tenant="acme")
    async with Socket(world, headers=bearer(key(world, Scope.READ, tenant="acme"))) as socket:
        socket.say({"subscribe": {}, "lastEventId": begin})
        assert [(await socket.hear())["id"] for _ in range(2)] == [begin, mine]


async def test_a_key_that_is_revoked_hears_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = a_world()
    monkeypatch.setattr(world.gateway._sockets, "_heartbeat", 0.0)
    monkeypatch.setattr(world.gateway.waiters, "_recheck", 0.001)
    async with Socket(world, headers=bearer(key(world, Scope.READ))) as socket:
        socket.say({"subscribe": {}})
        await socket.hear()
        world.control.book.keys.clear()
        assert await socket.closed() == 1008


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"host": "evil.example"}, 421, "invalid_host"),
        ({"origin": "https://evil.example"}, 403, "foreign_origin"),
        ({"origin": "null"}, 403, "foreign_origin"),
    ],
)
async def test_a_page_of_another_site_opens_none(
    world: World, headers: dict[str, str], status: int, code: str
) -> None:
    async with Socket(world, headers=headers) as socket:
        assert socket.answer is not None
        check_problem(socket.answer, status, code, None)


async def test_a_page_of_its_own_opens_one(world: World) -> None:
    async with Socket(world, headers={"origin": "http://127.0.0.1:8080"}) as socket:
        assert socket.answer is None


@pytest.mark.parametrize("path", ["/", "/tasks", "/ws", "/events/"])
async def test_there_is_no_other_socket(world: World, path: str) -> None:
    async with Socket(world, path) as socket:
        assert socket.answer is not None
        check_problem(socket.answer, 404, "not_found", None)


async def test_heartbeats_have_the_place_that_a_client_has_come_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.gateway._sockets, "_heartbeat", 0.0)
    monkeypatch.setattr(world.gateway.waiters, "_recheck", 0.001)
    async with Socket(world) as socket:
        socket.say({"subscribe": {"status": "FAILED"}})
        await socket.hear()
        place = told(world, "QUEUED")
        while (heard := await socket.hear())["id"] != place:
            assert heard["event"] == "heartbeat"
