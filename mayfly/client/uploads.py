"""Uploads: files that go to the store by a presigned URL, past the gateway; and results from there."""

import asyncio
import hashlib
import mimetypes
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx
import msgspec

from mayfly.client.errors import UnexpectedAnswer
from mayfly.client.transport import CONNECT_SECONDS, of_place
from mayfly.client.wire import Call, Request, decode, given, post, send, task_path

CHUNK: Final = 1 << 20
STORE_SECONDS: Final = 300.0
"""How long the store may be silent: it answers once it has everything."""
OCTETS: Final = "application/octet-stream"

FileLike = str | os.PathLike[str] | BinaryIO
"""A path, or a file that is open for reading bytes and can seek."""


class Upload(msgspec.Struct, rename="camel", frozen=True):
    """Where to put the bytes, with these headers."""

    upload_id: str
    method: str
    url: str
    headers: dict[str, str]
    expires_at: datetime


class ResultUrl(msgspec.Struct, rename="camel", frozen=True):
    """Where whoever has the URL gets the result, until then."""

    url: str
    expires_at: datetime


class Source:
    """A file that is to be uploaded: read once for its hash, and once on its way."""

    def __init__(self, file: BinaryIO, name: str, content_type: str | None) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        self.content_type = content_type or mimetypes.guess_type(name)[0] or OCTETS

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def chunks(self) -> Iterator[bytes]:
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            yield chunk

    async def chunks_async(self) -> AsyncIterator[bytes]:
        await asyncio.to_thread(self._file.seek, 0)
        while chunk := await asyncio.to_thread(self._file.read, CHUNK):
            yield chunk


@contextmanager
def source(file: FileLike, content_type: str | None) -> Iterator[Source]:
    """Raises `OSError` where the file cannot be read."""
    if not isinstance(file, str | os.PathLike):
        yield Source(file, str(getattr(file, "name", "")), content_type)
        return
    with Path(file).open("rb") as opened:
        yield Source(opened, os.fspath(file), content_type)


def create(of: Source, sha256: str) -> Call[Upload]:
    # One that nothing is put to is nothing.
    request = post("/uploads", given(size=of.size, contentType=of.content_type, sha256=sha256))
    answer = yield from send(request, again=True)
    return decode(answer.body, Upload)


def result_url(task_id: str) -> Call[ResultUrl]:
    answer = yield from send(Request("GET", task_path(task_id, "result", "url")))
    return decode(answer.body, ResultUrl)


def store_options(upload: Upload) -> dict[str, Any]:
    """For an `httpx` client: the store is no gateway, and gets no credential of one."""
    return {
        "timeout": httpx.Timeout(STORE_SECONDS, connect=CONNECT_SECONDS),
        **of_place(httpx.URL(upload.url)),
    }


def store_request(upload: Upload, of: Source) -> dict[str, Any]:
    """Beside the content. With its length, or it would be sent in pieces, which S3 does not take."""
    headers = {**upload.headers, "content-length": str(of.size)}
    return {"method": upload.method, "url": upload.url, "headers": headers}


def check(response: httpx.Response) -> None:
    """Raises `UnexpectedAnswer`."""
    if not response.is_success:
        said = response.text.partition("<Message>")[2].partition("</Message>")[0] or response.reason_phrase
        raise UnexpectedAnswer(f"the store did not take the upload: {response.status_code} {said}")
