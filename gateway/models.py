"""The shapes that go over HTTP. `TaskRequest` is what checks a task; the others describe the answers.

Every answer is documented from these, and the tests hold the answers to them.
"""

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from gateway import times
from gateway.models_limits import WHOLE
from mayfly.task import MAX_ATTEMPTS, MAX_DELAY_SECONDS, MAX_TIMEOUT_SECONDS, UUID

_NO_CONTROLS = "^[^\\u0000-\\u001f\\u007f]+$"

Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_NO_CONTROLS)]
TaskId = Annotated[str, Field(description="A UUID.", examples=["01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"])]
Timestamp = Annotated[
    str, Field(description="RFC 3339, UTC, to the millisecond.", examples=["2026-11-24T12:00:00.123Z"])
]
StatusName = Literal["QUEUED", "SCHEDULED", "IN_PROGRESS", "RETRYING", "COMPLETED", "FAILED", "CANCELLED"]
STATUSES: Final[tuple[str, ...]] = get_args(StatusName)
FailureName = Literal[
    "Function.Error",
    "Function.Timeout",
    "Function.OutOfMemory",
    "Function.ExitCode",
    "Function.BadResult",
    "Sandbox.Lost",
    "Task.Invalid",
    "Task.Expired",
    "Task.Cancelled",
]
"""`mayfly.task.FailureType`, for the document."""


def _time(text: str) -> str:
    if times.milliseconds(text) is None:
        raise PydanticCustomError(
            "time", "must be a time by RFC 3339 with its offset, such as 2026-11-24T12:00:00Z"
        )
    return text


def _within_a_year(text: str) -> str:
    at = times.milliseconds(text)
    if at is not None and at > times.now() + MAX_DELAY_SECONDS * 1000:
        raise PydanticCustomError("time", "must be at most 366 days ahead")
    return text


Time = Annotated[str, AfterValidator(_time), WithJsonSchema({"type": "string", "format": "date-time"})]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="forbid", strict=True)


def _all_given(**types: str) -> dict[str, Any]:
    """JSON Schema of an object that has all of these members, of those types: null stands for none."""
    return {"required": [*types], "properties": {name: {"type": type_} for name, type_ in types.items()}}


class Retry(_Model):
    """Which failures are tried again, and when; what is left out is as the function has it."""

    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS), WHOLE] | None = Field(
        None, description="Attempts in all, the first one included."
    )
    initial_delay: float | None = Field(
        None, ge=0, le=86_400, description="Seconds: the bound of the first pause; it doubles each time."
    )
    max_delay: float | None = Field(None, ge=0, le=604_800, description="Seconds: what that bound grows to.")
    retry_on: list[FailureName] | None = Field(None, description="The failures that are tried again.")
    never_on: list[FailureName] | None = Field(
        None, description="The failures that are not, whatever `retryOn` says."
    )


def _of_a_task(schema: dict[str, Any]) -> None:
    schema["required"].remove("payload")
    schema["oneOf"] = [{"required": ["payload"]}, {"required": ["upload"]}]
    schema["not"] = _all_given(runAt="string", delaySeconds="number")


class TaskRequest(_Model):
    """One request to run one function once."""

    model_config = ConfigDict(json_schema_extra=_of_a_task)

    task_type: str = Field(description="The function's name.", examples=["echo"])
    payload: Any = Field(
        description="What the function gets: any JSON that its schema allows, nested to at most 32 levels."
    )
    upload: Annotated[str, StringConstraints(pattern=UUID)] | None = Field(
        None, description="An upload's id, in place of `payload`: its bytes are what the function gets."
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
    # By a factory: pydantic makes a deep copy of a list for each task.
    tags: list[Tag] = Field(default_factory=list, max_length=16, json_schema_extra={"default": []})
    delay_seconds: float | None = Field(
        None, ge=0, le=MAX_DELAY_SECONDS, description="From the acceptance to the first attempt."
    )
    run_at: Annotated[Time, AfterValidator(_within_a_year)] | None = Field(
        None,
        description="When the first attempt is due, in place of `delaySeconds`: RFC 3339, at most 366 days "
        "ahead. A time in the past is now.",
        examples=["2026-11-24T12:00:00Z"],
    )
    ttl_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_DELAY_SECONDS,
        description="A first attempt that has not begun so long after it was due fails with `Task.Expired`.",
    )
    retry: Retry | None = None
    queue: Annotated[str, StringConstraints(min_length=1, max_length=63)] | None = Field(
        None, description="The queue that it waits in; the function's own if left out."
    )
    redeliver: bool | None = Field(
        None, description="False: a task whose sandbox was lost fails instead of running again."
    )
    concurrency_key: (
        Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NO_CONTROLS)] | None
    ) = Field(
        None,
        description="Tasks of one function with one key run at most so many at once as the function allows, "
        "or one.",
    )
    callback_url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = Field(
        None,
        description="Where the task is posted to when it has ended, signed by Standard Webhooks; the "
        "function's if left out. An https URL that leads to a public address.",
        examples=["https://example.com/hooks/mayfly"],
    )


