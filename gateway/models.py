"""The shapes that go over HTTP. `TaskRequest` is what checks a task; the others describe the answers.

Every answer is documented from these, and the tests hold the answers to them.
"""

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

MAX_TIMEOUT_SECONDS = 86_400
_NO_CONTROLS = "^[^\\u0000-\\u001f\\u007f]+$"

Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_NO_CONTROLS)]
TaskId = Annotated[str, Field(description="A UUID.", examples=["01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"])]
Timestamp = Annotated[
    str, Field(description="RFC 3339, UTC, to the millisecond.", examples=["2026-11-24T12:00:00.123Z"])
]
StatusName = Literal["QUEUED", "SCHEDULED", "IN_PROGRESS", "RETRYING", "COMPLETED", "FAILED", "CANCELLED"]
STATUSES: Final[tuple[str, ...]] = get_args(StatusName)


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="forbid", strict=True)


class TaskRequest(_Model):
    """One request to run one function once."""

    task_type: str = Field(description="The function's name.", examples=["echo"])
    payload: Any = Field(
        description="What the function gets: any JSON that its schema allows, nested to at most 32 levels."
    )
    name: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NO_CONTROLS)] | None = (
        Field(None, description="A label for people.")
    )
    priority: Literal["high", "normal", "low"] = "normal"
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_TIMEOUT_SECONDS,
        description="How long an attempt may take; the function's own limit if left out.",
    )
    tags: list[Tag] = Field([], max_length=16)


class Accepted(_Model):
    """The log has the task: it will have exactly one recorded outcome."""

    task_id: TaskId
    status: Literal["QUEUED"]


class Progress(_Model):
    fraction: float = Field(ge=0, le=1)
    message: str | None = None


class TaskError(_Model):
    """Why the task failed."""

    type: str = Field(description="How it failed.", examples=["Function.Error", "Function.Timeout"])
    message: str
    exception: str | None = Field(
        None, alias="class", description="The exception's class, if the function raised one."
    )
    traceback: str | None = None
    exit_code: int | None = None


class Task(_Model):
    """What is known of a task. What is not known, or does not apply, is left out."""

    task_id: TaskId
    task_type: str
    queue: str
    priority: Literal["high", "normal", "low"]
    status: StatusName
    attempt: int | None = Field(None, description="The attempt that runs or ran last, from 1.")
    name: str | None = None
    tags: list[str] = []
    created_at: Timestamp
    started_at: Timestamp | None = Field(None, description="When that attempt started.")
    finished_at: Timestamp | None = None
    dispatcher: str | None = None
    image: str | None = Field(None, description="The image that the attempt runs on.")
    timeout_seconds: float | None = None
    progress: Progress | None = None
    result: Any = Field(None, description="The result itself, where it is JSON of at most 32 KiB.")
    result_url: str | None = None
    result_content_type: str | None = None
    result_size: int | None = Field(None, description="Bytes.")
    logs_url: str | None = None
    error: TaskError | None = None


class TaskList(_Model):
    tasks: list[Task]
    next_cursor: str | None = Field(
        description="Give it as `cursor` for the next page; null on the last one."
    )


class FunctionLimits(_Model):
    timeout_seconds: float
    memory_mib: int
    cpu: float
    pids: int
    open_files: int
    tmp_mib: int


class FunctionEntry(_Model):
    """A function as it is deployed."""

    name: str
    description: str
    version: str
    image: str
    contract: Literal["python", "unix"]
    isolation: str
    network: str
    limits: FunctionLimits
    queue: str
    payload_schema: dict[str, Any] | None = Field(
        alias="schema", description="JSON Schema of the payload; null takes any."
    )
    accepts_bytes: bool
    deployed_at: Timestamp


class FunctionList(_Model):
    functions: list[FunctionEntry]


class Worker(_Model):
    """A dispatcher that is alive."""

    id: str
    address: str
    host: str
    queue: str
    slots: int
    running: int
    started_at: Timestamp
    last_heartbeat: Timestamp


class WorkerList(_Model):
    workers: list[Worker]


class Health(_Model):
    status: Literal["ok"]


class Ready(_Model):
    status: Literal["ready"]
    parts: dict[str, Literal["ready"]]


class ProblemDetails(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable: what a program should look at.")
    field: str | None = Field(None, description="Path of the value at fault.", examples=["payload.width"])
