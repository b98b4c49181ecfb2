"""What a client is told when something is wrong: problem details (RFC 9457), from one table.

A handler raises `Problem` with a code of the table. Every other exception is turned into one here.
"""

from http import HTTPStatus
from typing import Any, Final, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from gateway.responses import json_bytes
from mayfly.errors import (
    BlobsUnavailable,
    LogUnavailable,
    MayflyError,
    ReadModelUnavailable,
    SecretsUnavailable,
)

PROBLEM_JSON: Final = "application/problem+json"
RETRY_SECONDS: Final = 2


class Kind(NamedTuple):
    """An error code's HTTP status, and its title: the same words whatever the occurrence."""

    status: int
    title: str


CODES: Final[dict[str, Kind]] = {
    # --- the request as such
    "invalid_host": Kind(421, "The Host header does not name this gateway"),
    "foreign_origin": Kind(403, "A page of another site may not call this gateway"),
    "unauthenticated": Kind(401, "Who asks is not known"),
    "wrong_password": Kind(401, "The name or the password is wrong"),
    "forbidden": Kind(403, "The credential does not allow this"),
    "too_many_requests": Kind(429, "There were too many requests"),
    "not_found": Kind(404, "There is nothing at this path"),
    "method_not_allowed": Kind(405, "This path does not take this method"),
    "head_too_large": Kind(431, "The request's head is too large"),
    "invalid_request": Kind(400, "The request is malformed"),
    "invalid_parameter": Kind(400, "A query parameter is wrong"),
    "invalid_header": Kind(400, "A header is wrong"),
    "unsupported_media_type": Kind(415, "The body's content type is not taken"),
    "body_too_large": Kind(413, "The body is too large"),
    "body_too_slow": Kind(408, "The body did not arrive in time"),
    # --- the body
    "malformed_json": Kind(400, "The body is not JSON"),
    "invalid_encoding": Kind(400, "The body is not proper UTF-8"),
    "duplicate_key": Kind(400, "An object has the same key twice"),
    "too_deep": Kind(400, "The body is nested too deeply"),
    "invalid_number": Kind(400, "A number cannot be held by a double"),
    "invalid_task": Kind(422, "The body is not a task"),
    "unknown_task_type": Kind(422, "There is no function of this name"),
    "unknown_queue": Kind(422, "There is no queue of this name"),
    "invalid_callback": Kind(422, "Tasks are not posted to this callback"),
    "no_webhook_secret": Kind(409, "The tenant has no secret to sign webhooks with"),
    "invalid_message": Kind(400, "A message over the WebSocket is not understood"),
    "invalid_body": Kind(422, "The body is not what this path takes"),
    "idempotency_conflict": Kind(409, "The Idempotency-Key came with another request before"),
    "invalid_payload": Kind(422, "The payload is not what the function takes"),
    "batch_too_large": Kind(413, "There are too many tasks in the batch"),
    "payload_too_large": Kind(413, "The payload is too large"),
    "unknown_upload": Kind(404, "There is no upload with this id"),
    "upload_changed": Kind(409, "The upload was written anew while the task was taken"),
    # --- what was asked for
    "unknown_task": Kind(404, "There is no task with this id"),
    "unknown_batch": Kind(404, "There is no batch with this id"),
    "no_login": Kind(404, "This gateway issues no tokens"),
    "unknown_key": Kind(404, "There is no key with this id"),
    "unknown_user": Kind(404, "There is no user of this name"),
    "user_exists": Kind(409, "There is a user of this name"),
    "unknown_secret": Kind(404, "There is no secret of this name"),
    "invalid_secret": Kind(422, "That cannot be a secret"),
    "too_many_secrets": Kind(409, "There are as many secrets as there may be"),
    "no_secrets_key": Kind(501, "No key is set to store secrets with"),
    "unknown_function": Kind(404, "There is no function of this name"),
    "task_not_finished": Kind(409, "The task has not come to its end yet"),
    "task_finished": Kind(409, "The task has come to its end already"),
    "unknown_attempt": Kind(404, "The task has no such attempt"),
    "unknown_dead_letter": Kind(404, "There is no dead letter of this task"),
    "input_gone": Kind(410, "The task's input is no longer stored"),
    "no_result": Kind(404, "The task has no result"),
    "blob_gone": Kind(410, "The bytes are no longer stored"),
    # --- a call that is waited for
    "function_failed": Kind(502, "The function failed"),
    "function_timed_out": Kind(504, "The function did not end in time"),
    # --- our side
    "internal_error": Kind(500, "Internal error"),
    "broken_function": Kind(500, "The function's schema cannot be applied"),
    "overloaded": Kind(503, "The gateway has as much to do as it can take"),
    "log_unavailable": Kind(503, "The log does not answer"),
    "read_model_unavailable": Kind(503, "The read model does not answer or is being rebuilt"),
    "blobs_unavailable": Kind(503, "The store does not answer"),
    "catalog_unavailable": Kind(503, "The catalog of functions has not been read yet"),
    "secrets_unavailable": Kind(503, "What holds the key of the secrets does not answer"),
    "not_ready": Kind(503, "The gateway is not ready"),
}

UNAVAILABLE: Final[dict[type[MayflyError], str]] = {
    LogUnavailable: "log_unavailable",
    ReadModelUnavailable: "read_model_unavailable",
    BlobsUnavailable: "blobs_unavailable",
    SecretsUnavailable: "secrets_unavailable",
}
_BY_STATUS: Final = {404: "not_found", 405: "method_not_allowed"}


class Problem(Exception):
    """An error as the client sees it. `members` are added to the problem object as they are."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.headers = headers or {}
        self.members = members

    @property
    def status(self) -> int:
        return CODES[self.code].status

    def response(self) -> Response:
        status, title = self.status, CODES[self.code].title
        body: dict[str, Any] = {
            "type": f"urn:mayfly:problem:{self.code}",
            "title": title,
            "status": status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.field is not None:
            body["field"] = self.field
        headers = dict(self.headers)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.setdefault("retry-after", str(RETRY_SECONDS))
        if status in _BODY_UNREAD:
            # The rest of the body is not waited for, so the connection is of no further use.
            headers["connection"] = "close"
        return Response(json_bytes(body | self.members), status, headers, PROBLEM_JSON)


_BODY_UNREAD: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
}


async def on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def on_unavailable(_request: Request, error: Exception) -> Response:
    """Broken infrastructure: the reason goes to the log, where `gateway.observation` puts it."""
    assert isinstance(error, MayflyError)
    code = UNAVAILABLE[type(error)]
    return Problem(code, f"{CODES[code].title}; try again in a moment.").response()


async def on_http(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path[:200]
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(_allowed(request))
        detail = f"{method} is not for {path}, which takes {allowed}."
        return Problem("method_not_allowed", detail, headers={"allow": allowed}).response()
    code = _BY_STATUS.get(error.status_code, "invalid_request")
    return Problem(code, f"{method} {path}: see /docs for what there is.").response()


def _allowed(request: Request) -> list[str]:
    """The methods of every route with this path: Starlette itself names those of the first one only. A path
    that is one to the letter is not also what another one has a parameter for, by OpenAPI's rule."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    exact = [route for route in matching if "{" not in route.path]
    return sorted({method for route in exact or matching for method in route.methods or ()})
