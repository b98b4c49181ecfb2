"""The Python client: `Client` for threads, `AsyncClient` for asyncio, with the same methods.

    with Client() as mayfly:
        task = mayfly.submit("thumbnail", data=picture, content_type="image/jpeg")
        smaller = mayfly.result(task.task_id)

The gateway is at `url`, else at `MAYFLY_URL`, else where the profile has it, else at http://127.0.0.1:8080.
Who asks is said by `api_key` or `token`, else by `MAYFLY_API_KEY`, else by the profile (`Client`).

A GET that meets no gateway, a 503 or a 429, is tried again up to two times, and so is a submission: it has an
Idempotency-Key, so that it runs once however often it is sent (`Client.submit`). Nor does it matter
how often a task is cancelled, a dead letter redriven or purged, or a rebuild begun. A rerun is never
sent twice, nor is what makes a key, a user or a secret.
"""

from mayfly.client.aio import AsyncClient
from mayfly.client.audit_log import AuditFilters, AuditRecord
from mayfly.client.batches import Batch, Submitted
from mayfly.client.blocking import Client
from mayfly.client.calls import Bytes, Filters
from mayfly.client.dead_letters import DeadLetterFilters, Selection
from mayfly.client.deployments import Catalog, Deployed, Traffic, VersionShare
from mayfly.client.errors import (
    ApiError,
    ClientError,
    Conflict,
    Forbidden,
    NotFound,
    TaskFailed,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    WaitTimeout,
)
from mayfly.client.events import ChangeEvent, Event, LogEvent, ResetEvent, StatusEvent
from mayfly.client.identity import Allowance, Key, Limits, NewKey, Tenant, Tenants, Token, User
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
    TaskChange,
    TaskError,
    Worker,
)
from mayfly.client.secrets import Rotation, RotationFailure, Secret, WebhookSecret
from mayfly.client.submission import TaskOptions
from mayfly.client.target import DEFAULT_URL
from mayfly.client.uploads import ResultUrl
from mayfly.task import FailureType, RetryPolicy

__all__ = [
    "DEFAULT_URL",
    "Allowance",
    "ApiError",
    "AsyncClient",
    "Attempt",
    "AuditFilters",
    "AuditRecord",
    "Batch",
    "Bytes",
    "Catalog",
    "ChangeEvent",
    "Client",
    "ClientError",
    "Conflict",
    "DeadLetterFilters",
    "Deployed",
    "Event",
    "FailureType",
    "Filters",
    "Forbidden",
    "FunctionInfo",
    "Key",
    "LetterFailure",
    "Limits",
    "LogEvent",
    "NewKey",
    "NotFound",
    "Page",
    "Progress",
    "Purge",
    "Rebuild",
    "Redrive",
    "Redriven",
    "ResetEvent",
    "ResultUrl",
    "RetryPolicy",
    "Rotation",
    "RotationFailure",
    "Secret",
    "Selection",
    "StatusEvent",
    "Submitted",
    "Task",
    "TaskChange",
    "TaskError",
    "TaskFailed",
    "TaskOptions",
    "Tenant",
    "Tenants",
    "Token",
    "TooManyRequests",
    "Traffic",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "User",
    "VersionShare",
    "WaitTimeout",
    "WebhookSecret",
    "Worker",
]
