"""Connections over real sockets, with the waits cut short: nobody holds one by being slow."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import unquote_to_bytes

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from gateway import connections
from gateway.connections import HEAD_BYTES, Watch

Talk = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"
Cut = Callable[..., None]
PATIENCE = 60.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/flood` answers with more than any buffer holds, `/wait` after it was let go and `/head` with nothing
    but a head until then, others at once; `/whole` and `/short` say their length, and the query is a header
    of theirs. A WebSocket is kept."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    headers = [(b"content-type", b"text/plain")]
    if scope["path"] in ("/whole", "/short"):
        headers = [(b"content-length", b"4"), (b"x-given", unquote_to_bytes(scope["query_string"])), *headers]
        body = b"done" if scope["path"] == "/whole" else b"don"
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/flood":
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    if scope["path"] == "/wait":
        await send({"type": "http.response.body", "body": b"...", "more_body": True})
    if scope["path"] in ("/wait", "/head"):
        while (await receive())["type"] != "http.disconnect":
            pass
    await send({"type": "http.response.body", "body": b"done"})


@asynccontextmanager
async def serving(most: int = 100) -> AsyncIterator[tuple[Watch, Callable[[], Awaitable[Talk]]]]:
    watch = Watch(most)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=watch.protocol, ws="websockets-sansio", lifespan="off", log_config=None)  # type: ignore
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    running = asyncio.create_task(server.serve(sockets=[listener]))
    sweeping = asyncio.create_task(watch.sweep())
    port = listener.getsockname()[1]
    opened: list[Talk] = []

    async def connect() -> Talk:
        opened.append(await asyncio.open_connection("127.0.0.1", port, limit=2**24))
        return opened[-1]

    try:
        async with asyncio.timeout(PATIENCE):
            yield watch, connect
    finally:
        for _, writer in opened:
            writer.close()
        server.should_exit = server.force_exit = True
        sweeping.cancel()
        await running


@pytest.fixture(autouse=True)
def cut_short(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Gives what ends these waits; until then all are patient."""
    for name in ("HEAD_SECONDS", "IDLE_SECONDS", "BODY_LATE_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(connections, name, PATIENCE)
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.02)

    def cut(*names: str) -> None:
        for name in names:
            monkeypatch.setattr(connections, name, 0.05)

    return cut


