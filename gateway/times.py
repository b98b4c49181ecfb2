"""Times as clients give them: RFC 3339, with an offset."""

import re
import time
from datetime import datetime
from typing import Final

from gateway.errors import Problem

_TIME: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII
)


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def milliseconds(text: str) -> int | None:
    """The time in milliseconds since 1970, or None for what is none."""
    if not _TIME.fullmatch(text):
        return None
    try:
        # Python takes microseconds at the finest: what is finer is cut.
        at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.upper()))
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def time_parameter(name: str, text: str | None) -> int | None:
    """A query parameter that is a time, in milliseconds since 1970. Raises `Problem`."""
    if text is None:
        return None
    at = milliseconds(text)
    if at is None:
        detail = f"{name} is a time by RFC 3339 with its offset, such as 2026-11-24T12:00:00Z."
        raise Problem("invalid_parameter", detail, field=name)
    return at
