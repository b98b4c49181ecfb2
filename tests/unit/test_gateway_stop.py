"""How the gateway's process stops, over real sockets: nobody who asks something finds the connection cut."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from gateway import server as module
from gateway.connections import Watch
from gateway.server import Server

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PATIENCE = 60.0
LAST = b"connection: close"


class Slow:
    """An application that answers once it is let."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})


@asynccontextmanager
async def serving(app: Slow) -> AsyncIterator[tuple[Server, socket.socket]]:
    watch = Watch(100)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=watch.protocol, ws="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
    config.load()
    server = Server(config, watch)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    async with asyncio.timeout(PATIENCE):
        yield server, listener


async def connected(listener: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*listener.getsockname()[:2])


async def test_a_connection_that_is_open_has_one_more_answer_that_is_said_to_be_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS", PATIENCE)
    app = Slow()
    app.may_answer.set()
    async with serving(app) as (server, listener):
        reader, writer = await connected(listener)
        writer.write(GET)
        assert LAST not in await reader.readuntil(b"done")
        stopping = asyncio.create_task(server.shutdown([listener]))
        await asyncio.sleep(0)
        writer.write(GET)
        assert LAST in await reader.readuntil(b"done")
        assert await reader.read() == b""
        await stopping
        writer.close()


async def test_a_request_that_is_under_way_is_answered_and_nobody_new_is_let_in() -> None:
    app = Slow()
    async with serving(app) as (server, listener):
        address = listener.getsockname()[:2]
        reader, writer = await connected(listener)
        writer.write(GET)
        await app.asked.wait()
        stopping = asyncio.create_task(server.shutdown([listener]))
        while True:
            try:
                _, late = await asyncio.open_connection(*address)
            except ConnectionRefusedError:
                break
            # It came before the listener was closed.
            late.close()
        app.may_answer.set()
        assert LAST in await reader.readuntil(b"done")
        await stopping
        writer.close()


async def test_whom_the_system_has_connected_is_answered_although_nobody_had_looked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS", PATIENCE)
    app = Slow()
    app.may_answer.set()
    async with serving(app) as (server, listener):
        # Without a turn of the loop between: it had no chance to accept this one.
        opened = socket.create_connection(listener.getsockname()[:2])
        opened.sendall(GET)
        await server.shutdown([listener])
        opened.settimeout(PATIENCE)
        with opened:
            answer = b"".join(iter(lambda: opened.recv(65536), b""))
        assert LAST in answer
        assert answer.endswith(b"done")


async def test_an_open_connection_that_asks_for_nothing_holds_nobody_up() -> None:
    async with serving(Slow()) as (server, listener):
        reader, writer = await connected(listener)
        await server.shutdown([listener])
        assert await reader.read() == b""
        writer.close()
