"""The operations of batches and calls, for the OpenAPI document."""

from typing import Final

from gateway.aws_lambda import NAME
from gateway.aws_lambda import PATH as LAMBDA
from gateway.items import MAX_ITEMS
from gateway.models import STATUSES
from gateway.operations import (
    _BODY,
    _SUBMITTING,
    REF,
    Json,
    _content,
    _header,
    _json,
    _key,
    _operation,
    _particulars,
    _path,
    _problems,
    _query,
    _read,
    _wait,
)

_STATUS: Final[Json] = {"type": "string", "enum": list(STATUSES)}
_AWAY: Final = ("log_unavailable", "read_model_unavailable", "blobs_unavailable")
_ALONE: Final = ("invalid_task", "payload_too_large", "idempotency_conflict")
"""What AWS has another status for, or none."""


def paths() -> Json:
    function = _path("name", "The function's name.")
    return {
        "/tasks/batch": {"post": _submit_batch()},
        "/batches/{batch_id}": {
            "get": _read(
                "tasks",
                "getBatch",
                "How many of a batch's tasks have come to what",
                "Batch",
                "unknown_batch",
                "read_model_unavailable",
            )
            | {
                "parameters": [
                    _path("batch_id", "What the answer to the batch names."),
                    _query("status", "Name the tasks that have it.", _STATUS),
                ]
            },
        },
        "/functions/{name}/invoke": {"post": _invoke(function)},
        LAMBDA: {"post": _aws()},
    }


def _submit_batch() -> Json:
    task = {"$ref": REF.format(model="TaskRequest")}
    return _operation("tasks", "submitBatch", "Post many tasks") | {
        "description": (
            f"Up to {MAX_ITEMS} tasks, each as `POST /tasks` takes it and accepted or refused for itself, in "
            "an array or as a line of JSON each. With an `Idempotency-Key` every item's id is made of the "
            "key and its place, so that a batch that is sent again makes no second task."
        ),
        "parameters": [_key()],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "array", "items": task, "minItems": 1, "maxItems": MAX_ITEMS}
                },
                "application/x-ndjson": {"schema": task},
            },
        },
        "responses": {
            "200": _json("An answer for each item, in their order", "BatchAnswer"),
            **_problems(*_BODY, "invalid_header", "batch_too_large", *_AWAY),
        },
    }


def _invoke(function: Json) -> Json:
    codes = (code for code in _SUBMITTING if code not in ("invalid_task", "unknown_task_type"))
    wait = _wait()
    wait["schema"] = wait["schema"] | {"default": 30}
    beside = [one for one in _particulars() if one["name"] != "taskType"]
    return _operation("functions", "invokeFunction", "Call a function and wait for its result") | {
        "description": (
            "The body is the payload itself. The answer is the function's own result, or after `wait` "
            "seconds the task, as `POST /tasks` answers it. `Mayfly-Task-Id` names the task."
        ),
        "parameters": [function, wait, _key(), *beside],
        "requestBody": {"content": {"application/json": {}, "application/octet-stream": {}}},
        "responses": {
            "200": _content("The result, in its own content type", "*/*", {}),
            "202": _json("It has not ended yet", "Accepted"),
            **_problems(*codes, "unknown_function", "function_failed", "function_timed_out", "blob_gone"),
        },
    }


def _aws() -> Json:
    name = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    function = _path("name", "The function's name, or an ARN of it.", name)
    kinds = {"type": "string", "enum": ["RequestResponse", "Event", "DryRun"], "default": "RequestResponse"}
    tail = {"type": "string", "enum": ["None", "Tail"], "default": "None"}
    failed = {"anyOf": [{"$ref": REF.format(model="FunctionError")}, {}]}
    codes = (code for code in _SUBMITTING if code not in _ALONE)
    return _operation("functions", "awsInvoke", "AWS Lambda's Invoke") | {
        "description": (
            "For AWS's own clients, such as boto3 with an `endpoint_url`. Errors have AWS's name in "
            "`x-amzn-errortype`, and its status."
        ),
        "parameters": [
            function,
            _query("Qualifier", "`$LATEST`, which is all that there is."),
            _header("X-Amz-Invocation-Type", "Whether to wait.") | {"schema": kinds},
            _header("X-Amz-Log-Type", "`Tail`: the end of the log in `X-Amz-Log-Result`.") | {"schema": tail},
        ],
        "requestBody": {"content": {"application/json": {}}},
        "responses": {
            "200": _content(
                "The result; with `X-Amz-Function-Error`, why there is none", "application/json", failed
            ),
            "202": {"description": "`Event`: the log has the task"},
            "204": {"description": "`DryRun`: it would be accepted"},
            **_problems(*codes, "payload_too_large", "unknown_function"),
        },
    }
