"""The gateway's process: it serves until SIGTERM or Ctrl-C, then answers what is under way and stops."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
import uvloop
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.app import Gateway, Startup
from gateway.connections import Watch, keep_alive, most_connections
from gateway.security import require_loopback
from mayfly import collector, telemetry
from mayfly.errors import SettingsError
from mayfly.faultpoints import arm
from mayfly.settings import Settings

log = logging.getLogger("gateway")

GRACE_SECONDS = 15
"""How long requests that are under way may go on after SIGTERM: longer than the log takes to acknowledge."""
LINGER_SECONDS = 0.5
"""How long connections stay open for one more request, whose answer says that it is the last. One that is
closed while its client writes to it is a request that failed, and nobody knows whether it was heard."""
BACKLOG = 2048
"""uvicorn's own."""
ACCEPTED = 32
"""Connections in one round of the loop: libuv accepts one for each descriptor of the listener. With one alone
whoever asks for health stood behind a thousand clients that had come before, for as many rounds."""
MESSAGE_BYTES = 16 * 1024
"""What a client may say at once over a WebSocket."""


class Server(uvicorn.Server):
    """uvicorn, but a signal only asks it to stop and does not end the process; a second one cuts short. When
    it stops, no client that asks something finds its connection cut."""

    def __init__(self, config: uvicorn.Config, watch: Watch) -> None:
        super().__init__(config)
        self._watch = watch

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if sockets:
            await self._accept_the_last(sockets)
        self._watch.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._wait_tasks_to_complete()
        await super().shutdown(sockets)

    async def _accept_the_last(self, listeners: list[socket.socket]) -> None:
        """Nobody new is let in; but whom the system has connected already has been told so, and may have
        asked: those would be reset with their listener, of which all are copies of one."""
        loop = asyncio.get_running_loop()
        with contextlib.closing(listeners[0].dup()) as last:
            for server in self.servers:
                server.close()
            last.setblocking(False)
            with contextlib.suppress(OSError):
                while True:
                    connected, _ = last.accept()
                    await loop.connect_accepted_socket(self._connection, connected)

    def _connection(self) -> asyncio.Protocol:
        """As uvicorn makes one."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, but who answers no ping is cut off: to close it in order would wait until the
    other end has taken what it does not take."""

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # Refused is answered too: else each refusal is an error in the log.
            self.handshake_complete = True

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()


async def serve(settings: Settings) -> None:
    """Raises `SettingsError` for an address that cannot be had, and for settings that do not fit the log."""
    if not settings.auth:
        require_loopback(settings.host)
    listener = _listen(settings.host, settings.port)
    watch = Watch(most_connections(settings.max_connections))
    failures: list[SettingsError] = []

    def stop() -> None:
        log.info("stopping")
        gateway.waiters.close()
        server.stop()

    def failed(error: SettingsError) -> None:
        failures.append(error)
        stop()

    startup = Startup(settings, failed)
    gateway = Gateway(settings, startup.parts())
    gateway.metrics.refuses(lambda: watch.pace.refused)
    server = Server(
        uvicorn.Config(
            gateway.app(startup.run, startup.stop),
            # A class, says uvicorn; it only ever calls it.
            http=watch.protocol,  # type: ignore[arg-type]
            ws=Socket,
            ws_max_size=MESSAGE_BYTES,
            # Small messages, and a window for each connection that may be silent for hours.
            ws_per_message_deflate=False,
            lifespan="on",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        ),
        watch,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    collector.spare()
    _tell_address(settings, listener)
    watch.pace.follow(loop)
    sweeping = loop.create_task(watch.sweep())
    try:
        await server.serve(sockets=[listener, *(listener.dup() for _ in range(ACCEPTED - 1))])
    finally:
        sweeping.cancel()
    if failures:
        raise failures[0]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keep_alive(listener)
    try:
        listener.bind((host, port))
        # Before anybody is told the address: who comes early waits instead of being refused.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"MAYFLY_HOST {host}, MAYFLY_PORT {port}: {error.strerror}. Port 0 takes a free one."
        ) from error
    return listener


def _tell_address(settings: Settings, listener: socket.socket) -> None:
    """Whoever asked for any free port reads here which one it is."""
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    log.info("listening", extra={"address": address})
    if settings.address_file:
        # Whole or not at all: the reader may be looking already.
        partial = settings.address_file.with_suffix(".partial")
        partial.write_text(address)
        partial.replace(settings.address_file)


def main() -> int:
    try:
        settings = Settings()
        telemetry.configure("gateway", settings.log_level)
        arm(settings.fault_point)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0
