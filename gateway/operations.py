"""The operations of the OpenAPI document: each route, with what it takes and what it answers."""

from collections.abc import Sequence
from typing import Any, Final

from gateway import models
from gateway.errors import CODES, PROBLEM_JSON
from gateway.operations_streams import event_schema, last_event_id
from gateway.parameters import MAX_LIMIT, MAX_WAIT_SECONDS
from gateway.submissions import PARTICULARS
from mayfly.task import FailureType

Json = dict[str, Any]
REF: Final = "#/components/schemas/{model}"


def paths(requests: dict[str, str]) -> Json:
    """All paths; `requests` are the names of the functions' own request schemas, by function."""
    # Made of the parts below.
    from gateway import (
        operations_audit,
        operations_calls,
        operations_events,
        operations_functions,
        operations_limits,
        operations_secrets,
        operations_uploads,
        operations_users,
        operations_webhooks,
    )

    own = _tasks(requests) | _dead_letters() | _identity() | _rest()
    parts = (
        operations_calls,
        operations_users,
        operations_limits,
        operations_secrets,
        operations_webhooks,
        operations_events,
        operations_audit,
        operations_uploads,
        operations_functions,
    )
    return own | {path: there for part in parts for path, there in part.paths().items()}


def _identity() -> Json:
    body = (*_BODY, "log_unavailable")
    key = _path("key_id", "The key's id: what stands between `mf_` and the point.")
    return {
        "/login": {
            "post": _operation("identity", "login", "A token for a name and a password")
            | {
                "requestBody": _body("LoginRequest", required=True),
                "responses": {
                    "200": _json("A token", "Login"),
                    **_problems("wrong_password", "too_many_requests", "no_login", *_BODY),
                },
            },
        },
        "/keys": {
            "get": _read("identity", "listKeys", "API keys, without their secrets", "KeyList"),
            "post": _operation("identity", "createKey", "Make an API key")
            | {
                "requestBody": _body("KeyRequest", required=True),
                "responses": {"201": _json("The key, whole, this once", "NewKey"), **_problems(*body)},
            },
        },
        "/keys/{key_id}": {
            "delete": _operation("identity", "revokeKey", "Revoke an API key: within 2 s nobody takes it")
            | {
                "parameters": [key],
                "responses": {
                    "200": _json("Revoked", "Key"),
                    **_problems("unknown_key", "log_unavailable"),
                },
            },
        },
    }


def _tasks(requests: dict[str, str]) -> Json:
    return {
        "/tasks": {
            "post": _operation("tasks", "submitTask", "Post a task")
            | {
                "description": (
                    "Answered when the log has the task: from then on it will have exactly one recorded "
                    "outcome. Nothing is queued on any other answer, but for a 503 `log_unavailable`, which "
                    "names the task that may run. A body of another content type than JSON is the payload "
                    "itself; the query then says the rest."
                ),
                "parameters": [_key(), *_particulars()],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": _any_request(requests)},
                        "application/octet-stream": {},
                    },
                },
                "responses": {
                    "202": _json("Accepted", "Accepted")
                    | {"headers": {"Location": {"description": "The task.", "schema": {"type": "string"}}}},
                    **_problems(*_SUBMITTING),
                },
            },
            "get": _read("tasks", "listTasks", "Tasks, newest first", "TaskList", "read_model_unavailable")
            | {"parameters": _filters()},
        },
        "/tasks/{task_id}": {
            "get": _read("tasks", "getTask", "A task", "Task", "unknown_task", "read_model_unavailable")
            | {"parameters": [_task_id(), _wait()]},
        },
        "/tasks/{task_id}/result": {
            "get": _bytes("getResult", "A task's result, in its own content type", "*/*", "no_result"),
        },
        "/tasks/{task_id}/logs": {
            "get": _bytes(
                "getLogs",
                "What an attempt logged, or has logged so far",
                "text/plain",
                "unknown_attempt",
                parameters=[_query("attempt", "Which one; the last if left out.", _COUNT)],
            ),
        },
        "/tasks/{task_id}/events": {
            "get": _operation("tasks", "watchTask", "A task as it happens, as server-sent events")
            | {
                "description": (
                    "A `status` event has the task as its data, whenever something of it has changed; a "
                    '`log` event has `{"text": "..."}`. The stream ends after the status at the task\'s end. '
                    "`Last-Event-ID` goes on behind that `log` event."
                ),
                "parameters": [_task_id(), last_event_id("The last `log` event that was read.")],
                "responses": {
                    "200": _content("Events", "text/event-stream", event_schema("status", "log")),
                    **_problems("unknown_task", "invalid_header", "read_model_unavailable"),
                },
            },
        },
        "/tasks/{task_id}/cancel": {
            "post": _operation("tasks", "cancelTask", "Ask for a task's end")
            | {
                "parameters": [_task_id(), _wait()],
                "responses": {
                    "202": _json("The log has the request; the end comes", "Cancelling"),
                    "200": _json("The task has ended: before, or while this waited", "Cancelling"),
                    **_problems("unknown_task", "task_finished", "log_unavailable", "read_model_unavailable"),
                },
            },
        },
        "/tasks/{task_id}/rerun": {
            "post": _operation("tasks", "rerunTask", "A new task with the same input")
            | {
                "parameters": [_task_id()],
                "requestBody": _body("RerunRequest", required=False),
                "responses": {
                    "202": _json("Accepted", "Accepted"),
                    **_problems("unknown_task", "input_gone", "read_model_unavailable", *_BODY, *_ACCEPTING),
                },
            },
        },
    }


