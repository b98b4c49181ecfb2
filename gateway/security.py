"""What keeps web pages out while nobody is asked who they are.

A page in somebody's browser can send requests to loopback. It cannot choose the Host header, unless by DNS
rebinding, and then Host names the page's own domain; it cannot hide its Origin; and it cannot POST another
content type than a form's without a preflight, which nothing here answers.
"""

import ipaddress
import re
from collections.abc import Awaitable
from functools import lru_cache
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Problem
from gateway.scope import values
from mayfly.errors import SettingsError

_AUTHORITY: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether a host name or address (IPv6 with or without brackets) is this machine's loopback."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def require_loopback(host: str) -> None:
    """Raises `SettingsError` for an address that others can reach: nobody is asked who they are."""
    if not is_loopback(host):
        raise SettingsError(
            f"MAYFLY_HOST is {host!r} and MAYFLY_AUTH is off: nobody is asked who they are, so the gateway "
            "listens on loopback only. Set MAYFLY_AUTH=true, and MAYFLY_ADMIN_KEY to what `mayfly keys "
            "generate` prints; or use 127.0.0.1, and a tunnel (ssh -L 8080:127.0.0.1:8080) from elsewhere."
        )


class Guard:
    """ASGI middleware: the rules for Host and Origin, for every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] in ("http", "websocket") and (problem := _refusal(scope)):
            return problem.response()(scope, receive, send)
        return self._app(scope, receive, send)


def _refusal(scope: Scope) -> Problem | None:
    hosts = values(scope, b"host")
    if len(hosts) != 1 or not _is_loopback_authority(hosts[0]):
        named = ", ".join(host.decode("latin-1")[:100] for host in hosts) or "none"
        return Problem(
            "invalid_host", f"The Host header must name loopback, such as 127.0.0.1; it is {named}."
        )
    for value in values(scope, b"origin"):
        if value != b"http://" + hosts[0]:
            origin = value.decode("latin-1")[:100]
            return Problem("foreign_origin", f"Origin {origin} is not this gateway's own.")
    return None


@lru_cache(maxsize=64)
def _is_loopback_authority(authority: bytes) -> bool:
    match = _AUTHORITY.fullmatch(authority.decode("latin-1"))
    return match is not None and is_loopback(match[1])
