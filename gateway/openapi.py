"""The OpenAPI 3.1 document: the routes, the models, and every function's payload schema.

A task type's own request schema is part of POST /tasks, so a client generated from the document knows what
each function takes.
"""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from gateway import models
from gateway.errors import CODES, PROBLEM_JSON
from gateway.functions import Functions
from gateway.parameters import MAX_LIMIT, MAX_WAIT_SECONDS
from gateway.responses import json_bytes
from mayfly import __version__
from mayfly.function import Function
from mayfly.payload import InvalidSchema, compile_schema

Json = dict[str, Any]
_REF: Final = "#/components/schemas/{model}"
_MODELS: Final[list[type[BaseModel]]] = [
    models.TaskRequest,
    models.Accepted,
    models.Task,
    models.TaskList,
    models.FunctionEntry,
    models.FunctionList,
    models.WorkerList,
    models.Health,
    models.Ready,
    models.ProblemDetails,
]


class OpenApi:
    """The handler of /openapi.json. The document is made anew when the catalog has changed."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._revision = -1
        self._body = b""

    async def get(self, _request: Request) -> Response:
        revision = self._functions.revision
        if revision != self._revision:
            self._body = json_bytes(document(self._functions.deployed()))
            self._revision = revision
        return Response(self._body, media_type="application/json")


def document(functions: list[Function]) -> Json:
    """The document for these functions."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Mayfly",
            "version": __version__,
            "summary": "Functions on short-lived containers: one task, one short life.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": "tasks"}, {"name": "functions"}, {"name": "workers"}, {"name": "operation"}],
        "paths": _paths(functions),
        "components": {"schemas": _schemas(functions)},
    }


# --- schemas ------------------------------------------------------------------------------------------------


def _schemas(functions: list[Function]) -> Json:
    _, made = models_json_schema(
        [(model, "validation") for model in _MODELS], by_alias=True, ref_template=_REF
    )
    schemas: Json = made["$defs"]
    for function in functions:
        schemas[_payload_name(function)] = _payload_schema(function)
        schemas[_request_name(function)] = _request_schema(function)
    return schemas


def _payload_name(function: Function) -> str:
    return f"payload.{function.name}"


def _request_name(function: Function) -> str:
    return f"task.{function.name}"


def _payload_schema(function: Function) -> Json:
    schema = function.schema or {"description": "Any JSON."}
    try:
        compile_schema(schema)
    except InvalidSchema as error:
        # One function's mistake must not make the document useless for all the others.
        return {"description": f"Its schema is none: {error}"}
    # Few tools resolve against an embedded schema's own $id, so it is part of the document like any other.
    own = schema.get("$id", "")
    moved: Json = _moved(schema, own, _REF.format(model=_payload_name(function)))
    return {name: part for name, part in moved.items() if name != "$id"}


def _moved(schema: Any, own: str, base: str) -> Any:
    """The schema, whose `$id` is `own`, with its references to itself pointing to where it is put."""
    if isinstance(schema, list):
        return [_moved(part, own, base) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(part, own, base) for name, part in schema.items()}
    if isinstance(reference := moved.get("$ref"), str):
        inside = reference.removeprefix(own)
        if inside in ("", "#") or inside.startswith("#/"):
            moved["$ref"] = base + inside.removeprefix("#")
    return moved


def _request_schema(function: Function) -> Json:
    return {
        "description": function.description or f"A task for {function.name}.",
        "allOf": [{"$ref": _REF.format(model="TaskRequest")}],
        "properties": {
            "taskType": {"const": function.name},
            "payload": {"$ref": _REF.format(model=_payload_name(function))},
        },
    }


# --- paths --------------------------------------------------------------------------------------------------


