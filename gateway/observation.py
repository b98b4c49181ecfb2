"""What is seen of the gateway from outside: its metrics, and a line for each error of its own making."""

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import Problem
from gateway.scope import ANSWER_HEADERS, REQUEST_ID

log = logging.getLogger(__name__)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_GONE: Final = 499
"""nginx's code for a client that went before it had its answer; seen in metrics only."""
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The gateway's own registry, so that two gateways in one process do not share numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "mayfly_gateway_requests",
            "Requests, by route, method and status code",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "mayfly_gateway_request_seconds",
            "From a request's head to its answer's last byte",
            ["route", "method"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._accepted = Counter(
            "mayfly_gateway_tasks_accepted",
            "Tasks that the log has acknowledged",
            ["function"],
            registry=self.registry,
        )
        self.produce_seconds = Histogram(
            "mayfly_gateway_produce_seconds",
            "From handing a command to the producer to its acknowledgement",
            buckets=_SECONDS,
            registry=self.registry,
        )

        # To look a label's child up takes longer than to count on it.
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._acceptances: dict[str, Counter] = {}

    def answered(self, route: str, method: str, code: int, seconds: float) -> None:
        key = route, method, code
        if (found := self._answers.get(key)) is None:
            found = (
                self._requests.labels(route, method, str(code)),
                self._request_seconds.labels(route, method),
            )
            self._answers[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def accepted(self, function: str) -> None:
        """The log has acknowledged a task of that function."""
        if (found := self._acceptances.get(function)) is None:
            found = self._acceptances[function] = self._accepted.labels(function)
        found.inc()

    def refuses(self, count: Callable[[], int]) -> None:
        """`count`: requests so far that were refused before anybody looked at them."""
        self.registry.register(_Refused(count))

    async def get(self, _request: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)


class _Refused(Collector):
    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "mayfly_gateway_requests_refused",
            "Requests that were refused unread, because there was too much to do",
            self._count(),
        )


class Observer:
    """ASGI middleware, the outermost: counts each request, and answers for what nobody else caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        code = 0

        async def send_on(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"].append((b"x-content-type-options", b"nosniff"))
                message["headers"].extend(scope.get(ANSWER_HEADERS, ()))
                if (request_id := scope.get(REQUEST_ID)) is not None:
                    message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except ClientDisconnect:
            code = _CLIENT_GONE
        except Exception:  # noqa: BLE001 - the client gets a problem, the log gets the rest
            problem = _unexpected(scope)
            if code == 0:
                await problem.response()(scope, receive, send_on)
            # Else it came in the middle of a body: ending here makes the server cut the connection.
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            self._metrics.answered(_route(scope), method, code, time.perf_counter() - started)


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
