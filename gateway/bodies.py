"""Reading a request's body: bounded in size while it streams, and in time."""

import asyncio
import re
from functools import lru_cache
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from gateway.errors import Problem
from gateway.limits.limits import Admission, admission_of
from gateway.scope import BODY, announced, value

BODY_SECONDS: Final = 30.0
"""The whole body arrives within this, or is refused: a slow sender holds memory and a connection."""

_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)
_LONGEST_TYPE: Final = 200
SAFELISTED: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""What any web page may send anywhere without asking first: https://fetch.spec.whatwg.org."""


def media_type(request: Request) -> tuple[str, str]:
    """The content type's essence, in lower case, and the header as it came.

    Raises `Problem` where it is missing, malformed, or one that a foreign web page could send.
    """
    return _media_type(value(request.scope, b"content-type").strip())


@lru_cache(maxsize=64)
def _media_type(header: str) -> tuple[str, str]:
    """A few types come again and again. What is refused is not remembered, so each is a short one."""
    essence = header.partition(";")[0].strip().lower()
    if essence in SAFELISTED:
        raise Problem(
            "unsupported_media_type",
            f"{essence} is refused, because any web page could send it. Use application/json, or the "
            "payload's own type, such as application/octet-stream.",
            field="Content-Type",
        )
    if len(header) > _LONGEST_TYPE or not is_media_type(header):
        raise Problem(
            "unsupported_media_type",
            "A Content-Type is needed: application/json, or the payload's own type.",
            field="Content-Type",
        )
    charset = _CHARSET.search(header)
    if essence == "application/json" and charset and charset[1].lower() not in ("utf-8", "utf8"):
        raise Problem("unsupported_media_type", "JSON is UTF-8, always.", field="Content-Type")
    return essence, header


def is_media_type(header: str) -> bool:
    """Whether a header may carry it as a content type."""
    essence = header.partition(";")[0].strip().lower()
    return bool(_TYPE.fullmatch(essence)) and header.isascii() and header.isprintable()


async def read_body(request: Request, limit: int, *, seconds: float = BODY_SECONDS) -> bytes:
    """The body, of at most `limit` bytes, of which nothing was read yet. Raises `Problem`, or
    `ClientDisconnect` if the sender went."""
    if (whole := request.scope.get(BODY)) is not None:
        # Most bodies are so short that they come with the head: nothing is waited for.
        if len(whole) > limit:
            raise _too_large(limit)
        if (admission := admission_of(request)) is not None:
            admission.came(len(whole))
        body = bytes(whole)
        # The connection would keep it until its next request.
        whole.clear()
        return body
    if announced(request.scope) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(seconds):
            return await _collect(request.receive, limit, admission_of(request))
    except TimeoutError as error:
        raise Problem("body_too_slow", f"The body did not arrive within {seconds:g} s.") from error


async def _collect(receive: Receive, limit: int, admission: Admission | None) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        if admission is not None:
            admission.came(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> Problem:
    return Problem("body_too_large", f"The body is larger than {limit} bytes.")
