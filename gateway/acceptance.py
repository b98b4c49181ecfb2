"""A task's way into the log: what POST /tasks, a re-run and a redrive have in common."""

import asyncio
import base64
import hashlib
import json
import logging
import time
from typing import Any, NamedTuple

import msgspec

from gateway.announcing import Announcer
from gateway.errors import Problem
from gateway.functions import Functions
from gateway.limits.load import Load
from gateway.observation import Metrics
from gateway.ports import Blobs, Commands, ReadModel
from gateway.stored import StoredInputs
from gateway.submissions import THREAD_BYTES, Submission
from gateway.webhooks import Webhooks
from mayfly import view
from mayfly.errors import LogUnavailable
from mayfly.faultpoints import FaultPoint, reached
from mayfly.function import Function
from mayfly.placement import limited_partition, partition_of
from mayfly.settings import Settings
from mayfly.task import Envelope, encode, new_task_id
from mayfly.view import Reservation

log = logging.getLogger(__name__)


class Accepted(NamedTuple):
    """A task that the log has. `replayed`: it had it before, and nothing was appended."""

    task_id: str
    status: str
    replayed: bool = False


class Acceptance:
    """Takes submissions. Everything that can be wrong is looked for before the first byte is stored."""

    def __init__(
        self,
        settings: Settings,
        functions: Functions,
        webhooks: Webhooks,
        commands: Commands,
        read_model: ReadModel,
        blobs: Blobs,
        metrics: Metrics,
        load: Load,
    ) -> None:
        self._settings = settings
        self._functions = functions
        self._webhooks = webhooks
        self._commands = commands
        self._read_model = read_model
        self._announcer = Announcer(read_model)
        self._blobs = blobs
        self._stored = StoredInputs(settings, blobs)
        self._metrics = metrics
        self._load = load

    async def accept(self, submission: Submission) -> Accepted:
        """A task of its own. Raises `Problem`, and `BlobsUnavailable` for a payload that the store gets, or
        has."""
        submission = await self._stored.find(submission)
        task_id = new_task_id()
        function = self.check(submission, task_id)
        envelope = await _envelope(submission, task_id)
        partition = limited_partition(envelope, function.concurrency, self._settings.partitions)
        queue = submission.queue or function.queue
        return await self._append(function, submission, envelope, queue, partition)

    async def accept_once(self, submission: Submission, task_id: str) -> Accepted:
        """The task of that id, which there is once however often it is asked for.

        Reserved before anything else: the reservation names the request, so that another one with this id
        is refused, and the queue and the partition, so that a second append lands where the first one did,
        whatever was deployed in between, and one fold sees both. Raises as `accept` does, `Problem` for
        another request, and `ReadModelUnavailable`.
        """
        envelope = await _envelope(submission, task_id)
        request_sha256 = request_hash(submission, envelope)
        function: Function | None = None
        reservation = await self._read_model.reservation(task_id)
        if reservation is None:
            submission = await self._stored.find(submission)
            function = self.check(submission, task_id)
            partition = partition_of(envelope, function.concurrency, self._settings.partitions)
            wanted = Reservation(request_sha256, partition, submission.queue or function.queue)
            reservation = await self._read_model.reserve(task_id, wanted)
        if reservation.request_sha256 != request_sha256:
            detail = f"The key belongs to the task {task_id}, which was asked for with another request."
            raise Problem("idempotency_conflict", detail, field="Idempotency-Key", taskId=task_id)
        if (record := await self._read_model.get(task_id)) is not None:
            return Accepted(task_id, record["status"], replayed=True)
        # Reserved and not known: this is the first append, or nobody can tell whether that took place.
        if function is None:
            submission = await self._stored.find(submission)
            function = self.check(submission, task_id)
        keyed = msgspec.structs.replace(envelope, request_sha256=request_sha256)
        queue = reservation.queue or submission.queue or function.queue
        return await self._append(function, submission, keyed, queue, reservation.partition)

    def check(self, submission: Submission, task_id: str = "") -> Function:
        """Whose task it is, if it has that id. Raises `Problem` for what it cannot be accepted with."""
        self._webhooks.check(submission)
        return self._functions.accepting(submission, task_id)

    async def _append(
        self,
        function: Function,
        submission: Submission,
        envelope: Envelope,
        queue: str,
        partition: int | None,
    ) -> Accepted:
        lane, task_id = submission.lane, envelope.task_id
        with self._load.append(envelope.tenant):
            whole = await self._with_payload(envelope, submission)
            started = time.perf_counter()
            reached(FaultPoint.BEFORE_APPEND)
            try:
                appended = await self._commands.append(queue, lane, partition, task_id, encode(whole))
            except LogUnavailable as error:
                log.warning("a task was not accepted", extra={"task_id": task_id, "reason": str(error)})
                raise Problem("log_unavailable", _ambiguous(envelope), taskId=task_id) from error
            reached(FaultPoint.AFTER_APPEND)
        self._metrics.produce_seconds.add(time.perf_counter() - started)
        self._metrics.accepted(function.name)
        queued = view.queued(
            whole,
            queue=queue,
            lane=lane,
            partition=appended.partition,
            offset=appended.offset,
            at=appended.timestamp,
        )
        await self._announcer.announce(queued)
        return Accepted(task_id, queued.status)

    async def _with_payload(self, envelope: Envelope, submission: Submission) -> Envelope:
        revision, payload = self._functions.revision, submission.payload
        replace = msgspec.structs.replace
        if submission.stored is not None:
            ref = await self._stored.copy(submission, envelope.task_id)
            told = {"content_type": submission.content_type, "payload_sha256": ref.sha256 or None}
            return replace(envelope, catalog_revision=revision, payload_ref=ref, **told)
        if len(payload) > self._settings.payload_inline_bytes:
            # Before the append: a command never names bytes that are not there yet.
            ref = await self._blobs.put(f"payloads/{envelope.task_id}", payload, submission.content_type)
            return replace(envelope, catalog_revision=revision, payload_ref=ref)
        if submission.is_json:
            return replace(envelope, catalog_revision=revision, payload=msgspec.Raw(payload))
        text = base64.b64encode(payload).decode()
        return replace(envelope, catalog_revision=revision, payload_base64=text)


async def _envelope(submission: Submission, task_id: str) -> Envelope:
    """Without the payload, whose hash takes a while where it is large."""
    if len(submission.payload) > THREAD_BYTES:
        return await asyncio.to_thread(submission.envelope, task_id)
    return submission.envelope(task_id)


def request_hash(submission: Submission, envelope: Envelope) -> str:
    """SHA-256, in hex, of what was asked for, whenever and of whichever gateway.

    That is the JSON object of the envelope's fields as they stand in the log, by name and without blanks,
    with `queue` as it was asked for and `priority`, without `taskId` and `catalogRevision`, and with the
    payload's hash in place of the payload.
    """
    asked: dict[str, Any] = msgspec.to_builtins(envelope)
    del asked["taskId"]
    asked["priority"] = submission.lane.value
    if submission.queue is not None:
        asked["queue"] = submission.queue
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _ambiguous(envelope: Envelope) -> str:
    again = ""
    if envelope.request_sha256 is not None:
        again = " Asking again in the same way makes no second task."
    return (
        "The log did not acknowledge the task in time, so it may or may not run. "
        f"GET /tasks/{envelope.task_id} tells, once the log is back.{again}"
    )
