"""The OpenAPI 3.1 document: the routes, the models, and every function's payload schema.

A task type's own request schema is part of POST /tasks, so a client generated from the document knows what
each function takes.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from gateway import (
    models,
    models_audit,
    models_calls,
    models_functions,
    models_identity,
    models_limits,
    models_secrets,
    models_uploads,
    models_users,
    models_webhooks,
)
from gateway.functions import Functions
from gateway.operations import REF, Json, paths, problems
from gateway.responses import json_bytes
from mayfly import __version__
from mayfly.function import Function
from mayfly.identity.principal import Scope
from mayfly.payload import InvalidSchema, compile_schema

Needs = Mapping[tuple[str, str], Scope | None]
"""By method and path."""
_MODELS: Final[list[type[BaseModel]]] = [
    models.TaskRequest,
    models.Accepted,
    models.Task,
    models.TaskList,
    models.Cancelling,
    models.RerunRequest,
    models.LetterSelection,
    models.RedriveAnswer,
    models.PurgeAnswer,
    *models_identity.MODELS,
    models_users.UserRequest,
    models_users.PasswordRequest,
    models_users.UserList,
    *models_secrets.MODELS,
    *models_uploads.MODELS,
    *models_audit.MODELS,
    models_webhooks.NewWebhookSecret,
    models_limits.Allowance,
    models_limits.Tenant,
    models_limits.TenantList,
    models.FunctionEntry,
    models.FunctionList,
    models.WorkerList,
    models.Rebuild,
    models.Health,
    models.Ready,
    models.ProblemDetails,
    *models_calls.MODELS,
    *models_functions.MODELS,
]


class OpenApi:
    """The handler of /openapi.json. The document is made anew when the catalog has changed."""

    def __init__(self, functions: Functions, needs: Needs) -> None:
        self._functions = functions
        self._needs = needs
        self._revision = -1
        self._body = b""

    async def get(self, _request: Request) -> Response:
        revision = self._functions.revision
        if revision != self._revision:
            self._body = json_bytes(document(self._functions.deployed(), self._needs))
            self._revision = revision
        return Response(self._body, media_type="application/json")


def document(functions: list[Function], needs: Needs) -> Json:
    """The document for these functions; `needs` says which scope each route asks for."""
    names = {function.name: _request_name(function) for function in functions}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Mayfly",
            "version": __version__,
            "summary": "Functions on short-lived containers: one task, one short life.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in _TAGS],
        "paths": {
            path: {
                method: _guarded(call, needs.get((method.upper(), path))) for method, call in calls.items()
            }
            for path, calls in paths(names).items()
        },
        "components": {
            "schemas": _schemas(functions),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key or a JWT, where the gateway asks who calls.",
                }
            },
        },
    }


_TAGS: Final = (
    "tasks",
    "dead letters",
    "functions",
    "identity",
    "secrets",
    "webhooks",
    "audit",
    "workers",
    "operation",
)


def _guarded(call: Json, scope: Scope | None) -> Json:
    """An operation, with what it asks of who calls."""
    if scope is None:
        return call
    refused = problems("unauthenticated", "forbidden", "foreign_origin", "too_many_requests")
    return call | {
        "security": [{"bearer": [scope.value]}],
        "responses": dict(sorted((call["responses"] | refused).items())),
    }


# --- schemas ------------------------------------------------------------------------------------------------


def _schemas(functions: list[Function]) -> Json:
    _, made = models_json_schema(
        [(model, "validation") for model in _MODELS], by_alias=True, ref_template=REF
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
    moved: Json = _moved(schema, own, REF.format(model=_payload_name(function)))
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
        "allOf": [{"$ref": REF.format(model="TaskRequest")}],
        "properties": {
            "taskType": {"const": function.name},
            "payload": {"$ref": REF.format(model=_payload_name(function))},
        },
    }
