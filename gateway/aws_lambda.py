"""AWS Lambda's Invoke, so that AWS's own clients call functions here: boto3 with an `endpoint_url`.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
"""

import base64
import re
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.acceptance import Acceptance, Accepted
from gateway.access import principal_of
from gateway.aws_errors import PREFIX
from gateway.calls import TASK_ID, Calls
from gateway.errors import Problem
from gateway.parameters import parameters
from gateway.ports import Blobs
from gateway.records import Record
from gateway.responses import json_response
from gateway.signatures import BODY_BYTES, body_of
from gateway.submissions import Submission, call
from mayfly.errors import BlobNotFound, BlobsUnavailable
from mayfly.settings import KIB, MIB, Settings
from mayfly.task import TERMINAL, FailureType, Status, part_id

PATH: Final = f"{PREFIX}functions/{{name}}/invocations"
LONGEST_SECONDS: Final = 900.0
"""How long a call is waited for: as long as a function may take at AWS."""
EVENT_BYTES: Final = 1 * MIB
"""AWS's limit for a payload that nobody waits for."""
TAIL_BYTES: Final = 4 * KIB
LATEST: Final = "$LATEST"

NAME: Final = re.compile(
    r"(?:arn:[a-z-]+:lambda:)?(?:[a-z0-9-]+:)?(?:[0-9]{12}:)?(?:function:)?"
    r"([A-Za-z0-9_-]+)(?::([$A-Za-z0-9_-]+))?"
)
_INVOCATION: Final = re.compile(r"[0-9A-Za-z-]{8,64}")
_ERROR_TYPES: Final[dict[str, str]] = {
    FailureType.TIMEOUT: "Sandbox.Timedout",
    FailureType.OUT_OF_MEMORY: "Runtime.OutOfMemory",
    FailureType.EXIT_CODE: "Runtime.ExitError",
    FailureType.BAD_RESULT: "Runtime.MarshalError",
}
"""What AWS calls the failures that no exception stands for."""


class Lambda:
    """The handler of Invoke. `gateway.aws_errors` puts what it refuses into AWS's terms."""

    def __init__(self, settings: Settings, acceptance: Acceptance, calls: Calls, blobs: Blobs) -> None:
        self._settings = settings
        self._acceptance = acceptance
        self._calls = calls
        self._blobs = blobs

    async def invoke(self, request: Request) -> Response:
        name = _function_name(request)
        kind = _choice(request, "x-amz-invocation-type", "RequestResponse", "Event", "DryRun")
        tail = _choice(request, "x-amz-log-type", "None", "Tail") == "Tail"
        if "x-amz-client-context" in request.headers:
            detail = "A client context is not passed on to functions here: put it into the payload."
            raise Problem("invalid_header", detail, field="X-Amz-Client-Context")
        submission = await self._submission(request, name, kind)
        if kind == "DryRun":
            self._acceptance.check(submission)
            return Response(status_code=204)
        accepted = await self._calls.accept(submission, _task_id(request, submission))
        if kind == "Event":
            return Response(status_code=202, headers=_headers(accepted))
        record = await self._calls.end(request, accepted, LONGEST_SECONDS)
        if record is None or record["status"] not in TERMINAL:
            raise _unfinished(accepted)
        return await self._answer(request, record, accepted, tail=tail)

    async def _submission(self, request: Request, name: str, kind: str) -> Submission:
        body = await body_of(request)
        most = min(EVENT_BYTES if kind == "Event" else BODY_BYTES, self._settings.payload_bytes)
        if len(body) > most:
            detail = (
                f"{len(body)} byte payload is too large for the {kind} invocation type (limit {most} bytes)"
            )
            raise Problem("payload_too_large", detail, field="payload")
        # What AWS gives to a function that is invoked with nothing.
        return await call(name, body or b"{}", principal_of(request).tenant)

    async def _answer(self, request: Request, record: Record, accepted: Accepted, *, tail: bool) -> Response:
        headers = _headers(accepted) | {"x-amz-executed-version": LATEST}
        if tail:
            headers["x-amz-log-result"] = await self._tail(record)
        if record["status"] == Status.COMPLETED:
            return await self._calls.result(request, record, headers)
        if record.get("errorType") == FailureType.LOST:
            detail = record.get("errorMessage", "The sandbox was lost.")
            raise Problem("internal_error", detail, headers=headers, taskId=accepted.task_id)
        return json_response(failure(record), headers=headers | {"x-amz-function-error": "Unhandled"})

    async def _tail(self, record: Record) -> str:
        """The end of the log, in base64. One that cannot be had is none: the result is what counts."""
        end = b""
        if key := record.get("logKey"):
            try:
                _, chunks = await self._blobs.open(key)
                async for chunk in chunks:
                    end = (end + chunk)[-TAIL_BYTES:]
            except (BlobNotFound, BlobsUnavailable):
                end = b""
        return base64.b64encode(end).decode()


