"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): how they are written,
and what a client says of where it goes on."""

import re
from collections.abc import AsyncGenerator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.errors import Problem
from gateway.flow import Message

MEDIA_TYPE: Final = "text/event-stream"
_LINES: Final = re.compile(rb"\r\n|\r|\n")
PLACE: Final = re.compile(r"[0-9]{1,15}-[0-9]{1,10}", re.ASCII)
_HEADERS: Final = {
    "cache-control": "no-store",
    # nginx would gather what is to go out at once.
    "x-accel-buffering": "no",
}


def answer(request: Request, events: AsyncGenerator[bytes]) -> Response:
    """The stream; of HEAD its headers."""
    if request.method == "HEAD":
        return Response(headers=_HEADERS, media_type=MEDIA_TYPE)
    return StreamingResponse(events, headers=_HEADERS, media_type=MEDIA_TYPE)


def written(message: Message) -> bytes:
    # A result that a function gave stands in the data as it was given, with its line ends.
    lines = b"".join(b"data: " + line + b"\n" for line in _LINES.split(message.data))
    place = f"id: {message.id}\n" if message.id else ""
    return f"event: {message.event}\n{place}".encode() + lines + b"\n"


def heartbeat(said: str, place: str = "") -> bytes:
    """A comment; with a place, a client that comes back goes on from there although it got no event."""
    at = f"id: {place}\n" if place else ""
    return f": {said}\n{at}\n".encode()


def last_event_id(request: Request) -> str:
    """Where the client goes on; "" where it says nothing. Raises `Problem`."""
    place = request.headers.get("last-event-id", "")
    if not is_place(place):
        detail = "Last-Event-ID is not an id of this stream."
        raise Problem("invalid_header", detail, field="Last-Event-ID")
    return place


def is_place(text: str) -> bool:
    return not text or PLACE.fullmatch(text) is not None
