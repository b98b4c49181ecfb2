"""Tasks: posted, read, waited for, listed; and their results and logs."""

import base64
import logging
import time
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway.announcing import Announcer
from gateway.bodies import is_media_type
from gateway.errors import Problem
from gateway.functions import Functions
from gateway.models import STATUSES
from gateway.observation import Metrics
from gateway.parameters import page_limit, parameters, wait_seconds
from gateway.ports import Appended, Blobs, Commands, ReadModel
from gateway.responses import json_response
from gateway.submissions import Submission, read_submission
from gateway.views import task_view
from gateway.waiting import Record, Waiters
from mayfly.errors import BlobNotFound, LogUnavailable
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.task import TERMINAL, Envelope, encode, is_task_id, new_task_id
from mayfly.view import QueuedTask

log = logging.getLogger(__name__)


class Tasks:
    """The handlers of /tasks."""

    def __init__(
        self,
        settings: Settings,
        functions: Functions,
        commands: Commands,
        read_model: ReadModel,
        blobs: Blobs,
        waiters: Waiters,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._functions = functions
        self._commands = commands
        self._read_model = read_model
        self._announcer = Announcer(read_model)
        self._blobs = blobs
        self._waiters = waiters
        self._metrics = metrics

    async def submit(self, request: Request) -> Response:
        """Everything that can be wrong is looked for before the first byte is stored or queued."""
        submission = await read_submission(request, self._settings)
        function = self._functions.accepting(submission)
        task_id = new_task_id()
        envelope = await self._envelope(task_id, submission)
        appended = await self._append(function, envelope, submission)
        self._metrics.accepted.labels(function.name).inc()
        await self._show(function, envelope, submission, appended)
        return json_response(
            {"taskId": task_id, "status": "QUEUED"}, 202, headers={"location": f"/tasks/{task_id}"}
        )

    async def get(self, request: Request) -> Response:
        wait = wait_seconds(parameters(request, "wait").get("wait"))
        task_id = _task_id(request)
        record = await self._waiters.until_terminal(task_id, wait, request.is_disconnected)
        return json_response(task_view(_known(task_id, record)))

    async def list(self, request: Request) -> Response:
        given = parameters(request, "status", "taskType", "tag", "cursor", "limit")
        status = given.get("status")
        if status is not None and status not in STATUSES:
            detail = f"status is one of {', '.join(STATUSES)}."
            raise Problem("invalid_parameter", detail, field="status")
        limit = page_limit(given.get("limit"))
        try:
            records, cursor = await self._read_model.list(
                status=status,
                task_type=given.get("taskType"),
                tag=given.get("tag"),
                cursor=given.get("cursor"),
                limit=limit,
            )
        except ValueError as error:
            detail = "cursor is not one that a list gave as nextCursor."
            raise Problem("invalid_parameter", detail, field="cursor") from error
        return json_response({"tasks": [task_view(record) for record in records], "nextCursor": cursor})

    async def result(self, request: Request) -> Response:
        task_id, record = await self._ended(request)
        if "resultKey" not in record:
            detail = f"The task is {record['status']}; /tasks/{task_id} says why."
            raise Problem("no_result", detail)
        return await self._blob(request, record["resultKey"], record.get("resultContentType", ""))

    async def logs(self, request: Request) -> Response:
        """What the last attempt wrote; nothing at all is an empty text."""
        _, record = await self._ended(request)
        if "logKey" not in record:
            return Response(b"", headers=_UNTRUSTED, media_type=_PLAIN)
        dropped = {"mayfly-log-dropped": record.get("logDropped", "0")}
        return await self._blob(request, record["logKey"], _PLAIN, dropped)

    # --- a submission's way into the log

    async def _envelope(self, task_id: str, submission: Submission) -> Envelope:
        envelope = Envelope(
            task_type=submission.task_type,
            task_id=task_id,
            content_type=submission.content_type,
            name=submission.name,
            timeout_seconds=submission.timeout_seconds,
            tags=submission.tags,
            catalog_revision=self._functions.revision,
        )
        payload = submission.payload
        if len(payload) > self._settings.payload_inline_bytes:
            # Before the append: a command never names bytes that are not there yet.
            ref = await self._blobs.put(f"payloads/{task_id}", payload, submission.content_type)
            return msgspec.structs.replace(envelope, payload_ref=ref)
        if submission.is_json:
            return msgspec.structs.replace(envelope, payload=msgspec.Raw(payload))
        return msgspec.structs.replace(envelope, payload_base64=base64.b64encode(payload).decode())

    async def _append(self, function: Function, envelope: Envelope, submission: Submission) -> Appended:
        started = time.perf_counter()
        try:
            appended = await self._commands.append(
                function.queue, submission.lane, envelope.task_id, encode(envelope)
            )
        except LogUnavailable as error:
            log.warning("a task was not accepted", extra={"task_id": envelope.task_id, "reason": str(error)})
            detail = (
                "The log did not acknowledge the task in time, so it may or may not run. "
                f"GET /tasks/{envelope.task_id} tells, once the log is back."
            )
            raise Problem("log_unavailable", detail, taskId=envelope.task_id) from error
        self._metrics.produce_seconds.observe(time.perf_counter() - started)
        return appended

    async def _show(
        self, function: Function, envelope: Envelope, submission: Submission, appended: Appended
    ) -> None:
        queued = QueuedTask(
            task_id=envelope.task_id,
            task_type=function.name,
            queue=function.queue,
            priority=submission.lane,
            partition=appended.partition,
            offset=appended.offset,
            created_at=appended.timestamp,
            payload_bytes=len(submission.payload),
            content_type=submission.content_type,
            name=submission.name,
            tags=submission.tags,
            timeout_seconds=submission.timeout_seconds,
        )
        await self._announcer.announce(queued)

    # --- bytes

    async def _ended(self, request: Request) -> tuple[str, Record]:
        parameters(request)
        task_id = _task_id(request)
        record = _known(task_id, await self._read_model.get(task_id))
        if record.get("status") not in TERMINAL:
            detail = f"The task is {record.get('status')}; GET /tasks/{task_id}?wait=30 waits for its end."
            raise Problem("task_not_finished", detail)
        return task_id, record

    async def _blob(
        self, request: Request, key: str, content_type: str, more: dict[str, str] | None = None
    ) -> Response:
        try:
            size, chunks = await self._blobs.open(key)
        except BlobNotFound as error:
            raise Problem("blob_gone", "The store does not have these bytes any more.") from error
        headers = {
            **_UNTRUSTED,
            **(more or {}),
            "content-length": str(size),
            "content-type": _safe_type(content_type),
        }
        if request.method == "HEAD":
            return Response(headers=headers)
        return StreamingResponse(chunks, headers=headers)


_PLAIN: Final = "text/plain; charset=utf-8"
_UNTRUSTED: Final = {
    # What a function made may be a page. A browser shows it, but in an origin of its own and without scripts.
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private",
}


def _safe_type(content_type: str) -> str:
    """The content type that a function claims, if it is one: a header must not carry anything else."""
    return content_type if is_media_type(content_type) else "application/octet-stream"


def _task_id(request: Request) -> str:
    task_id: str = request.path_params["task_id"]
    if not is_task_id(task_id):
        raise Problem("unknown_task", f"{task_id[:64]!r} is not a task id, which is a UUID in lower case.")
    return task_id


def _known(task_id: str, record: Record | None) -> Record:
    if record is None:
        raise Problem("unknown_task", f"There is no task {task_id}.")
    return record
