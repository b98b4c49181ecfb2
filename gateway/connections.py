"""Connections: uvicorn's, with an end to every wait on a client.

uvicorn waits without end for a head that does not come, for a body that nobody reads, and for a client that
does not take its answer; it takes a head of any size, and any number of connections; and it has a timer for
each answer, to close a connection that is idle after it. Once a second `Watch` looks at them all, so that a
request costs no timer.
"""

import asyncio
import logging
import resource
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.answers import Answer, written
from gateway.bodies import BODY_SECONDS
from gateway.errors import Problem
from gateway.limits.load import overloaded
from gateway.pace import Pace
from gateway.scope import BODY

log = logging.getLogger(__name__)

HEAD_SECONDS: Final = 15.0
"""A request's head is there so long after the connection was made, or after the last answer."""
IDLE_SECONDS: Final = 5.0
"""For so long a connection is kept after an answer, if nothing comes."""
HEAD_BYTES: Final = 64 * 1024
"""A larger head, request line included, is refused."""
BODY_LATE_SECONDS: Final = BODY_SECONDS + 5
"""A body that is not read any more, or was never, is waited for this long: whoever reads one gives up, and
answers, before that."""
WRITE_SECONDS: Final = 30.0
"""A client takes a part of what is written to it within this."""
SWEEP_SECONDS: Final = 1.0
SURPLUS: Final = 64
"""Connections beyond the most, where all of those are at work: their requests are refused, but for health."""
SPARE_FILES: Final = 256
"""Files that the gateway opens besides connections."""
_ALWAYS: Final = frozenset({"/healthz", "/readyz"})
_HEALTH: Final = frozenset(path.encode() for path in _ALWAYS)
_RESET: Final = struct.pack("ii", 1, 0)
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 15),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 120_000),
)
"""A peer that vanished without a word is noticed: it would be written to for a quarter of an hour."""


def keep_alive(listener: socket.socket) -> None:
    """For every connection that it will accept. Where the system has no such option, without it."""
    for level, name, value in _KEEPALIVE:
        if (option := getattr(socket, name, None)) is not None:
            listener.setsockopt(level, option, value)