def _paths(functions: list[Function]) -> Json:
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
                "parameters": _particulars(),
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": _any_request(functions)},
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
            "get": _bytes("getLogs", "What the task's last attempt logged", "text/plain"),
        },
        "/functions": {
            "get": _read("functions", "listFunctions", "What is deployed", "FunctionList", *_CATALOG),
        },
        "/functions/{name}": {
            "get": _read(
                "functions", "getFunction", "A function", "FunctionEntry", "unknown_function", *_CATALOG
            )
            | {"parameters": [_path("name", "The function's name.")]},
        },
        "/workers": {
            "get": _read(
                "workers", "listWorkers", "Live dispatchers", "WorkerList", "read_model_unavailable"
            ),
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
_EVERYWHERE: Final = ("invalid_parameter", "foreign_origin", "invalid_host", "internal_error")
_SUBMITTING: Final = (
    "malformed_json",
    "invalid_encoding",
    "duplicate_key",
    "too_deep",
    "invalid_number",
    "body_too_slow",
    "body_too_large",
    "payload_too_large",
    "unsupported_media_type",
    "invalid_task",
    "unknown_task_type",
    "invalid_payload",
    "broken_function",
    "log_unavailable",
    "blobs_unavailable",
    "catalog_unavailable",
)


def _operation(tag: str, operation_id: str, summary: str) -> Json:
    return {"tags": [tag], "operationId": operation_id, "summary": summary}


def _read(tag: str, operation_id: str, summary: str, model: str, *codes: str) -> Json:
    responses = {"200": _json(summary, model), **_problems(*codes)}
    return _operation(tag, operation_id, summary) | {"responses": responses}


def _bytes(operation_id: str, summary: str, content_type: str, *codes: str) -> Json:
    every = (*codes, "unknown_task", "task_not_finished", "blob_gone")
    responses = {
        "200": _content(summary, content_type, {}),
        **_problems(*every, "read_model_unavailable", "blobs_unavailable"),
    }
    return _operation("tasks", operation_id, summary) | {
        "parameters": [_task_id()],
        "responses": responses,
    }


def _any_request(functions: list[Function]) -> Json:
    if not functions:
        return {"$ref": _REF.format(model="TaskRequest")}
    refs = {function.name: _REF.format(model=_request_name(function)) for function in functions}
    return {
        "oneOf": [{"$ref": ref} for ref in refs.values()],
        "discriminator": {"propertyName": "taskType", "mapping": refs},
    }


def _json(description: str, model: str) -> Json:
    return _content(description, "application/json", {"$ref": _REF.format(model=model)})


def _content(description: str, content_type: str, schema: Json) -> Json:
    return {"description": description, "content": {content_type: {"schema": schema}}}


def _problems(*codes: str) -> Json:
    """A response for each status, naming the codes that come with it."""
    by_status: dict[int, list[str]] = {}
    for code in (*codes, *_EVERYWHERE):
        by_status.setdefault(CODES[code].status, []).append(code)
    schema = {"$ref": _REF.format(model="ProblemDetails")}
    return {
        str(status): _content(", ".join(f"`{code}`" for code in named), PROBLEM_JSON, schema)
        for status, named in sorted(by_status.items())
    }


# --- parameters ---------------------------------------------------------------------------------------------


def _path(name: str, description: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
    }


def _task_id() -> Json:
    return _path("task_id", "The task's id, a UUID in lower case.")


def _query(name: str, description: str, schema: Json | None = None) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema or {"type": "string"}}


def _wait() -> Json:
    schema = {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": 0}
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


def _particulars() -> list[Json]:
    """What goes beside a payload of bytes. With JSON none of them is taken."""
    properties = models.TaskRequest.model_json_schema()["properties"]
    tags: Json = properties["tags"]
    described = {
        name: _query(name, f"Beside a payload of bytes: {name}.", properties[name])
        for name in ("taskType", "name", "priority", "timeoutSeconds")
    }
    tag = _query("tag", "Beside a payload of bytes: a tag; may be repeated.", tags)
    return [*described.values(), tag]
