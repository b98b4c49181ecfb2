"""Re-runs: a new task with the input that another one had, byte for byte."""

import asyncio
import base64
import hashlib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.acceptance import Acceptance
from gateway.errors import Problem
from gateway.limits.limits import admission_of
from gateway.models import RerunRequest
from gateway.parameters import parameters
from gateway.ports import Blobs, Commands, ReadModel
from gateway.records import Record, command_of, own
from gateway.submissions import THREAD_BYTES, Submission, checked, json_body
from gateway.tasks import accepted_response
from mayfly import strictjson
from mayfly.errors import BlobNotFound
from mayfly.strictjson import StrictJSONError
from mayfly.task import JSON, BlobRef, Envelope, MalformedCommand, decode_envelope


class Originals:
    """What tasks were asked for with, out of the log and the store."""

    def __init__(self, commands: Commands, blobs: Blobs) -> None:
        self._commands = commands
        self._blobs = blobs

    async def submission(self, record: Record, *, latest: bool) -> Submission:
        """The task as it could be posted again, at once; unless `latest`, on the image that it ran on.

        Raises `Problem` where its input is no longer there or is not what it was, `LogUnavailable` and
        `BlobsUnavailable`.
        """
        envelope = await self._envelope(record)
        given: dict[str, Any]
        if envelope.upload is not None and (ref := envelope.payload_ref) is not None:
            # It may be large: the store makes the new task's copy of it.
            await self._check_stored(ref)
            given = {"payload": b"", "upload": envelope.upload, "stored": ref}
        else:
            payload = await self._payload(envelope)
            if envelope.payload_sha256 not in (None, hashlib.sha256(payload).hexdigest()):
                raise _gone("the payload is not the one that was sent")
            value = await _value(payload) if envelope.content_type == JSON else None
            given = {"payload": payload, "value": value}
        return Submission(
            **given,
            task_type=envelope.task_type,
            tenant=envelope.tenant,
            lane=command_of(record).lane,
            content_type=envelope.content_type,
            name=envelope.name,
            timeout_seconds=envelope.timeout_seconds,
            tags=envelope.tags,
            ttl_seconds=envelope.ttl_seconds,
            retry=envelope.retry,
            queue=record["queue"],
            redeliver=envelope.redeliver,
            concurrency_key=envelope.concurrency_key,
            callback_url=envelope.callback_url,
            image=None if latest else record.get("image"),
            rerun_of=record["taskId"],
        )

    async def _envelope(self, record: Record) -> Envelope:
        queue, lane, partition, offset = command_of(record)
        value = await self._commands.read(queue, lane, partition, offset)
        if value is None:
            raise _gone("the log does not have its command any more")
        try:
            topic = f"mayfly.{queue}.{lane.value}"
            envelope = decode_envelope(value, topic=topic, partition=partition, offset=offset)
        except MalformedCommand as error:
            raise _gone(f"its command cannot be read: {error}") from error
        if envelope.task_id != record["taskId"]:
            raise _gone("another task's command stands in the place of its own")
        return envelope

    async def _payload(self, envelope: Envelope) -> bytes:
        if envelope.payload_ref is not None:
            return await self._stored(envelope.payload_ref)
        if envelope.payload_base64 is None:
            return bytes(envelope.payload) or b"null"
        try:
            return base64.b64decode(envelope.payload_base64, validate=True)
        except ValueError as error:
            raise _gone(f"its payloadBase64 cannot be read: {error}") from error

    async def _check_stored(self, ref: BlobRef) -> None:
        try:
            found = await self._blobs.describe(ref.key)
        except BlobNotFound as error:
            raise _gone("the store does not have its payload any more") from error
        if found.size != ref.size:
            raise _gone("the payload in the store has another size")

    async def _stored(self, ref: BlobRef) -> bytes:
        try:
            size, chunks = await self._blobs.open(ref.key)
            if size != ref.size:
                raise _gone("the payload in the store has another size")
            payload = b"".join([chunk async for chunk in chunks])
        except BlobNotFound as error:
            raise _gone("the store does not have its payload any more") from error
        if hashlib.sha256(payload).hexdigest() != ref.sha256:
            raise _gone("the payload in the store has another hash")
        return payload


class Reruns:
    """The handler of /tasks/{task_id}/rerun."""

    def __init__(self, acceptance: Acceptance, originals: Originals, read_model: ReadModel) -> None:
        self._acceptance = acceptance
        self._originals = originals
        self._read_model = read_model

    async def submit(self, request: Request) -> Response:
        parameters(request)
        wanted = checked(RerunRequest, await json_body(request), "invalid_body")
        record = await own(request, self._read_model)
        if (admission := admission_of(request)) is not None and "upload" not in record:
            # Its payload comes into memory although nobody sends it.
            admission.hold(int(record.get("payloadBytes", 0)))
        submission = await self._originals.submission(record, latest=wanted.latest)
        return accepted_response(await self._acceptance.accept(submission), rerun_of=record["taskId"])


async def _value(payload: bytes) -> Any:
    try:
        if len(payload) > THREAD_BYTES:
            return await asyncio.to_thread(strictjson.loads, payload)
        return strictjson.loads(payload)
    except StrictJSONError as error:
        raise Problem("invalid_payload", f"The payload is refused: {error}.", field="payload") from error


def _gone(reason: str) -> Problem:
    return Problem("input_gone", f"The task cannot be run again: {reason}.")
