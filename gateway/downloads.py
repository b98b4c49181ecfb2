"""Bytes that a function made, given to whoever asks: results and logs."""

import mimetypes
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.bodies import is_media_type
from gateway.errors import Problem
from gateway.ports import Blobs
from mayfly.errors import BlobNotFound

PLAIN: Final = "text/plain; charset=utf-8"
UNTRUSTED: Final = {
    # What a function made may be a page. A browser shows it, but in an origin of its own and without scripts.
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private",
}


async def download(
    request: Request, blobs: Blobs, key: str, content_type: str, more: dict[str, str] | None = None
) -> Response:
    """The object as it is stored, with these headers as well.

    Raises `Problem` where it is gone, and `BlobsUnavailable`.
    """
    try:
        size, chunks = await blobs.open(key)
    except BlobNotFound as error:
        raise Problem("blob_gone", "The store does not have these bytes any more.") from error
    headers = {
        **UNTRUSTED,
        **(more or {}),
        "content-length": str(size),
        "content-type": _safe_type(content_type),
    }
    if request.method == "HEAD":
        return Response(headers=headers)
    return StreamingResponse(chunks, headers=headers)


async def presigned(blobs: Blobs, key: str, content_type: str, name: str, seconds: int) -> str:
    """A URL at which the store gives the object to whoever asks, for so long. Raises `Problem` where it is
    gone, and `BlobsUnavailable`.

    A browser saves what it finds there, and does not show it: the store sends none of the headers that keep
    a page from the rest of its origin.
    """
    try:
        await blobs.describe(key)
    except BlobNotFound as error:
        raise Problem("blob_gone", "The store does not have these bytes any more.") from error
    safe = _safe_type(content_type)
    suffix = mimetypes.guess_extension(safe.partition(";")[0].strip()) or ""
    disposition = f'attachment; filename="{name}{suffix}"'
    return await blobs.get_url(key, content_type=safe, disposition=disposition, seconds=seconds)


def text(content: str, more: dict[str, str] | None = None) -> Response:
    """Text that a function wrote."""
    return Response(content.encode(), headers={**UNTRUSTED, **(more or {})}, media_type=PLAIN)


def _safe_type(content_type: str) -> str:
    """The content type that a function claims, if it is one: a header must not carry anything else."""
    return content_type if is_media_type(content_type) else "application/octet-stream"