async def ended(talk: Talk) -> bytes:
    """What came until the connection was closed."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := await talk[0].read(65536):
            data += more
    return data


async def answer(talk: Talk, sent: bytes) -> bytes:
    talk[1].write(sent)
    head = await talk[0].readuntil(b"\r\n\r\n")
    if b"chunked" in head:
        await talk[0].readuntil(b"0\r\n\r\n")
    return head


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n"])
async def test_a_head_that_does_not_come_to_its_end_is_not_waited_for(sent: bytes, cut_short: Cut) -> None:
    cut_short("HEAD_SECONDS")
    async with serving() as (watch, connect):
        talk = await connect()
        talk[1].write(sent)
        assert await ended(talk) == b""
        assert not watch._all


async def test_a_head_that_comes_a_byte_at_a_time_is_not_waited_for_either(cut_short: Cut) -> None:
    cut_short("HEAD_SECONDS")
    async with serving() as (_, connect):
        _, writer = talk = await connect()
        reading = asyncio.create_task(ended(talk))
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        while not reading.done():
            writer.write(b"x")
            await asyncio.sleep(0.005)
        assert reading.result() == b""


async def test_after_an_answer_the_next_head_is_waited_for_as_long(cut_short: Cut) -> None:
    async with serving() as (_, connect):
        talk = await connect()
        for _ in range(3):
            assert (await answer(talk, GET % b"")).startswith(b"HTTP/1.1 200")
        cut_short("HEAD_SECONDS")
        talk[1].write(b"\r\n")
        assert await ended(talk) == b""


async def test_a_connection_is_closed_that_is_idle_after_an_answer(cut_short: Cut) -> None:
    async with serving() as (watch, connect):
        fresh, begun, idle = await connect(), await connect(), await connect()
        for talk in (begun, idle):
            await answer(talk, GET % b"")
        begun[1].write(b"GET /")
        while not any(one._head for one in watch._all):
            await asyncio.sleep(0.01)
        cut_short("IDLE_SECONDS")
        assert await ended(idle) == b""
        for talk, sent in ((fresh, GET % b""), (begun, GET[len("GET /") :] % b"")):
            assert (await answer(talk, sent)).startswith(b"HTTP/1.1 200")


async def test_nor_does_a_body_hold_one_that_nobody_waits_for_any_more(cut_short: Cut) -> None:
    async with serving() as (_, connect):
        talk = await connect()
        talk[1].write(GET.replace(b"x\r\n", b"x\r\ncontent-length: 9\r\n") % b"whole")
        await talk[0].readuntil(b"done")
        cut_short("IDLE_SECONDS")
        assert await ended(talk) == b""


async def whole(talk: Talk, sent: bytes, end: bytes = b"done") -> bytes:
    talk[1].write(sent)
    return await talk[0].readuntil(end)


async def test_an_answer_that_comes_whole_is_as_it_would_be_otherwise() -> None:
    async with serving() as (watch, connect):
        talk = await connect()
        found = await whole(talk, GET % b"whole?a%09b")
        (connection,) = watch._all
        assert connection.cycle is not None
        assert connection.cycle.response_complete
        head, _, body = found.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 200 OK"
        assert {line.partition(b":")[0] for line in lines[1:]} >= {b"date", b"content-length", b"x-given"}
        assert b"x-given: a\tb" in lines
        assert body == b"done"
        # Two that are asked for at once, and one without its body.
        assert (await whole(talk, GET % b"whole" * 2)).count(b"HTTP/1.1 200") == 1
        assert (await whole(talk, b"")).count(b"HTTP/1.1 200") == 1
        headless = await whole(talk, (GET % b"whole").replace(b"GET", b"HEAD"), b"\r\n\r\n")
        assert b"content-length: 4\r\n" in headless
        assert (await whole(talk, GET % b"whole")).startswith(b"HTTP/1.1 200")


async def test_the_last_whole_answer_says_so() -> None:
    async with serving() as (_, connect):
        found = await whole(await connect(), GET.replace(b"x\r\n", b"x\r\nconnection: close\r\n") % b"whole")
        assert b"\r\nconnection: close\r\n" in found


@pytest.mark.parametrize("given", ["a%0d%0ax-more: 1", "a%0ab", "a%0db", "a%00b", "a%7fb"])
async def test_no_header_holds_another_one(given: str) -> None:
    async with serving() as (_, connect):
        talk = await connect()
        talk[1].write(GET % f"whole?{given}".replace(" ", "%20").encode())
        assert await ended(talk) == b""


async def test_a_body_that_is_shorter_than_its_head_says_is_no_answer() -> None:
    async with serving() as (_, connect):
        talk = await connect()
        talk[1].write(GET % b"short")
        assert (await ended(talk)).endswith(b"\r\n\r\ndon")


async def test_a_websocket_may_be_silent_and_counts_as_a_connection(cut_short: Cut) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    async with serving(most=1) as (watch, connect):
        talk = await connect()
        assert (await answer(talk, GET[:-2] % b"" + upgrade + key + b"\r\n")).startswith(b"HTTP/1.1 101")
        cut_short("HEAD_SECONDS", "BODY_LATE_SECONDS", "WRITE_SECONDS")
        began = watch.now
        while watch.now - began < 0.5:
            await asyncio.sleep(0.01)
        assert len(watch._all) == 1
        assert (await answer(await connect(), GET % b"")).startswith(b"HTTP/1.1 503")
        talk[1].close()
        while watch._all:
            await asyncio.sleep(0.01)
        assert (await answer(await connect(), GET % b"")).startswith(b"HTTP/1.1 200")


async def test_a_body_that_nobody_reads_is_not_waited_for(cut_short: Cut) -> None:
    async with serving() as (_, connect):
        _, writer = talk = await connect()
        head = await answer(talk, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        cut_short("BODY_LATE_SECONDS")
        reading = asyncio.create_task(ended(talk))
        while not reading.done():
            writer.write(b"x")
            await asyncio.sleep(0.005)


async def test_who_does_not_take_the_answer_is_let_go(cut_short: Cut) -> None:
    async with serving() as (watch, connect):
        _, writer = await connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET % b"flood")
        while not any(one.transport.get_write_buffer_size() for one in watch._all):
            await asyncio.sleep(0.01)
        cut_short("WRITE_SECONDS")
        while watch._all:
            await asyncio.sleep(0.01)


async def test_who_takes_the_answer_gets_all_of_it(cut_short: Cut) -> None:
    cut_short("BODY_LATE_SECONDS")
    async with serving() as (_, connect):
        talk = await connect()
        talk[1].write(GET % b"flood" + GET % b"")
        size = 0
        while size < 1000 * 65536:
            size += len(await talk[0].read(2**20))


async def test_an_answer_that_takes_its_time_is_waited_for(cut_short: Cut) -> None:
    async with serving() as (watch, connect):
        talk = await connect()
        talk[1].write(GET % b"wait")
        await talk[0].readuntil(b"...")
        cut_short("HEAD_SECONDS", "BODY_LATE_SECONDS", "WRITE_SECONDS")
        idle = await connect()
        assert await ended(idle) == b""
        assert len(watch._all) == 1


async def test_the_head_of_an_answer_does_not_wait_for_a_body_that_takes_its_time() -> None:
    async with serving() as (_, connect):
        reader, writer = await connect()
        writer.write(GET % b"head")
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")


async def test_an_answer_that_is_the_last_one_comes_as_a_whole() -> None:
    async with serving() as (_, connect):
        reader, writer = await connect()
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") % b"")
        found = await reader.read()
    assert found.startswith(b"HTTP/1.1 200")
    assert b"done" in found


@pytest.mark.parametrize("size", [HEAD_BYTES, 8 * HEAD_BYTES])
async def test_a_head_that_is_too_large_is_refused(size: int) -> None:
    async with serving() as (_, connect):
        for rest in (b"\r\n\r\n", b""):
            talk = await connect()
            talk[1].write(b"GET / HTTP/1.1\r\nhost: x\r\ny: " + b"y" * (size + 1) + rest)
            found = await asyncio.wait_for(ended(talk), PATIENCE)
            assert found == b"" or found.startswith(b"HTTP/1.1 431"), found[:200]
        talk = await connect()
        assert (await answer(talk, GET % (b"z" * 1000))).startswith(b"HTTP/1.1 200")


async def test_many_small_requests_at_once_are_no_large_head() -> None:
    async with serving() as (_, connect):
        reader, writer = await connect()
        writer.write((GET % (b"y" * 100)) * 1000)
        for _ in range(1000):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"0\r\n\r\n")


async def test_a_large_body_is_no_large_head() -> None:
    async with serving() as (_, connect):
        talk = await connect()
        body = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000
        for _ in range(3):
            assert b" 200 " in await answer(talk, body)


# --- too many


async def test_of_too_many_connections_the_idlest_makes_room() -> None:
    async with serving(most=3) as (watch, connect):
        talks = [await connect() for _ in range(3)]
        for talk in talks:
            await answer(talk, GET % b"")
        await answer(talks[0], GET % b"")
        assert b" 200 " in await answer(await connect(), GET % b"healthz")
        assert await ended(talks[1]) == b""
        assert b" 200 " in await answer(talks[0], GET % b"")
        assert b" 200 " in await answer(talks[2], GET % b"")
        assert len(watch._all) == 3


async def test_where_all_are_at_work_a_new_one_is_refused_but_for_health() -> None:
    async with serving(most=2) as (_, connect):
        for _ in range(2):
            talk = await connect()
            talk[1].write(GET % b"wait")
            await talk[0].readuntil(b"...")
        surplus = await connect()
        surplus[1].write(GET % b"tasks")
        found = await ended(surplus)
        assert found.startswith(b"HTTP/1.1 503"), found
        assert b"retry-after: 1\r\n" in found
        assert b'"code":"overloaded"' in found
        assert b" 200 " in await answer(await connect(), GET % b"healthz")
        assert b" 200 " in await answer(await connect(), GET % b"readyz")


async def test_requests_beyond_the_pace_are_refused_unread_and_their_connections_go_on() -> None:
    async with serving() as (watch, connect):
        watch.pace.room = 1
        talk = await connect()
        assert b" 200 " in await answer(talk, GET % b"")
        body = b"POST /tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000
        for sent in (GET % b"", body, GET % b"tasks"):
            talk[1].write(sent)
            head = await talk[0].readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503"), head
            assert b"retry-after: 1\r\n" in head
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert b'"code":"overloaded"' in await talk[0].readexactly(size)
        assert watch.pace.refused == 3
        fresh = await connect()
        assert b" 503 " in (await answer(fresh, GET % b""))
        await fresh[0].readuntil(b"}")
        for path in (b"healthz", b"readyz"):
            assert b" 200 " in await answer(fresh, GET % path)
        watch.pace.look(0.0)
        assert b" 200 " in await answer(talk, GET % b"")


async def test_a_pipelined_request_waits_for_its_turn_and_is_not_answered_before_it() -> None:
    async with serving() as (watch, connect):
        watch.pace.room = 1
        talk = await connect()
        talk[1].write(GET % b"" + GET % b"")
        for _ in range(2):
            assert b" 200 " in await talk[0].readuntil(b"\r\n\r\n")
            await talk[0].readuntil(b"0\r\n\r\n")


async def test_a_flood_of_connections_that_ask_nothing_does_not_keep_health_out() -> None:
    async with serving(most=20) as (watch, connect):
        for _ in range(5):
            for _ in range(30):
                await connect()
            assert b" 200 " in await answer(await connect(), GET % b"healthz")
        assert len(watch._all) <= 20
