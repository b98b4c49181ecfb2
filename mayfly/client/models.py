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


class Attempt(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One try at a task; `error` is why it failed, None where it did not, or has not ended."""

    attempt: int
    """Counted from 1."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    dispatcher: str | None = None
    image: str | None = None
    error: TaskError | None = None
    logs_url: str | None = None


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
    run_at: datetime | None = None
    """When the first attempt was to begin, where that is later than `created_at`."""
    due_at: datetime | None = None
    """When the next attempt is due, while the task waits for it."""
    cancel_requested_at: datetime | None = None
    ttl_seconds: float | None = None
    concurrency_key: str | None = None
    rerun_of: str | None = None
    """The task whose input this one has."""
    batch: str | None = None
    """The batch that it came with."""
    upload: str | None = None
    """The upload that its payload is."""
    dispatcher: str | None = None
    image: str | None = None
    timeout_seconds: float | None = None
    attempts: tuple[Attempt, ...] = ()
    """Those that are over, the first one first."""
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


class TaskChange(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a task has become, as `Client.stream` tells it; `Client.get` has the rest."""

    task_id: str
    task_type: str
    status: Status
    at: datetime
    """When it was told, a moment after it happened."""
    tags: tuple[str, ...] = ()
    attempt: int | None = None
    error_type: str | None = None


class FunctionInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A function that tasks can name as their `task_type`."""

    name: str
    version: str
    image: str
    contract: str
    description: str = ""
    isolation: str = "container"
    network: str = "none"
    runtime: str | None = None
    """What runs its tasks; None: what its dispatchers run tasks with."""
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


class Redriven(msgspec.Struct, frozen=True, rename="camel"):
    """A dead letter that was submitted again, as another task."""

    task_id: str
    new_task_id: str


class LetterFailure(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A dead letter that stays, and why: `code` is for programs, `detail` for people."""

    task_id: str
    code: str
    detail: str = ""


class Redrive(msgspec.Struct, frozen=True, rename="camel"):
    """What became of dead letters that were to be submitted again; `remaining` more were not tried."""

    redriven: tuple[Redriven, ...] = ()
    failed: tuple[LetterFailure, ...] = ()
    remaining: int = 0

    @property
    def advanced(self) -> bool:
        return bool(self.redriven)

    @property
    def settled(self) -> set[str]:
        return {task.task_id for task in self.redriven} | {failure.task_id for failure in self.failed}

    def plus(self, later: "Redrive") -> "Redrive":
        redriven = (*self.redriven, *later.redriven)
        failed = _still_failed(self.failed, later.failed, {task.task_id for task in redriven})
        return Redrive(redriven, failed, later.remaining)


class Purge(msgspec.Struct, frozen=True, rename="camel"):
    """The tasks whose dead letters were forgotten, and those that stay; `remaining` more were not tried."""

    purged: tuple[str, ...] = ()
    failed: tuple[LetterFailure, ...] = ()
    remaining: int = 0

    @property
    def advanced(self) -> bool:
        return bool(self.purged)

    @property
    def settled(self) -> set[str]:
        return {*self.purged, *(failure.task_id for failure in self.failed)}

    def plus(self, later: "Purge") -> "Purge":
        purged = (*self.purged, *later.purged)
        return Purge(purged, _still_failed(self.failed, later.failed, set(purged)), later.remaining)


def _still_failed(
    earlier: tuple[LetterFailure, ...], later: tuple[LetterFailure, ...], done: set[str]
) -> tuple[LetterFailure, ...]:
    # What fails stays, and so is tried again with every request.
    last = {failure.task_id: failure for failure in (*earlier, *later)}
    return tuple(failure for failure in last.values() if failure.task_id not in done)


class Rebuild(msgspec.Struct, frozen=True):
    """Whether all that the log has of tasks can be read; `queues` are those of which something is missing."""

    complete: bool
    queues: tuple[str, ...] = ()


class Functions(msgspec.Struct, frozen=True):
    functions: tuple[FunctionInfo, ...]


class Workers(msgspec.Struct, frozen=True):
    workers: tuple[Worker, ...]


class Readiness(msgspec.Struct, frozen=True):
    parts: dict[str, str]
