"""Query parameters: those that are known, once each."""

import re
from collections.abc import Container
from typing import Final

from starlette.requests import HTTPConnection, Request

from gateway.errors import Problem
from gateway.scope import values
from mayfly.task import IDEMPOTENCY_KEY

MAX_WAIT_SECONDS: Final = 60
MAX_LIMIT: Final = 200
_SECONDS: Final = re.compile(r"[0-9]{1,2}(\.[0-9]{1,3})?")
_COUNT: Final = re.compile(r"[0-9]{1,4}")


def parameters(request: HTTPConnection, *known: str, repeatable: Container[str] = ()) -> dict[str, str]:
    """The query by name. Raises `Problem` for a name that is not known, and for one given twice."""
    if not request.scope["query_string"]:
        return {}
    found: dict[str, str] = {}
    for name, text in request.query_params.multi_items():
        if name not in known:
            takes = ", ".join(known) or "none"
            detail = f"{name[:64]} is not a parameter here; known: {takes}."
            raise Problem("invalid_parameter", detail, field=name[:64])
        if name in found and name not in repeatable:
            raise Problem("invalid_parameter", f"{name} is given more than once.", field=name)
        found[name] = text
    return found


def wait_seconds(text: str | None) -> float:
    """How long a reader is willing to wait: 0 to 60 s."""
    if text is None:
        return 0.0
    if not _SECONDS.fullmatch(text) or float(text) > MAX_WAIT_SECONDS:
        raise Problem("invalid_parameter", f"wait is seconds, 0 to {MAX_WAIT_SECONDS}.", field="wait")
    return float(text)


def page_limit(text: str | None, default: int = 50) -> int:
    if text is None:
        return default
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= MAX_LIMIT:
        raise Problem("invalid_parameter", f"limit is a number, 1 to {MAX_LIMIT}.", field="limit")
    return int(text)


def idempotency_key(request: Request) -> str | None:
    """The header Idempotency-Key. Raises `Problem` for one that is none, and for two."""
    keys = values(request.scope, b"idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not IDEMPOTENCY_KEY.fullmatch(key := keys[0].decode("latin-1")):
        detail = "Idempotency-Key is given once: 1 to 200 printable characters of ASCII."
        raise Problem("invalid_header", detail, field="Idempotency-Key")
    return key
