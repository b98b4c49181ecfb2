"""What an attempt reads of S3 and writes there. It waits while S3 is away."""

import asyncio
from typing import Final, Protocol

import msgspec

from dispatcher.claims import insist
from dispatcher.inputs import Refused
from dispatcher.invocation import Reply
from mayfly.errors import BlobNotFound, BlobsUnavailable
from mayfly.settings import Settings
from mayfly.task import JSON, NOTHING, BlobRef, FailureType, Log, Outcome, Result

S3_AWAY: Final = "S3 is away: the attempt waits"


class Blobs(Protocol):
    """Both raise `BlobsUnavailable`; `get` raises `BlobNotFound`."""

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef: ...

    async def get(self, key: str) -> bytes: ...


class Store:
    def __init__(self, blobs: Blobs, settings: Settings) -> None:
        self._blobs = blobs
        self._settings = settings
        self.fails = False
        """What was put last was not taken."""

    async def fetch(self, reference: BlobRef) -> bytes:
        """A payload from S3. Raises `Refused` when it is gone, or larger than payloads may be."""
        if reference.size > self._settings.payload_bytes:
            most = self._settings.payload_bytes
            raise Refused(FailureType.INVALID, f"the payload has {reference.size} bytes, and may have {most}")
        try:
            return await insist(lambda: self._blobs.get(reference.key), BlobsUnavailable, S3_AWAY)
        except BlobNotFound as error:
            raise Refused(FailureType.INVALID, f"the payload is gone: {error}") from error

    async def outcome(self, place: str, reply: Reply) -> Outcome:
        """Put result and log where `Finished` will say that they are: under `place`, which is of this attempt
        alone."""
        storing = self._put(f"results/{place}", reply.result, reply.content_type)
        logging = self._put(f"logs/{place}", reply.log or None, "text/plain; charset=utf-8")
        if reply.result is None or not reply.log:
            # One of them is nothing to store: what does both at once would cost more than the other.
            blob, log_blob = await storing, await logging
        else:
            blob, log_blob = await asyncio.gather(storing, logging)
        result: Result | None = None
        if blob is not None:
            small = reply.content_type == JSON and blob.size <= self._settings.result_inline_bytes
            inline = msgspec.Raw(reply.result or b"") if small else NOTHING
            result = Result(blob, reply.content_type, inline=inline)
        kept = Log(log_blob, reply.log_dropped) if log_blob else None
        return Outcome(reply.started_at, reply.finished_at, result, reply.failure, kept)

    async def _put(self, key: str, data: bytes | None, content_type: str) -> BlobRef | None:
        if data is None:
            return None

        async def put() -> BlobRef:
            try:
                blob = await self._blobs.put(key, data, content_type)
            except BlobsUnavailable:
                self.fails = True
                raise
            self.fails = False
            return blob

        return await insist(put, BlobsUnavailable, S3_AWAY)