def _dead_letters() -> Json:
    selected = (*_BODY, "log_unavailable", "read_model_unavailable", "blobs_unavailable")
    return {
        "/dead-letters": {
            "get": _read(
                "dead letters",
                "listDeadLetters",
                "Tasks that failed for good, the last ones first",
                "TaskList",
                "read_model_unavailable",
            )
            | {"parameters": _letter_filters()},
        },
        "/dead-letters/redrive": {
            "post": _operation("dead letters", "redriveDeadLetters", "Run them again, and purge them")
            | {
                "description": (
                    "Each becomes a new task with the same input, on today's function. At most 1000 a call. "
                    "A letter that stays is in `failed` with a code, such as `unknown_dead_letter`. Redriven "
                    "twice, a letter is one task all the same."
                ),
                "requestBody": _body("LetterSelection", required=True),
                "responses": {
                    "200": _json("What was done", "RedriveAnswer"),
                    **_problems(*selected),
                },
            },
        },
        "/dead-letters/purge": {
            "post": _operation("dead letters", "purgeDeadLetters", "Take them away; the tasks stay")
            | {
                "requestBody": _body("LetterSelection", required=True),
                "responses": {"200": _json("What was done", "PurgeAnswer"), **_problems(*selected)},
            },
        },
    }


def _rest() -> Json:
    return {
        "/functions": {
            "get": _read("functions", "listFunctions", "What is deployed", "FunctionList", *_CATALOG),
        },
        "/workers": {
            "get": _read(
                "workers", "listWorkers", "Live dispatchers", "WorkerList", "read_model_unavailable"
            ),
        },
        "/rebuild": {
            "post": _operation("operation", "rebuildReadModel", "Write what is known of tasks anew")
            | {
                "description": (
                    "The dispatchers of each queue read its log from the start and write Redis anew; the log "
                    "is not touched. Reading tasks is answered with 503 until it is done."
                ),
                "responses": {"202": _json("It has begun", "Rebuild"), **_problems("read_model_unavailable")},
            },
            "get": _read("operation", "getRebuild", "How far that is", "Rebuild", "read_model_unavailable"),
        },
        "/healthz": {"get": _read("operation", "getHealth", "Whether the gateway lives", "Health")},
        "/readyz": {
            "get": _read("operation", "getReady", "Whether it can do its work", "Ready", "not_ready"),
        },
        "/metrics": {
            "get": _operation("operation", "getMetrics", "Metrics, for Prometheus")
            | {"responses": {"200": _content("Metrics", "text/plain", {"type": "string"}), **_problems()}},
        },
    }


_CATALOG: Final = ("catalog_unavailable",)
_EVERYWHERE: Final = (
    "invalid_parameter",
    "head_too_large",
    "foreign_origin",
    "invalid_host",
    "internal_error",
)
_ACCEPTING: Final = (
    "unknown_task_type",
    "unknown_queue",
    "invalid_payload",
    "overloaded",
    "broken_function",
    "log_unavailable",
    "blobs_unavailable",
    "catalog_unavailable",
)
_BODY: Final = (
    "malformed_json",
    "invalid_encoding",
    "duplicate_key",
    "too_deep",
    "invalid_number",
    "body_too_slow",
    "body_too_large",
    "unsupported_media_type",
    "invalid_body",
)
_SUBMITTING: Final = (
    *(code for code in _BODY if code != "invalid_body"),
    "payload_too_large",
    "unknown_upload",
    "upload_changed",
    "invalid_task",
    "invalid_header",
    "idempotency_conflict",
    "invalid_callback",
    "no_webhook_secret",
    "read_model_unavailable",
    *_ACCEPTING,
)
_COUNT: Final[Json] = {"type": "integer", "minimum": 1, "maximum": 999_999}


