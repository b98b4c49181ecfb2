"""Calls: a function asked and its answer waited for, in one request."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.acceptance import Acceptance, Accepted
from gateway.downloads import UNTRUSTED, download
from gateway.errors import CODES, Problem
from gateway.limits.limits import admission_of
from gateway.parameters import idempotency_key, wait_seconds
from gateway.ports import Blobs, ReadModel
from gateway.records import Record
from gateway.submissions import Submission, read_invocation
from gateway.tasks import accepted_response
from gateway.views import error_view
from gateway.waiting import Waiters
from mayfly.errors import BlobsUnavailable, ReadModelUnavailable
from mayfly.settings import Settings
from mayfly.task import JSON, TERMINAL, FailureType, Status, keyed_id

WAIT: Final = "30"
"""Seconds, unless the request says otherwise."""
TASK_ID: Final = "mayfly-task-id"
"""The header that names the task of a call."""
_LATE: Final = (FailureType.TIMEOUT, FailureType.EXPIRED)


class Calls:
    """The handler of /functions/{name}/invoke, and what other calls have in common with it."""

    def __init__(
        self,
        settings: Settings,
        acceptance: Acceptance,
        read_model: ReadModel,
        blobs: Blobs,
        waiters: Waiters,
    ) -> None:
        self._settings = settings
        self._acceptance = acceptance
        self._read_model = read_model
        self._blobs = blobs
        self._waiters = waiters

    async def post(self, request: Request) -> Response:
        key = idempotency_key(request)
        name: str = request.path_params["name"]
        submission = await read_invocation(request, name, self._settings, "wait")
        wait = wait_seconds(request.query_params.get("wait", WAIT))
        task_id = None if key is None else keyed_id(submission.tenant, key)
        try:
            accepted = await self.accept(submission, task_id)
        except Problem as problem:
            if problem.code != "unknown_task_type":
                raise
            raise Problem("unknown_function", problem.detail) from problem
        record = await self.end(request, accepted, wait)
        if record is None or record["status"] not in TERMINAL:
            status = accepted.status if record is None else record["status"]
            return accepted_response(accepted._replace(status=status))
        if record["status"] != Status.COMPLETED:
            raise _failed(record)
        replayed = {"idempotent-replayed": "true"} if accepted.replayed else {}
        return await self.result(request, record, {TASK_ID: accepted.task_id, **replayed})

    async def accept(self, submission: Submission, task_id: str | None) -> Accepted:
        """A task of its own, or the one of that id. Raises as `Acceptance` does."""
        if task_id is None:
            return await self._acceptance.accept(submission)
        return await self._acceptance.accept_once(submission, task_id)

    async def end(self, request: Request, accepted: Accepted, seconds: float) -> Record | None:
        """The task at its end, or as it is when the time is over; None where nobody can tell just now."""
        if (admission := admission_of(request)) is not None:
            # It is a task like any other from here on, however long it is waited for.
            admission.close(accepted=True)
        try:
            return await self._waiters.until_terminal(accepted.task_id, seconds, request.is_disconnected)
        except ReadModelUnavailable:
            # The log has the task, and this answer is the one place that names it.
            return None

    async def result(self, request: Request, record: Record, headers: dict[str, str]) -> Response:
        """The function's own bytes. Raises `Problem`."""
        if "result" in record:
            return Response(record["result"].encode(), headers={**UNTRUSTED, **headers, "content-type": JSON})
        content_type = record.get("resultContentType", "")
        try:
            return await download(request, self._blobs, record["resultKey"], content_type, headers)
        except BlobsUnavailable as error:
            detail = f"The store does not answer; GET /tasks/{record['taskId']}/result has the result later."
            raise Problem("blobs_unavailable", detail, taskId=record["taskId"]) from error


def _failed(record: Record) -> Problem:
    """The function's own failure: for whoever called, it is what stands behind the gateway."""
    error: dict[str, Any] = error_view(record)
    kind = record.get("errorType", "")
    code = "function_timed_out" if kind in _LATE else "function_failed"
    detail = f"{kind}: {record['errorMessage']}" if kind else f"{CODES[code].title}."
    return Problem(code, detail, taskId=record["taskId"], error=error)
