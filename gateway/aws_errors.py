"""A problem in AWS Lambda's terms: which error of its API it is.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors
"""

from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from gateway import errors
from gateway.errors import CODES, UNAVAILABLE, Problem
from mayfly.errors import MayflyError

PREFIX: Final = "/2015-03-31/"
"""Of every path of AWS Lambda's API."""


class _Kind(NamedTuple):
    status: int
    name: str


_CONTENT: Final = _Kind(400, "InvalidRequestContentException")
_MISSING: Final = _Kind(404, "ResourceNotFoundException")
_LARGE: Final = _Kind(413, "RequestTooLargeException")
_BY_CODE: Final[dict[str, _Kind]] = {
    "unauthenticated": _Kind(401, "UnrecognizedClientException"),
    "forbidden": _Kind(403, "AccessDeniedException"),
    "unknown_task_type": _MISSING,
    "unknown_function": _MISSING,
    "idempotency_conflict": _Kind(409, "ResourceConflictException"),
    "body_too_slow": _Kind(408, "RequestTimeoutException"),
    **dict.fromkeys(
        (
            "malformed_json",
            "invalid_encoding",
            "duplicate_key",
            "too_deep",
            "invalid_number",
            "invalid_payload",
        ),
        _CONTENT,
    ),
}
_BY_STATUS: Final = {413: _LARGE.name, 429: "TooManyRequestsException"}


class AwsProblem(Problem):
    """A problem document that an AWS client reads as the error of that name, with that HTTP status."""

    def __init__(self, problem: Problem, name: str | None = None) -> None:
        kind = _kind(problem)
        self._status = kind.status
        headers = problem.headers | {"x-amzn-errortype": name or kind.name}
        # Some of AWS's errors have a `message`, and some a `Message`: clients look for theirs.
        members = {
            "Type": "User" if kind.status < 500 else "Service",
            "Message": problem.detail,
            "message": problem.detail,
        }
        super().__init__(
            problem.code,
            problem.detail,
            field=problem.field,
            headers=headers,
            **(problem.members | members),
        )

    @property
    def status(self) -> int:
        return self._status


async def on_problem(request: Request, error: Exception) -> Response:
    """`errors.on_problem`, on the paths of AWS's API in AWS's terms: whatever refused the request."""
    if isinstance(error, Problem) and not isinstance(error, AwsProblem) and _is_aws(request):
        error = AwsProblem(error)
    return await errors.on_problem(request, error)


async def on_unavailable(request: Request, error: Exception) -> Response:
    """The same for broken infrastructure."""
    if not _is_aws(request):
        return await errors.on_unavailable(request, error)
    assert isinstance(error, MayflyError)
    code = UNAVAILABLE[type(error)]
    return AwsProblem(Problem(code, f"{CODES[code].title}; try again in a moment.")).response()


def _is_aws(request: Request) -> bool:
    path: str = request.scope["path"]
    return path.startswith(PREFIX)


def _kind(problem: Problem) -> _Kind:
    if (kind := _BY_CODE.get(problem.code)) is not None:
        return kind
    status = problem.status
    other = "ServiceException" if status >= 500 else "InvalidParameterValueException"
    return _Kind(400 if status == 422 else status, _BY_STATUS.get(status, other))
