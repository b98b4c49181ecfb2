"""A WebSocket to a gateway over parts in memory: what a server would make of a connection, without one."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import httpx
from gateway_world import World

PATIENCE = 30.0


class Socket:
    """`async with` connects: then there is an `answer`, the refusal, or messages to hear and to say."""

    def __init__(
        self,
        world: World,
        path: str = "/events",
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: tuple[str, ...] = (),
        query: str = "",
    ) -> None:
        named = {"host": "127.0.0.1:8080"} | {name.lower(): text for name, text in (headers or {}).items()}
        self._scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": "ws",
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), text.encode()) for name, text in named.items()],
            "subprotocols": list(subprotocols),
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }
        self._app: Any = world.app
        self._to: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.writable = asyncio.Event()
        """Cleared, the other end takes nothing."""
        self.writable.set()
        self.answer: httpx.Response | None = None
        self.subprotocol: str | None = None

    async def __aenter__(self) -> Self:
        self._to.put_nowait({"type": "websocket.connect"})
        self._serving = asyncio.create_task(self._app(self._scope, self._to.get, self._sent))
        first = await self._next()
        if first["type"] == "websocket.accept":
            self.subprotocol = first.get("subprotocol")
        else:
            assert first["type"] == "websocket.http.response.start", first
            body = (await self._next())["body"]
            self.answer = httpx.Response(first["status"], headers=first["headers"], content=body)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        if kind is not None:
            self._serving.cancel()
        with suppress(asyncio.CancelledError):
            async with asyncio.timeout(PATIENCE):
                await self._serving

    def leave(self) -> None:
        self.writable.set()
        self._to.put_nowait({"type": "websocket.disconnect", "code": 1005})

    def say(self, message: Any) -> None:
        """Text as it is, bytes as such, anything else as JSON."""
        if isinstance(message, bytes):
            self._to.put_nowait({"type": "websocket.receive", "bytes": message})
        else:
            text = message if isinstance(message, str) else json.dumps(message)
            self._to.put_nowait({"type": "websocket.receive", "text": text})

    async def hear(self) -> dict[str, Any]:
        """The next message."""
        message = await self._next()
        assert message["type"] == "websocket.send", message
        heard: dict[str, Any] = json.loads(message["text"])
        assert set(heard) == {"id", "event", "data"}
        return heard

    async def closed(self) -> int:
        """The code with which it is closed, after whatever is still told."""
        while (message := await self._next())["type"] == "websocket.send":
            pass
        assert message["type"] == "websocket.close", message
        code: int = message["code"]
        self.leave()
        return code

    async def _sent(self, message: dict[str, Any]) -> None:
        await self.writable.wait()
        self._from.put_nowait(message)

    async def _next(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            return await self._from.get()
