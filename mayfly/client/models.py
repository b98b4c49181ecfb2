"""What the gateway's answers hold, frozen. A key that it left out is None; a result left out is `UNSET`."""

from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from mayfly.function import Limits
from mayfly.task import Status


class Progress(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How far a running task says it is: `fraction` from 0 to 1."""

    fraction: float
    message: str | None = None


class TaskError(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Why a task failed."""

    type: str
    message: str
    error_class: str | None = msgspec.field(name="class", default=None)
    traceback: str | None = None
    exit_code: int | None = None


class Task(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A task as the gateway saw it when it answered. Times are UTC.

    `result` is the value itself where it is JSON of up to 32 KiB, and `UNSET` elsewhere: `Client.result`
    fetches it whatever it is.
    """

    task_id: str
    status: Status
    task_type: str | None = None
    queue: str | None = None
    priority: str | None = None
    attempt: int | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    dispatcher: str | None = None
    image: str | None = None
    timeout_seconds: float | None = None
    progress: Progress | None = None
    result: Any = UNSET
    result_url: str | None = None
    result_content_type: str | None = None
    result_size: int | None = None
    """Bytes."""
    logs_url: str | None = None
    error: TaskError | None = None

    @property
    def ended(self) -> bool:
        return self.status.terminal

    @property
    def succeeded(self) -> bool:
        return self.status is Status.COMPLETED


class FunctionInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A function that tasks can name as their `task_type`."""

    name: str
    version: str
    image: str
    contract: str
    description: str = ""
    isolation: str = "container"
    network: str = "none"
    queue: str = "default"
    limits: Limits = Limits()
    schema: dict[str, Any] | None = None
    """JSON Schema of the payload; None takes anything."""
    accepts_bytes: bool = True
    deployed_at: datetime | None = None


class Worker(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A live dispatcher: `running` of its `slots` are taken."""

    id: str
    queue: str
    slots: int
    running: int
    address: str | None = None
    host: str | None = None
    started_at: datetime | None = None
    last_heartbeat: datetime | None = None


class Page(msgspec.Struct, frozen=True, rename="camel"):
    """Some of the tasks, newest first; `next_cursor` leads to the rest."""

    tasks: tuple[Task, ...]
    next_cursor: str | None = None


class Functions(msgspec.Struct, frozen=True):
    functions: tuple[FunctionInfo, ...]


class Workers(msgspec.Struct, frozen=True):
    workers: tuple[Worker, ...]


class Readiness(msgspec.Struct, frozen=True):
    parts: dict[str, str]
