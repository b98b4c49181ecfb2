"""The same events over a WebSocket (RFC 6455): GET /events, asked for with an upgrade.

A client says what it wants with a message, and may say it anew; each message that it gets is one event.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from gateway.access import principal_of, still_admitted
from gateway.errors import Problem
from gateway.feed import Feed
from gateway.flow import HEARTBEAT_SECONDS, Message, flow
from gateway.models_events import ClientMessage
from gateway.parameters import parameters
from gateway.ports import ReadModel
from gateway.responses import json_bytes
from gateway.submissions import checked
from gateway.waiting import Waiters
from mayfly import strictjson
from mayfly.strictjson import StrictJSONError

log = logging.getLogger(__name__)

SUBPROTOCOL: Final = "mayfly"
_REFUSED: Final = 1008
_BROKEN: Final = 1011
_RESTART: Final = 1012


class Sockets:
    """The handler of the WebSocket."""

    def __init__(
        self, read_model: ReadModel, waiters: Waiters, *, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self._read_model = read_model
        self._waiters = waiters
        self._heartbeat = heartbeat_seconds

    async def serve(self, socket: WebSocket) -> None:
        parameters(socket)
        offered = socket.scope["subprotocols"]
        if offered and SUBPROTOCOL not in offered:
            # The other one is a credential, and an answer has to name one of those that were offered.
            detail = f"Offer the subprotocol {SUBPROTOCOL} too: it is the one that is taken."
            raise Problem("invalid_header", detail, field="Sec-WebSocket-Protocol")
        await socket.accept(SUBPROTOCOL if offered else None)
        feeding: asyncio.Task[None] | None = None
        try:
            while (message := await socket.receive())["type"] != "websocket.disconnect":
                if socket.application_state is not WebSocketState.CONNECTED:
                    # It was closed from here, and the other end does not know yet.
                    continue
                try:
                    asked = _understood(message)
                except Problem as problem:
                    await _send(socket, Message("error", bytes(problem.response().body)))
                    continue
                if asked.subscribe is None:
                    await _send(socket, Message("pong", json_bytes(asked.ping)))
                    continue
                await _end(feeding)
                tenant, place = principal_of(socket).tenant, asked.last_event_id or ""
                feed = Feed(self._read_model, tenant, asked.subscribe, place)
                feeding = asyncio.create_task(self._tell(socket, feed))
        except WebSocketDisconnect:
            # It went while it was told something.
            return
        finally:
            await _end(feeding)

    async def _tell(self, socket: WebSocket, feed: Feed) -> None:
        end = _REFUSED, "the credential is good no more"
        try:
            await self._tell_all(socket, feed)
            if self._waiters.closing:
                end = _RESTART, "the gateway stops"
        except WebSocketDisconnect:
            return
        except Exception:
            log.exception("a stream of events broke")
            end = _BROKEN, "something went wrong here"
        with suppress(WebSocketDisconnect):
            await socket.close(*end)

    async def _tell_all(self, socket: WebSocket, feed: Feed) -> None:
        with self._waiters.watching_all() as woken:
            messages = flow(feed, self._waiters, woken, lambda: still_admitted(socket), self._heartbeat)
            async with aclosing(messages):
                async for message in messages:
                    await _send(socket, message or Message("heartbeat", b"{}", feed.place))


def elsewhere(otherwise: ASGIApp) -> ASGIApp:
    """What answers where there is no route; a WebSocket gets the problem in place of a bare 403."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            problem = Problem("not_found", "There is one WebSocket, at /events.")
            await problem.response()(scope, receive, send)
        else:
            await otherwise(scope, receive, send)

    return app


def _understood(message: Mapping[str, Any]) -> ClientMessage:
    """Raises `Problem`."""
    text = message.get("text")
    if text is None:
        raise Problem("invalid_message", "Messages are text, and JSON.")
    try:
        value = strictjson.loads(text.encode(errors="surrogatepass"))
    except StrictJSONError as error:
        raise Problem("invalid_message", f"The message is refused: {error}.") from error
    if not isinstance(value, dict):
        raise Problem("invalid_message", 'A message is an object: {"subscribe": {}} asks for every change.')
    asked = checked(ClientMessage, value, "invalid_message")
    if (asked.subscribe is None) == ("ping" not in value):
        detail = "A message has either subscribe, with lastEventId if it goes on, or ping."
        raise Problem("invalid_message", detail)
    return asked


async def _send(socket: WebSocket, message: Message) -> None:
    """Returns when the connection takes more: one that is slow is read for at its own pace."""
    whole = {"id": message.id or None, "event": message.event, "data": orjson.Fragment(message.data)}
    await socket.send_text(json_bytes(whole).decode())


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