def most_connections(wanted: int) -> int:
    """As many as are wanted, and as open files allow, of which as many are allowed as may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SURPLUS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    most = max(1, soft - SURPLUS - SPARE_FILES)
    log.warning("open files bound the connections", extra={"wanted": wanted, "connections": most})
    return most


class Watch:
    """All connections of a process, of which there are at most so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.pace = Pace()
        self._all: set[Connection] = set()
        self.leaving = False
        """Whether each answer is the last one of its connection."""
        self.now = 0.0
        """Seconds that were swept. It stands still while the process does: who sent something meanwhile has
        done its part, and it has not been read yet."""
        self._waiting: dict[Connection, float] = {}
        """Those that have nothing to be answered, and since when nothing came, the longest first."""

    def protocol(self, **given: Any) -> "Connection":
        """Makes a connection, as uvicorn asks for one."""
        return Connection(self, **given)

    def made(self, connection: "Connection") -> None:
        self._all.add(connection)
        if len(self._all) > self._most:
            idlest = next(iter(self._waiting), None)
            if idlest is not None:
                # Whoever has asked for nothing the longest makes room: a check of health comes in so.
                self.cut(idlest)
        if len(self._all) > self._most + SURPLUS:
            self.cut(connection)
            return
        if len(self._all) > self._most:
            connection.refuse_all()
        self.waits(connection)

    def waits(self, connection: "Connection") -> None:
        """For a head."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = self.now

    def works(self, connection: "Connection") -> None:
        """The head is there."""
        self._waiting.pop(connection, None)

    def lost(self, connection: "Connection") -> None:
        self._all.discard(connection)
        self._waiting.pop(connection, None)

    def cut(self, connection: "Connection") -> None:
        self.lost(connection)
        # With a reset: what its client does not take would stay in the system's memory for minutes.
        with suppress(OSError):  # of one that is just being closed
            opened = connection.transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.transport.abort()

    def leave(self) -> None:
        """The process is about to end: each connection is told so with its next answer, which closes it."""
        self.leaving = True
        for connection in self._all:
            connection.let_go()

    async def sweep(self) -> None:
        """Runs as long as the process does."""
        clock = asyncio.get_running_loop().time
        swept = clock()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.now += min(clock() - swept, 2 * SWEEP_SECONDS)
            swept = clock()
            for connection, since in list(self._waiting.items()):
                waited = self.now - since
                if waited <= min(IDLE_SECONDS, HEAD_SECONDS):
                    break
                if waited > HEAD_SECONDS:
                    self.cut(connection)
                elif connection.is_at_rest:
                    connection.transport.close()
            for connection in list(self._all):
                if connection.transport.is_closing():
                    # As a WebSocket, of whose end only the transport knows.
                    self.lost(connection)
                elif connection.is_stuck(self.now):
                    self.cut(connection)


class Connection(HttpToolsProtocol):
    """One of them."""

    def __init__(self, watch: Watch, **given: Any) -> None:
        super().__init__(**given)
        self._watch = watch
        self._head = 0
        """Bytes that came since the last request was there as a whole: at least those of the head."""
        self._body_since: float | None = None
        """Since when a body is awaited, which has not come to its end."""
        self._unsent = 0
        self._unsent_since = 0.0
        self._refused = False
        """Whether the request that is being received was answered already: it is one too many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._body_since is not None:
            self._head = 0
            self._settle()
        elif self._head > HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def on_headers_complete(self) -> None:
        self._watch.works(self)
        self._body_since = self._watch.now
        self._refused = self._is_idle() and self.url not in _HEALTH and not self._watch.pace.begins()
        if self._refused:
            # Written out once for all, for this is where there is no time.
            self.transport.write(_TOO_MUCH)
            return
        if self._head > HEAD_BYTES and self._head_size() > HEAD_BYTES:
            app, self.app = self.app, refusing(head_too_large)
            super().on_headers_complete()
            self.app = app
        else:
            super().on_headers_complete()
        if self._watch.leaving:
            self.let_go()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()
            # A longer one is received, which has the connection read on, and so its end be seen.
            if self.cycle is not None and len(body := self.cycle.body) <= HIGH_WATER_LIMIT:
                self.scope[BODY] = body  # type: ignore[typeddict-unknown-key]
        self._head = 0
        self._body_since = None
        self._settle()

    def on_response_complete(self) -> None:
        """As uvicorn's, but for a timer with each answer, that closes what is idle then."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        self._settle()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        def answering(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            answer: Awaitable[None] = app(scope, receive, Answer(cycle, send).send)
            return answer

        super()._start_asgi_task(cycle, answering)  # type: ignore[arg-type]

    def handle_websocket_upgrade(self) -> None:
        """The transport is the WebSocket's from now on, which looks itself whether its client is there."""
        self._watch.works(self)
        self._body_since = None
        super().handle_websocket_upgrade()

    def refuse_all(self) -> None:
        """There are too many connections, so this one is for health alone."""
        self.app = refusing(_too_many, self.app)

    def let_go(self) -> None:
        """The answer that is under way, if one is, is the last."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    @property
    def is_at_rest(self) -> bool:
        """Whether a request was answered, and nothing has come of another one."""
        return self.cycle is not None and self._head == 0

    def is_stuck(self, now: float) -> bool:
        """Whether its client takes nothing, or does not send the body that it began."""
        unsent = self.transport.get_write_buffer_size()
        if not 0 < self._unsent <= unsent:
            self._unsent_since = now
        self._unsent = unsent
        if unsent and now - self._unsent_since > WRITE_SECONDS:
            return True
        if self._body_since is None:
            return False
        if self.pipeline:
            # It is not read while the request before it is at work.
            self._body_since = now
        return now - self._body_since > BODY_LATE_SECONDS

    def _settle(self) -> None:
        """Once all is answered the next head is waited for, or the rest of a body that nobody reads."""
        if self._is_idle() and not self.transport.is_closing():
            self._watch.waits(self)

    def _is_idle(self) -> bool:
        """Whether all that was begun is answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # The answer to the request before is not there yet.
            self._watch.cut(self)
            return
        self.transport.write(written(head_too_large()))
        self.transport.close()


def refusing(problem: Callable[[], Problem], healthy: ASGIApp | None = None) -> Any:
    """An application that answers with that problem, but for health where there is who tells it."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        if healthy is not None and scope["path"] in _ALWAYS:
            await healthy(scope, receive, send)
        else:
            await problem().response()(scope, receive, send)

    return refuse


def head_too_large() -> Problem:
    return Problem("head_too_large", f"A request's head has at most {HEAD_BYTES} bytes.")


def _too_many() -> Problem:
    problem = overloaded("There are as many connections as may be")
    problem.headers["connection"] = "close"
    return problem


_TOO_MUCH: Final = written(overloaded("There are more requests than the gateway can answer"))
