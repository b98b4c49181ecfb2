"""Whether the gateway lives, and whether it can do its work."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import Problem
from gateway.responses import json_response
from mayfly.errors import MayflyError

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None]]
CHECK_SECONDS: Final = 3.0
KEPT_SECONDS: Final = 0.5
"""Checks are not made more often than this, however often they are asked for."""


class Health:
    """The handlers of /healthz and /readyz. Each part's check raises a `MayflyError` that says why not."""

    def __init__(self, parts: Mapping[str, Check]) -> None:
        self._parts = parts
        self._lock = asyncio.Lock()
        self._checked_at = float("-inf")
        self._reasons: dict[str, str | None] = {}

    async def alive(self, _request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        reasons = await self._checked()
        missing = {name: reason for name, reason in reasons.items() if reason is not None}
        if missing:
            detail = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            raise Problem("not_ready", detail, parts={name: why or "ready" for name, why in reasons.items()})
        return json_response({"status": "ready", "parts": dict.fromkeys(reasons, "ready")})

    async def _checked(self) -> dict[str, str | None]:
        async with self._lock:
            if time.monotonic() - self._checked_at > KEPT_SECONDS:
                results = await asyncio.gather(*(_reason(check) for check in self._parts.values()))
                self._reasons = dict(zip(self._parts, results, strict=True))
                self._checked_at = time.monotonic()
            return self._reasons


async def _reason(check: Check) -> str | None:
    """Why a part is not ready, or None."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except MayflyError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    return None
