"""The Python client: `Client` for threads, `AsyncClient` for asyncio, with the same methods.

    with Client() as mayfly:
        task = mayfly.submit("thumbnail", data=picture, content_type="image/jpeg")
        smaller = mayfly.result(task.task_id)

The gateway is at `url`, else at `MAYFLY_URL`, else at http://127.0.0.1:8080.

A GET that meets no gateway, or a 503, is tried again up to two times. A POST is not: when its answer is
lost, the task may or may not have been accepted. A 503 to a POST names the task in `ApiError.task_id`; look
whether it is there before submitting again.
"""

from mayfly.client.calls import Bytes, Filters, TaskOptions
from mayfly.client.clients import DEFAULT_URL, AsyncClient, Client
from mayfly.client.errors import (
    ApiError,
    ClientError,
    TaskFailed,
    UnexpectedAnswer,
    Unreachable,
    WaitTimeout,
)
from mayfly.client.models import FunctionInfo, Page, Progress, Task, TaskError, Worker

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "AsyncClient",
    "Bytes",
    "Client",
    "ClientError",
    "Filters",
    "FunctionInfo",
    "Page",
    "Progress",
    "Task",
    "TaskError",
    "TaskFailed",
    "TaskOptions",
    "UnexpectedAnswer",
    "Unreachable",
    "WaitTimeout",
    "Worker",
]
