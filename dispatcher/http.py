"""What a dispatcher serves: /healthz and /metrics, on loopback unless told otherwise."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatcher.metrics import Metrics
from mayfly.errors import SettingsError
from mayfly.settings import Settings


class Served(Protocol):
    id: str
    metrics: Metrics

    @property
    def unhealthy(self) -> str | None: ...


def server(dispatcher: Served) -> uvicorn.Server:
    def healthz(_: Request) -> Response:
        if reason := dispatcher.unhealthy:
            return JSONResponse({"status": "unhealthy", "reason": reason}, 503)
        return JSONResponse({"status": "ok", "dispatcher": dispatcher.id})

    def metrics(_: Request) -> Response:
        return Response(dispatcher.metrics.render(), media_type="text/plain; version=0.0.4")

    app = Starlette(routes=[Route("/healthz", healthz), Route("/metrics", metrics)])
    return _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))


class _Server(uvicorn.Server):
    """The dispatcher listens to signals itself: its tasks come first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(settings: Settings) -> socket.socket:
    """Raises `SettingsError`."""
    host, port = settings.dispatcher_host, settings.dispatcher_port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SettingsError(
            f"the dispatcher cannot listen on {host}:{port} ({error.strerror}): "
            "set MAYFLY_DISPATCHER_PORT to a free port, or to 0 for any"
        ) from error


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def announce(url: str, file: Path | None) -> None:
    """Leave the URL where whoever started this service looks for it."""
    if file is not None:
        fresh = file.with_name(file.name + ".new")
        fresh.write_text(url + "\n")
        fresh.replace(file)
