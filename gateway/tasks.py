"""Tasks: posted, read, waited for, listed, cancelled; and their results."""

import logging

from starlette.requests import Request
from starlette.responses import Response

from gateway import audit
from gateway.acceptance import Acceptance, Accepted
from gateway.access import principal_of
from gateway.downloads import download, presigned
from gateway.errors import Problem
from gateway.models import STATUSES
from gateway.parameters import idempotency_key, page_limit, parameters, wait_seconds
from gateway.ports import Blobs, Commands, ReadModel
from gateway.records import Record, command_of, own
from gateway.responses import json_response
from gateway.submissions import read_submission
from gateway.times import now
from gateway.views import task_view
from gateway.waiting import Waiters
from mayfly.errors import ReadModelUnavailable
from mayfly.events import CancelRequested
from mayfly.settings import Settings
from mayfly.task import TERMINAL, Status, encode, keyed_id
from mayfly.view import timestamp

log = logging.getLogger(__name__)


class Tasks:
    """The handlers of /tasks."""

    def __init__(
        self,
        settings: Settings,
        acceptance: Acceptance,
        commands: Commands,
        read_model: ReadModel,
        blobs: Blobs,
        waiters: Waiters,
    ) -> None:
        self._settings = settings
        self._acceptance = acceptance
        self._commands = commands
        self._read_model = read_model
        self._blobs = blobs
        self._waiters = waiters

    async def submit(self, request: Request) -> Response:
        key = idempotency_key(request)
        submission = await read_submission(request, self._settings)
        tenant = submission.tenant
        if key is None:
            return accepted_response(await self._acceptance.accept(submission))
        return accepted_response(await self._acceptance.accept_once(submission, keyed_id(tenant, key)))

    async def get(self, request: Request) -> Response:
        wait = wait_seconds(parameters(request, "wait").get("wait"))
        record = await own(request, self._read_model)
        if wait and record["status"] not in TERMINAL:
            record = await self._later(request, record, wait)
        return json_response(task_view(record))

    async def list(self, request: Request) -> Response:
        given = parameters(request, "status", "taskType", "tag", "cursor", "limit")
        status = given.get("status")
        if status is not None and status not in STATUSES:
            detail = f"status is one of {', '.join(STATUSES)}."
            raise Problem("invalid_parameter", detail, field="status")
        limit = page_limit(given.get("limit"))
        try:
            records, cursor = await self._read_model.list(
                tenant=principal_of(request).tenant,
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
        parameters(request)
        record = await self._with_result(request)
        content_type = record.get("resultContentType", "")
        return await download(request, self._blobs, record["resultKey"], content_type)

    async def result_url(self, request: Request) -> Response:
        """Where the store itself gives the result to whoever asks, for a while."""
        parameters(request)
        record = await self._with_result(request)
        seconds = self._settings.presigned_seconds
        expires_at = timestamp(now() + seconds * 1000)
        url = await presigned(
            self._blobs, record["resultKey"], record.get("resultContentType", ""), record["taskId"], seconds
        )
        return json_response({"url": url, "expiresAt": expires_at}, headers={"cache-control": "no-store"})

    async def _with_result(self, request: Request) -> Record:
        record = await own(request, self._read_model)
        if record["status"] not in TERMINAL:
            detail = (
                f"The task is {record['status']}; GET /tasks/{record['taskId']}?wait=30 waits for its end."
            )
            raise Problem("task_not_finished", detail)
        if "resultKey" not in record:
            detail = f"The task is {record['status']}; /tasks/{record['taskId']} says why."
            raise Problem("no_result", detail)
        return record

    async def cancel(self, request: Request) -> Response:
        """Ask for the task's end: when this is answered the log has it, and who owns the task sees to it."""
        wait = wait_seconds(parameters(request, "wait").get("wait"))
        record = await own(request, self._read_model)
        task_id = record["taskId"]
        if record["status"] == Status.CANCELLED:
            return _cancelling(record, 200)
        if record["status"] in TERMINAL:
            raise Problem("task_finished", f"The task is {record['status']} already.")
        queue, lane, partition, offset = command_of(record)
        await audit.record(request, "task.cancel", task_id)
        event = CancelRequested(task_id=task_id, lane=lane, offset=offset)
        await self._commands.append_event(queue, partition, task_id, encode(event))
        await self._tell_cancel(task_id)
        if wait:
            record = await self._later(request, record, wait)
        return _cancelling(record, 200 if record["status"] in TERMINAL else 202)

    async def _later(self, request: Request, record: Record, wait: float) -> Record:
        """The task at its end, or as it is when the time is over."""
        later = await self._waiters.until_terminal(record["taskId"], wait, request.is_disconnected)
        return record if later is None else later

    async def _tell_cancel(self, task_id: str) -> None:
        try:
            await self._read_model.tell_cancel(task_id)
        except ReadModelUnavailable as error:
            # A dispatcher that lost the partition does not hear of it; its owner reads it in the log.
            log.warning("a cancel was not told", extra={"task_id": task_id, "reason": str(error)})


def accepted_response(accepted: Accepted, rerun_of: str | None = None) -> Response:
    """202: the log has the task."""
    task_id, status, replayed = accepted
    body = {"taskId": task_id, "status": status}
    if rerun_of is not None:
        body["rerunOf"] = rerun_of
    headers = {"location": f"/tasks/{task_id}"}
    if replayed:
        headers["idempotent-replayed"] = "true"
    return json_response(body, 202, headers)


def _cancelling(record: Record, status: int) -> Response:
    return json_response({"taskId": record["taskId"], "status": record["status"]}, status)