def _operation(tag: str, operation_id: str, summary: str) -> Json:
    return {"tags": [tag], "operationId": operation_id, "summary": summary}


def _read(tag: str, operation_id: str, summary: str, model: str, *codes: str) -> Json:
    responses = {"200": _json(summary, model), **_problems(*codes)}
    return _operation(tag, operation_id, summary) | {"responses": responses}


def _bytes(
    operation_id: str, summary: str, content_type: str, *codes: str, parameters: Sequence[Json] = ()
) -> Json:
    every = (*codes, "unknown_task", "task_not_finished", "blob_gone")
    responses = {
        "200": _content(summary, content_type, {}),
        **_problems(*every, "read_model_unavailable", "blobs_unavailable"),
    }
    return _operation("tasks", operation_id, summary) | {
        "parameters": [_task_id(), *parameters],
        "responses": responses,
    }


def _any_request(requests: dict[str, str]) -> Json:
    if not requests:
        return {"$ref": REF.format(model="TaskRequest")}
    refs = {function: REF.format(model=name) for function, name in requests.items()}
    return {
        "oneOf": [{"$ref": ref} for ref in refs.values()],
        "discriminator": {"propertyName": "taskType", "mapping": refs},
    }


def _body(model: str, *, required: bool) -> Json:
    schema = {"$ref": REF.format(model=model)}
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _json(description: str, model: str) -> Json:
    return _content(description, "application/json", {"$ref": REF.format(model=model)})


def _content(description: str, content_type: str, schema: Json) -> Json:
    return {"description": description, "content": {content_type: {"schema": schema}}}


def _problems(*codes: str) -> Json:
    return problems(*codes, *_EVERYWHERE)


def problems(*codes: str) -> Json:
    """A response for each status, naming the codes that come with it."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code].status, []).append(code)
    schema = {"$ref": REF.format(model="ProblemDetails")}
    return {
        str(status): _content(", ".join(f"`{code}`" for code in named), PROBLEM_JSON, schema)
        for status, named in sorted(by_status.items())
    }


# --- parameters ---------------------------------------------------------------------------------------------


def _path(name: str, description: str, schema: Json | None = None) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema or {"type": "string"},
    }


def _task_id() -> Json:
    return _path("task_id", "The task's id, a UUID in lower case.")


def _query(name: str, description: str, schema: Json | None = None) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema or {"type": "string"}}


def _header(name: str, description: str) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def _key() -> Json:
    description = "The same key with the same request is the same task, however often it is posted."
    key = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[ -~]+$"}
    return _header("Idempotency-Key", description) | {"schema": key}


def _wait() -> Json:
    schema = {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "multipleOf": 0.001, "default": 0}
    return _query("wait", "Seconds to wait for the task's end.", schema)


def _filters() -> list[Json]:
    statuses = {"type": "string", "enum": list(models.STATUSES)}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 50}
    return [
        _query("status", "Only tasks with this status.", statuses),
        _query("taskType", "Only tasks of this function."),
        _query("tag", "Only tasks with this tag."),
        _query("cursor", "Where the page starts: the last page's `nextCursor`."),
        _query("limit", "Tasks on a page.", limit),
    ]


def _letter_filters() -> list[Json]:
    time = {"type": "string", "format": "date-time"}
    return [
        _query("taskType", "Only those of this function."),
        _query("errorType", "Only those that failed so.", {"type": "string", "enum": [*FailureType]}),
        _query("since", "Only those that failed at or after this time.", time),
        _query("until", "Only those that failed before this time.", time),
        *_filters()[-2:],
    ]


def _particulars() -> list[Json]:
    """What goes beside a payload of bytes. With JSON none of them is taken."""
    properties = models.TaskRequest.model_json_schema(ref_template=REF)["properties"]
    beside = "Beside a payload of bytes"
    given = [_query(name, f"{beside}: {name}.", properties[name]) for name in PARTICULARS if name != "retry"]
    retry: Json = {"content": {"application/json": {"schema": properties["retry"]}}}
    described = {"name": "retry", "in": "query", "description": f"{beside}: `retry`, as JSON."}
    tag = _query("tag", f"{beside}: a tag; may be repeated.", properties["tags"])
    return [*given, described | retry, tag]
