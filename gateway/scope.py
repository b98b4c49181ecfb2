"""What parts of the gateway leave in a request's ASGI scope for the ones around them."""

from collections.abc import Mapping
from typing import Any, Final

REQUEST_ID: Final = "mayfly.request_id"
"""The request's name in the audit log, once there is something to write there; the answer has it too."""
ANSWER_HEADERS: Final = "mayfly.answer_headers"
"""Headers, as pairs of bytes, that its answer gets whatever it will be."""
BODY: Final = "mayfly.body"
"""The request's body, from when it has arrived as a whole; not there where it is long. Who takes it, empties
it."""


def values(scope: Mapping[str, Any], name: bytes) -> list[bytes]:
    """What a request's head has under that name, in lower case, as often as it came: Starlette's `Headers`
    take several times as long to say so."""
    return [value for one, value in scope["headers"] if one == name]


def value(scope: Mapping[str, Any], name: bytes) -> str:
    """The first of them as text, or nothing."""
    for one, given in scope["headers"]:
        if one == name:
            text: str = given.decode("latin-1")
            return text
    return ""


def announced(scope: Mapping[str, Any]) -> int:
    """The body's length in bytes, where the head has it."""
    text = value(scope, b"content-length")
    return int(text[:20]) if text.isdecimal() else 0
