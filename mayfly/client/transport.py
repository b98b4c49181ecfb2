"""What both clients make of `httpx`: what is sent, and what comes back."""

from typing import Any, Final

import httpx

from mayfly import __version__
from mayfly.client.errors import Unreachable
from mayfly.client.target import Target, is_loopback
from mayfly.client.wire import Answer, Request

CONNECT_SECONDS: Final = 5.0


def options(target: Target, timeout: float) -> dict[str, Any]:
    """For the `httpx` client. `timeout` is what `arguments` is given with each request."""
    if not timeout > 0:
        raise ValueError("a timeout is in seconds, and more than none")
    headers = {"user-agent": f"mayfly/{__version__}"}
    if target.credential is not None:
        headers["authorization"] = f"Bearer {target.credential}"
    return {
        "base_url": target.url,
        "headers": headers,
        **of_place(target.url),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=100),
    }


def of_place(url: httpx.URL) -> dict[str, Any]:
    """Which ways lead there."""
    here = is_loopback(url.host)
    return {
        # A credential is for this place alone, and not for where it may point.
        "follow_redirects": False,
        # A proxy of the environment cannot reach this machine's loopback.
        "trust_env": not here,
        # Where nothing can be spoken by TLS, no certificates are read: that would take tens of milliseconds.
        "verify": not here or url.scheme != "http",
    }


def arguments(request: Request, timeout: float) -> dict[str, Any]:
    """`timeout` is how long an answer may take, beyond what the request itself asks to wait, seconds."""
    answer_seconds = timeout + request.wait if request.silence is None else request.silence
    return {
        "method": request.method,
        "url": request.path,
        "params": list(request.params),
        "headers": dict(request.headers),
        "content": request.content or None,
        "timeout": httpx.Timeout(answer_seconds, connect=min(CONNECT_SECONDS, timeout)),
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
    return Unreachable(str(url), "the stream of events broke off")
