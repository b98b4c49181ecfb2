"""The Python client: `Client` for threads, `AsyncClient` for asyncio, with the same methods.

    with Client() as mayfly:
        task = mayfly.submit("thumbnail", data=picture, content_type="image/jpeg")
        smaller = mayfly.result(task.task_id)

The gateway is at `url`, else at `MAYFLY_URL`, else at http://127.0.0.1:8080.

A GET that meets no gateway, or a 503, is tried again up to two times, and so is a submission: it has an
Idempotency-Key, so that it runs once however often it is sent (`Client.submit`). Nor does it matter
how often a task is cancelled, a dead letter redriven or purged, or a rebuild begun. Only a rerun is never
sent twice.
"""

from mayfly.client.aio import AsyncClient
from mayfly.client.blocking import Client
from mayfly.client.calls import Bytes, Filters
from mayfly.client.dead_letters import DeadLetterFilters, Selection
from mayfly.client.errors import (
    ApiError,
    ClientError,
    TaskFailed,
    UnexpectedAnswer,
    Unreachable,
    WaitTimeout,
)
from mayfly.client.events import Event, LogEvent, StatusEvent
from mayfly.client.models import (
    Attempt,
    FunctionInfo,
    LetterFailure,
    Page,
    Progress,
    Purge,
    Rebuild,
    Redrive,
    Redriven,
    Task,
    TaskError,
    Worker,
)
from mayfly.client.submission import TaskOptions
from mayfly.client.transport import DEFAULT_URL
from mayfly.task import FailureType, RetryPolicy

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "AsyncClient",
    "Attempt",
    "Bytes",
    "Client",
    "ClientError",
    "DeadLetterFilters",
    "Event",
    "FailureType",
    "Filters",
    "FunctionInfo",
    "LetterFailure",
    "LogEvent",
    "Page",
    "Progress",
    "Purge",
    "Rebuild",
    "Redrive",
    "Redriven",
    "RetryPolicy",
    "Selection",
    "StatusEvent",
    "Task",
    "TaskError",
    "TaskFailed",
    "TaskOptions",
    "UnexpectedAnswer",
    "Unreachable",
    "WaitTimeout",
    "Worker",
]
