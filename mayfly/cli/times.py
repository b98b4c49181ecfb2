"""Times on the command line: `10m`, `2h`, `2026-12-01T09:00:00+01:00`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import typer

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd]|$)")
_SECONDS: Final = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def span(text: str) -> timedelta:
    """A length of time: `30s`, `10m`, `1h30m`, `1.5d`; a number alone is seconds."""
    parts = list(_PART.finditer(text.strip()))
    if not parts or "".join(part[0] for part in parts) != text.strip():
        raise typer.BadParameter(f"{text!r} is no length of time; one looks like 30s, 10m, 2h or 1h30m")
    try:
        return timedelta(seconds=sum(float(part[1]) * _SECONDS[part[2]] for part in parts))
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long") from None


def moment(text: str) -> datetime:
    """A time as RFC 3339 has it; without an offset it is this machine's."""
    # A date alone, or a week of the year, would be another hour than was meant.
    written = text if re.match(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}", text) else ""
    try:
        return datetime.fromisoformat(written).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time; one looks like 2026-12-01T09:00:00+01:00") from None


def past(text: str) -> datetime:
    """A time, or how long ago it was."""
    if re.match(r"\d{4}-", text):
        return moment(text)
    try:
        return datetime.now(UTC) - span(text)
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long ago") from None


def shown(moment: datetime | None) -> str:
    """A time for people, in this machine's zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
