"""What a call of the client can raise. Catch `ClientError` to catch all of it."""

from typing import TYPE_CHECKING, Final

from mayfly.errors import MayflyError

if TYPE_CHECKING:
    from mayfly.client.models import Task, TaskError


class ClientError(MayflyError):
    """The root of the client's errors.

    `idempotency_key` is there where a submission ended so whose task may have been accepted: submitting the
    same again with that key is safe, and gives that task. `task_id` is that task, where it is known.
    """

    idempotency_key: str | None = None
    task_id: str | None = None


class Unreachable(ClientError):
    """No gateway answers at `url`, or the connection broke before the answer was there.

    `sent` says whether the request may have arrived.
    """

    def __init__(self, url: str, reason: str, *, sent: bool = True) -> None:
        super().__init__(f"cannot reach the gateway at {url}: {reason}")
        self.url = url
        self.reason = reason
        self.sent = sent


class UnexpectedAnswer(ClientError):
    """Something answers at the URL, but not in the gateway's terms."""


class ApiError(ClientError):
    """The gateway refused: its problem document (RFC 9457) as attributes. There are subclasses by `status`.

    `status` is the HTTP status; `code` is stable, for programs; `detail` is for people; `field` is the path
    of the offending value, such as `payload.width`; `task_id` is the task that it is about, or that a 503
    leaves in doubt; `failure` is why that has failed; and `retry_after` is in seconds, where the gateway
    names a time.
    """

    def __init__(
        self,
        status: int,
        *,
        code: str,
        detail: str,
        field: str | None = None,
        task_id: str | None = None,
        retry_after: float | None = None,
        failure: "TaskError | None" = None,
    ) -> None:
        super().__init__(f"{field}: {detail}" if field and field not in detail else detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.task_id = task_id
        self.retry_after = retry_after
        self.failure = failure


class Unauthenticated(ApiError):
    """401: no credential, or one that is not known, or not good any more."""


class Forbidden(ApiError):
    """403: the credential is known, and does not allow this."""


class NotFound(ApiError):
    """404: there is no such thing, or none that the credential may see."""


class Conflict(ApiError):
    """409: it does not go with what is there already."""


class TooManyRequests(ApiError):
    """429: more than is allowed just now; `retry_after` says when to come again."""


class Unavailable(ApiError):
    """503: the gateway, or something that it needs, cannot do it now."""


_KINDS: Final[dict[int, type[ApiError]]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: TooManyRequests,
    503: Unavailable,
}


def kind_of(status: int) -> type[ApiError]:
    """What a refusal with that HTTP status is."""
    return _KINDS.get(status, ApiError)


class TaskFailed(ClientError):
    """The task ended without a result.

    `type` is the dotted type of the failure, such as `Function.Error`; `error_class` and `traceback` are the
    function's own exception, where it raised one; `exit_code` is its process's, where that is what failed.
    """

    def __init__(self, task: "Task") -> None:
        error = task.error
        self.task = task
        self.type = error.type if error else f"Task.{task.status.value.capitalize()}"
        self.message = error.message if error else f"the task is {task.status.value}"
        self.error_class = error.error_class if error else None
        self.traceback = error.traceback if error else None
        self.exit_code = error.exit_code if error else None
        raised = f"{self.error_class}: " if self.error_class else ""
        super().__init__(f"task {task.task_id} failed with {self.type}: {raised}{self.message}")


class WaitTimeout(ClientError, TimeoutError):
    """The task has not ended in the time that the caller gave it. It goes on; `task` is as last seen."""

    def __init__(self, task: "Task", timeout: float) -> None:
        super().__init__(f"task {task.task_id} is {task.status.value} after {timeout:g} s")
        self.task = task