def failure(record: Record) -> dict[str, Any]:
    """Why the task failed, as AWS tells it of a Python function."""
    kind, task_id = record.get("errorType", f"Task.{record['status'].capitalize()}"), record["taskId"]
    message = record.get("errorMessage", f"The task is {record['status']}.")
    error: dict[str, Any] = {
        "errorMessage": message,
        "errorType": record.get("errorClass") or _ERROR_TYPES.get(kind, kind),
        "requestId": task_id,
    }
    if kind == FailureType.TIMEOUT:
        error["errorMessage"] = f"RequestId: {task_id} Error: {message}"
    if traceback := record.get("errorTraceback"):
        error["stackTrace"] = stack_trace(traceback)
    return error


def stack_trace(traceback: str) -> list[str]:
    """The frames of the last exception in a traceback, a text each: its place and its line of code."""
    frames: list[str] = []
    for line in traceback.splitlines():
        if line.startswith("Traceback "):
            frames = []
        elif line.startswith('  File "'):
            frames.append(f"{line}\n")
        elif frames and line.startswith("    "):
            frames[-1] += f"{line}\n"
    return frames


def _function_name(request: Request) -> str:
    """Out of a name, or an ARN or a part of one that ends with it. Raises `Problem`."""
    text: str = request.path_params["name"]
    qualifier = parameters(request, "Qualifier").get("Qualifier")
    found = NAME.fullmatch(text)
    if found is None:
        detail = f"{text[:140]!r} is no name of a function, nor an ARN of one."
        raise Problem("invalid_parameter", detail, field="FunctionName")
    name, version = found.groups()
    if {version, qualifier} - {None, LATEST}:
        detail = f"Function not found: {name}:{qualifier or version}. There are no versions and no aliases."
        raise Problem("unknown_function", detail, field="Qualifier")
    return str(name)


def _choice(request: Request, header: str, *known: str) -> str:
    """The first of those that are known where the header is not there. Raises `Problem`."""
    given = request.headers.get(header, known[0])
    if given not in known:
        detail = f"{header} is {given[:40]!r}; it is one of {', '.join(known)}."
        raise Problem("invalid_header", detail, field=header)
    return given


def _task_id(request: Request, submission: Submission) -> str | None:
    """AWS's clients name each call, and send it again by that name: so it is one task all the same."""
    name = request.headers.get("amz-sdk-invocation-id", "")
    return part_id(submission.tenant, name, "aws") if _INVOCATION.fullmatch(name) else None


def _headers(accepted: Accepted) -> dict[str, str]:
    return {"x-amzn-requestid": accepted.task_id, TASK_ID: accepted.task_id}


def _unfinished(accepted: Accepted) -> Problem:
    detail = (
        f"The task {accepted.task_id} goes on, and is not waited for any longer; asking again in the same "
        "call waits for it."
    )
    return Problem("not_ready", detail, headers=_headers(accepted), taskId=accepted.task_id)
