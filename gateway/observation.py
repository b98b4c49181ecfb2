"""What is seen of the gateway from outside: its metrics, and a line for each error of its own making."""

import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway.durations import Durations
from gateway.errors import Problem
from gateway.scope import ANSWER_HEADERS, REQUEST_ID

log = logging.getLogger(__name__)

Handler = Callable[[Any, Exception], Awaitable[Response]]
"""Makes the answer to a request, or to a WebSocket's handshake, out of what was raised."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_GONE: Final = 499
"""nginx's code for a client that went before it had its answer; seen in metrics only."""


class Metrics(Collector):
    """The gateway's own registry, so that two gateways in one process do not share numbers. What is counted
    for every request are plain numbers of the event loop's, which become metrics when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(self)
        self._answers: dict[tuple[str, str, int], int] = defaultdict(int)
        self._request_seconds: dict[tuple[str, str], Durations] = defaultdict(Durations)
        self._accepted: dict[str, int] = defaultdict(int)
        self._refused: Callable[[], int] = int
        self.produce_seconds = Durations()

    def answered(self, route: str, method: str, code: int, seconds: float) -> None:
        self._answers[route, method, code] += 1
        self._request_seconds[route, method].add(seconds)

    def accepted(self, function: str) -> None:
        """The log has acknowledged a task of that function."""
        self._accepted[function] += 1

    def refuses(self, count: Callable[[], int]) -> None:
        """`count`: requests so far that were refused before anybody looked at them."""
        self._refused = count

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "mayfly_gateway_requests",
            "Requests, by route, method and status code",
            labels=["route", "method", "code"],
        )
        for (route, method, code), count in list(self._answers.items()):
            requests.add_metric([route, method, str(code)], count)
        yield requests
        took = HistogramMetricFamily(
            "mayfly_gateway_request_seconds",
            "From a request's head to its answer's last byte",
            labels=["route", "method"],
        )
        for labels, durations in list(self._request_seconds.items()):
            took.add_metric(labels, durations.buckets(), durations.total)
        yield took
        accepted = CounterMetricFamily(
            "mayfly_gateway_tasks_accepted", "Tasks that the log has acknowledged", labels=["function"]
        )
        for function, count in list(self._accepted.items()):
            accepted.add_metric([function], count)
        yield accepted
        yield HistogramMetricFamily(
            "mayfly_gateway_produce_seconds",
            "From handing a command to the producer to its acknowledgement",
            buckets=self.produce_seconds.buckets(),
            sum_value=self.produce_seconds.total,
        )
        yield CounterMetricFamily(
            "mayfly_gateway_requests_refused",
            "Requests that were refused unread, because there was too much to do",
            self._refused(),
        )

    async def get(self, _request: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


class Observer:
    """ASGI middleware, the outermost: counts each request, and answers what was raised: by the handler of its
    class, or for what nobody expected. That is Starlette's `ExceptionMiddleware` as well, which would look at
    each message of an answer once more."""

    def __init__(self, app: ASGIApp, metrics: Metrics, handlers: Mapping[type[Exception], Handler]) -> None:
        self._app = app
        self._metrics = metrics
        self._handlers = handlers

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            return self._request(scope, receive, send)
        if scope["type"] == "websocket":
            return self._socket(scope, receive, send)
        return self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        code = 0

        def send_on(message: Message) -> Awaitable[None]:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"].append((b"x-content-type-options", b"nosniff"))
                message["headers"].extend(scope.get(ANSWER_HEADERS, ()))
                if (request_id := scope.get(REQUEST_ID)) is not None:
                    message["headers"].append((b"x-request-id", request_id.encode()))
            return send(message)

        try:
            await self._app(scope, receive, send_on)
        except ClientDisconnect:
            code = _CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - the client gets a problem, the log gets the rest
            handler = self._handler(error)
            if handler is None or code:
                answer = _unexpected(scope).response()
            else:
                answer = await handler(Request(scope, receive), error)
            if code == 0:
                await answer(scope, receive, send_on)
            # Else it came in the middle of a body: ending here makes the server cut the connection.
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            self._metrics.answered(_route(scope), method, code, time.perf_counter() - started)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if (handler := self._handler(error)) is None:
                raise
            answer = await handler(WebSocket(scope, receive, send), error)
            await answer(scope, receive, send)

    def _handler(self, error: Exception) -> Handler | None:
        return next((self._handlers[one] for one in type(error).__mro__ if one in self._handlers), None)


def _unexpected(scope: Scope) -> Problem:
    error_id = uuid.uuid4().hex
    log.exception(
        "internal error", extra={"error_id": error_id, "method": scope["method"], "route": _route(scope)}
    )
    detail = f"Something went wrong here that should not have. The log has it under {error_id}."
    return Problem("internal_error", detail, errorId=error_id)


def _route(scope: Scope) -> str:
    """The route's template: a path itself would make as many series as there are tasks."""
    return getattr(scope.get("route"), "path", "unmatched")
