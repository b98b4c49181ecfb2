"""What an attempt reads of S3 and writes there. It waits while S3 is away."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog

from dispatcher.claims import backoff, insist
from dispatcher.inputs import Refused
from dispatcher.invocation import Reply
from mayfly.errors import BlobNotFound, BlobsUnavailable
from mayfly.settings import Settings
from mayfly.task import JSON, NOTHING, BlobRef, FailureType, Log, Outcome, Result

log = structlog.get_logger(__name__)

S3_AWAY: Final = "S3 is away: the attempt waits"


class StoredObject(Protocol):
    @property
    def size(self) -> int:
        """Bytes."""


class Blobs(Protocol):
    """All raise `BlobsUnavailable`, and what reads raises `BlobNotFound`."""

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef: ...

    async def get(self, key: str) -> bytes: ...

    async def stream(self, key: str, start: int) -> AsyncIterator[bytes]:
        """The chunks from that byte on. They raise `BlobsUnavailable` too."""

    async def describe(self, key: str) -> StoredObject: ...


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

    async def stream(self, reference: BlobRef) -> "Payload":
        """A payload in S3 that is to be read while it is given. Raises `Refused` when it is gone."""
        try:
            found = await insist(lambda: self._blobs.describe(reference.key), BlobsUnavailable, S3_AWAY)
        except BlobNotFound as error:
            raise Refused(FailureType.INVALID, f"the payload is gone: {error}") from error
        if found.size != reference.size:
            message = f"the payload has {found.size} bytes, and the command says {reference.size}"
            raise Refused(FailureType.INVALID, message)
        return Payload(self._blobs, reference)

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


@dataclass(frozen=True)
class Payload:
    """An object of S3, as it is given to a function."""

    blobs: Blobs
    reference: BlobRef

    @property
    def size(self) -> int:
        return self.reference.size

    async def chunks(self) -> AsyncIterator[bytes]:
        """The last one comes only once the hash was seen to be right, so that no function takes other bytes
        for all of them. Waits while S3 is away, and goes on where it was. Raises `Refused`."""
        key, promised = self.reference.key, self.reference.sha256
        digest, at, last = hashlib.sha256(), 0, b""
        delays = backoff()
        while at < self.size:
            try:
                async for chunk in await self.blobs.stream(key, at):
                    at += len(chunk)
                    if promised:
                        digest.update(chunk)
                    if last:
                        yield last
                    last = chunk
                break
            except BlobsUnavailable as error:
                log.warning(S3_AWAY, reason=str(error))
                await asyncio.sleep(next(delays))
            except BlobNotFound as error:
                raise Refused(FailureType.INVALID, f"the payload is gone: {error}") from error
        if at != self.size or (promised and digest.hexdigest() != promised):
            raise Refused(FailureType.INVALID, f"{key} does not have the hash that was promised")
        if last:
            yield last
