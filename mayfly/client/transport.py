"""What both clients make of `httpx`: where the gateway is, what is sent, and what comes back."""

import os
from typing import Any, Final

import httpx

from mayfly import __version__
from mayfly.client.errors import ClientError, Unreachable
from mayfly.client.wire import Answer, Request

DEFAULT_URL: Final = "http://127.0.0.1:8080"
CONNECT_SECONDS: Final = 5.0


def base_url(url: str | None) -> httpx.URL:
    text = url or os.environ.get("MAYFLY_URL") or DEFAULT_URL
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ClientError(f"{text!r} is no URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ClientError(f"{text!r} is no gateway's URL; one looks like {DEFAULT_URL}")
    return parsed


def options(url: httpx.URL) -> dict[str, Any]:
    return {
        "base_url": url,
        "headers": {"user-agent": f"mayfly/{__version__}"},
        # A proxy of the environment cannot reach this machine's loopback.
        "trust_env": url.host not in ("127.0.0.1", "::1", "localhost"),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
    }


def arguments(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "params": list(request.params),
        "headers": dict(request.headers),
        "content": request.content or None,
        "timeout": httpx.Timeout(request.timeout, connect=CONNECT_SECONDS),
    }


def answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, response.headers, response.content)


def unreachable(url: httpx.URL, error: httpx.RequestError) -> Unreachable:
    reasons: dict[type[httpx.RequestError], str] = {
        httpx.ConnectError: "nothing listens there, or its name is unknown",
        httpx.ConnectTimeout: "no connection in time",
        httpx.ReadTimeout: "no answer in time",
    }
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return Unreachable(
        str(url), reasons.get(type(error)) or str(error) or type(error).__name__, sent=not unsent
    )


def cut_short(url: httpx.URL) -> Unreachable:
    """For a stream that ended before what it is about."""
    return Unreachable(str(url), "the stream of events ended before the task did")