class Accepted(_Model):
    """The log has the task: it will have exactly one recorded outcome."""

    task_id: TaskId
    status: StatusName = Field(
        description="SCHEDULED where the first attempt is due later, else QUEUED; with an Idempotency-Key "
        "that came before, what has become of the task."
    )
    rerun_of: TaskId | None = None


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


class AttemptError(_Model):
    type: str = Field(examples=["Function.Error"])
    message: str


class Attempt(_Model):
    """An attempt that is over."""

    attempt: int
    dispatcher: str
    started_at: Timestamp
    finished_at: Timestamp
    image: str | None = None
    error: AttemptError | None = Field(None, description="Left out for the one that gave the result.")
    logs_url: str | None = None


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
    run_at: Timestamp | None = Field(None, description="When its first attempt was due, if that was later.")
    due_at: Timestamp | None = Field(
        None, description="When its next attempt is due, while it waits for that."
    )
    ttl_seconds: float | None = None
    concurrency_key: str | None = None
    rerun_of: TaskId | None = Field(None, description="The task whose input this one has.")
    batch: str | None = Field(None, description="The batch that it came with.")
    upload: str | None = Field(None, description="The upload that its payload is.")
    cancel_requested_at: Timestamp | None = None
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
    attempts: list[Attempt] = Field([], description="Those that are over.")


class Cancelling(_Model):
    """What has become of the task whose end was asked for."""

    task_id: TaskId
    status: StatusName


class RerunRequest(_Model):
    latest: bool = Field(
        False, description="Run on the function as it is today, not on the image that the task ran on."
    )


class LetterSelection(_Model):
    """Which dead letters: by their tasks' ids, or those that meet every criterion; at least one is needed."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                _all_given(taskIds="array"),
                {"required": ["all"], "properties": {"all": {"const": True}}},
                {
                    "anyOf": [
                        _all_given(**{name: "string"}) for name in ("taskType", "errorType", "since", "until")
                    ]
                },
            ]
        }
    )

    task_ids: list[str] | None = Field(None, min_length=1, max_length=10_000)
    task_type: str | None = None
    error_type: FailureName | None = None
    since: Time | None = Field(None, description="Failed at or after that: RFC 3339.")
    until: Time | None = Field(None, description="Failed before that: RFC 3339.")
    all: bool = Field(False, description="Every one, where there is no other criterion.")


class Redriven(_Model):
    task_id: TaskId
    new_task_id: TaskId


class LetterFailure(_Model):
    """A dead letter that stays, and why: a code and a detail as in a problem."""

    task_id: str
    code: str
    detail: str


class RedriveAnswer(_Model):
    redriven: list[Redriven]
    failed: list[LetterFailure]
    remaining: int = Field(description="How many more there are: ask again.")


class PurgeAnswer(_Model):
    purged: list[TaskId]
    failed: list[LetterFailure]
    remaining: int = Field(description="How many more there are: ask again.")


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
    runtime: str | None = Field(description="What runs its tasks; null: what its dispatchers run tasks with.")
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


class Rebuild(_Model):
    """Whether all that the log has of tasks can be read."""

    complete: bool
    queues: list[str] = Field(description="Those of which something is missing: their dispatchers write it.")


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
