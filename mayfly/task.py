"""A task: its envelope, its events, the records that it waits in. `mayfly.fold` decides what they amount to.

Everything here is pure: no I/O. Kafka is the source of truth, and this is what stands in it.

A *fence* is the offset of the `Claimed` event that gave a dispatcher the right to an attempt; `NO_FENCE`
is the start, before any claim. A *position* is a (lane, offset) pair: where a command stands.
"""

import enum
import os
import re
import time
import uuid
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

NO_FENCE: Final = -1
JSON: Final = "application/json"
DEFAULT_TENANT: Final = "default"
"""Whose everything is where nobody is asked who they are. Its admins are the operators: they alone may do
what concerns every tenant."""
TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
IDEMPOTENCY_KEY: Final = re.compile(r"[\x20-\x7e]{1,200}")
REDRIVE: Final = "redrive"
"""In place of a tenant, in the ids of redriven tasks: whoever redrives a letter twice gets one task. No
tenant has that name, or its keys would make the ids of others' tasks."""
NAMESPACE: Final = uuid.UUID("6f1c6a52-4f0e-5d0b-9d53-6d6179666c79")
"""Of every UUIDv5 that Mayfly makes."""

UUID: Final = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
"""What the id of a task or of a batch looks like."""

MAX_TIMEOUT_SECONDS: Final = 86_400
"""What a task may ask for as its own limit: a day."""

MAX_LOSSES: Final = 3
"""How often a task is delivered again because infrastructure failed, before it fails with `Sandbox.Lost`."""
MAX_DELAY_SECONDS: Final = 366 * 86_400
"""How far ahead a task may be scheduled: a year."""
LAST_MILLISECOND: Final = 253_402_300_799_999
"""Of the year 9999, since 1970: no time lies behind it."""
LAST_OFFSET: Final = 2**63 - 1
"""Of a record in a topic: beyond what fits there a number is nobody's, and not every reader can hold it."""
MAX_COMMAND_BYTES: Final = 600_000
"""A command is to fit one record again with all that comes to be said of its task."""
MAX_ATTEMPTS: Final = 100
"""What a policy may ask for: every attempt is kept, so their number has to end."""


class Status(enum.StrEnum):
    """What a client sees, and who moves a task out of it."""

    QUEUED = "QUEUED"
    """In a lane. A dispatcher's claim moves it to IN_PROGRESS."""
    SCHEDULED = "SCHEDULED"
    """Waits for its time. The owner of its partition releases it to its lane."""
    IN_PROGRESS = "IN_PROGRESS"
    """Claimed. Its dispatcher's `Finished` or `Deferred` moves it on, or another dispatcher's claim."""
    RETRYING = "RETRYING"
    """An attempt failed and another is due. The owner of its partition releases it to its lane."""
    COMPLETED = "COMPLETED"
    """Terminal: an attempt's result counts."""
    FAILED = "FAILED"
    """Terminal: there will be no further attempt."""
    CANCELLED = "CANCELLED"
    """Terminal: a client asked for its end."""

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Lane(enum.StrEnum):
    """A queue's command topics. The weight is a lane's share of the slots while all of them have work."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def weight(self) -> int:
        return {"high": 60, "normal": 30, "low": 10}[self.value]


class FailureType(enum.StrEnum):
    """How an attempt failed."""

    ERROR = "Function.Error"
    """The handler raised."""
    TIMEOUT = "Function.Timeout"
    OUT_OF_MEMORY = "Function.OutOfMemory"
    EXIT_CODE = "Function.ExitCode"
    """The process ended before it gave a result."""
    BAD_RESULT = "Function.BadResult"
    """What it returned is not JSON, or is over the cap."""
    LOST = "Sandbox.Lost"
    """Infrastructure failed, again and again."""
    INVALID = "Task.Invalid"
    """The command cannot be run: it is malformed, or names no function, or its payload fails the schema."""
    EXPIRED = "Task.Expired"
    CANCELLED = "Task.Cancelled"


# --- what is on the wire ------------------------------------------------------------------------------------


NOTHING: Final = msgspec.Raw(b"")
"""No JSON at all. A default is left out of what is encoded only if it is this very object."""


class BlobRef(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Bytes in S3: the object's key, its size in bytes, its SHA-256 in hex, which is empty where nobody told
    it: of a file that was uploaded without one."""

    key: str
    size: int
    sha256: str


class RetryPolicy(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Which failures are tried again, and when. What is None is left to the policy beneath: a task's lies
    over its function's, and that over `mayfly.retry`'s defaults."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=MAX_ATTEMPTS)] | None = None
    """Attempts in all, the first one included."""
    initial_delay: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    """Seconds: the bound of the first pause, which doubles with each attempt."""
    max_delay: Annotated[float, msgspec.Meta(ge=0, le=604_800)] | None = None
    """Seconds: what that bound grows to."""
    retry_on: tuple[FailureType, ...] | None = None
    """The failures that are tried again."""
    never_on: tuple[FailureType, ...] | None = None
    """The failures that are not, whatever `retry_on` says."""


class Origin(msgspec.Struct, frozen=True, rename="camel"):
    """The command that a release goes back to: where it stands, and its append time (ms since 1970)."""

    lane: Lane
    offset: Annotated[int, msgspec.Meta(ge=0, le=LAST_OFFSET)]
    accepted_at: Annotated[int, msgspec.Meta(ge=-1, le=LAST_MILLISECOND)]
    """-1 where the broker told none."""


class Envelope(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A command's value: one request to run one function once.

    Exactly one of `payload` (any JSON value, kept as the bytes that were sent), `payload_base64` (bytes of
    `content_type`) and `payload_ref` (either kind, in S3) is set; with none of them the payload is null.
    """

    task_type: str
    task_id: str = ""
    payload: msgspec.Raw = NOTHING
    payload_base64: str | None = None
    payload_ref: BlobRef | None = None
    content_type: str = JSON
    name: str | None = None
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_SECONDS)] | None = None
    tags: tuple[str, ...] = ()
    catalog_revision: int = 0
    """How far the gateway had read the catalog: the task runs on no older version of its function."""
    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=MAX_DELAY_SECONDS)] | None = None
    """From the acceptance to the first attempt."""
    run_at: Annotated[int, msgspec.Meta(ge=0, le=LAST_MILLISECOND)] | None = None
    """When the first attempt is due, milliseconds since 1970; over `delay_seconds`."""
    ttl_seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_DELAY_SECONDS)] | None = None
    """A first attempt that has not begun so long after it was due fails the task with `Task.Expired`."""
    retry: RetryPolicy | None = None
    redeliver: bool | None = None
    """False: a task whose sandbox was lost fails with `Sandbox.Lost` instead of running again."""
    concurrency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    """Tasks of one function with the same key run at most so many at once as the function allows, or one."""
    image: str | None = None
    """The image to run on, in place of the function's newest: an exact re-run."""
    rerun_of: str | None = None
    """The task whose input this one has."""
    payload_sha256: str | None = None
    """Of the payload's bytes, in hex: a re-run proves by it that its input is the same."""
    request_sha256: str | None = None
    """Of the request that came with an Idempotency-Key: another request with that key is refused."""
    releases: Annotated[int, msgspec.Meta(ge=NO_FENCE, le=LAST_OFFSET)] = NO_FENCE
    """The fence under which the task waited. Only the partition's owner writes such commands."""
    origin: Origin | None = None
    """Of a release: the command that was accepted."""
    tenant: str = DEFAULT_TENANT
    """Whose task it is: nobody else sees it."""
    callback_url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)] | None = None
    """Where the task's end is posted to; None: where its function says, if it does."""
    batch: Annotated[str, msgspec.Meta(pattern=UUID)] | None = None
    """The batch that it came with."""
    upload: Annotated[str, msgspec.Meta(pattern=UUID)] | None = None
    """The upload whose bytes its payload is: `payload_ref` names this task's own copy, which the function
    gets as a stream."""


class Result(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an attempt gave: always in S3, and inline as well where it is small JSON."""

    blob: BlobRef
    content_type: str = JSON
    inline: msgspec.Raw = NOTHING
    """The JSON text; empty where there is only the blob."""


class Log(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an attempt wrote on stderr, in S3; `dropped` bytes came after the cap."""

    blob: BlobRef
    dropped: int = 0


class Advice(enum.StrEnum):
    """What a function itself says about trying again: `mayfly.Retry`, `mayfly.Permanent`, exit 75 and 65."""

    RETRY = "retry"
    PERMANENT = "permanent"


class Failure(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Why an attempt failed. `error` is the exception's class where the function raised one."""

    type: FailureType
    message: str
    error: str | None = None
    traceback: str | None = None
    exit_code: int | None = None
    advice: Advice | None = None
    retry_after: float | None = None
    """Seconds that the function asks to wait before it is tried again."""


class Outcome(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How an attempt ended: with a result, or with a failure. Times are milliseconds since 1970, UTC."""

    started_at: int
    finished_at: int
    result: Result | None = None
    failure: Failure | None = None
    log: Log | None = None

    @property
    def status(self) -> Status:
        if self.failure is None:
            return Status.COMPLETED
        return Status.CANCELLED if self.failure.type is FailureType.CANCELLED else Status.FAILED


def accepted_at(envelope: Envelope, at: int) -> int:
    """When the task was accepted; `at` is its command's append time. Both in milliseconds since 1970."""
    return envelope.origin.accepted_at if envelope.origin else at


def due_at(envelope: Envelope, at: int) -> int:
    """When the first attempt is due: never before the acceptance."""
    accepted = accepted_at(envelope, at)
    if envelope.run_at is not None:
        return max(accepted, envelope.run_at)
    return accepted + int((envelope.delay_seconds or 0) * 1000)


def expires_at(envelope: Envelope, at: int) -> int | None:
    """When a first attempt that has not begun is too late, or None."""
    if envelope.ttl_seconds is None:
        return None
    return due_at(envelope, at) + int(envelope.ttl_seconds * 1000)


_envelope_decoder = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """An envelope, an event, a record, as it stands in its topic."""
    return _encoder.encode(message)


class MalformedCommand(ValueError):
    """A command that no sandbox can be given: the message says why. `envelope` has only the task's id."""

    def __init__(self, message: str, envelope: Envelope) -> None:
        super().__init__(message)
        self.envelope = envelope


def decode_envelope(value: bytes | None, *, topic: str, partition: int, offset: int) -> Envelope:
    """The envelope in a command's value; its place in the log gives it an id where it has none.

    Raises `MalformedCommand`.
    """

    def malformed(message: str) -> MalformedCommand:
        return MalformedCommand(message, Envelope(task_type="", task_id=place_id(topic, partition, offset)))

    if value is not None and len(value) > MAX_COMMAND_BYTES:
        raise malformed(f"the command has {len(value)} bytes, and may have {MAX_COMMAND_BYTES}")
    try:
        envelope = _envelope_decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(f"the command is not an envelope: {error}") from error
    given = sum(
        (bool(envelope.payload), envelope.payload_base64 is not None, envelope.payload_ref is not None)
    )
    if given > 1:
        raise malformed("payload, payloadBase64 and payloadRef exclude each other")
    if not envelope.task_id:
        envelope = msgspec.structs.replace(envelope, task_id=place_id(topic, partition, offset))
    if not is_task_id(envelope.task_id):
        raise malformed("taskId is not a UUID in lower case with hyphens")
    if not is_tenant(envelope.tenant):
        raise malformed("tenant is not a name of one")
    return envelope


# --- ids ----------------------------------------------------------------------------------------------------


def new_task_id() -> str:
    """A UUIDv7 (RFC 9562): its first 48 bits are the time in milliseconds."""
    when, rand = (time.time_ns() // 1_000_000).to_bytes(6, "big").hex(), os.urandom(10).hex()
    variant = _VARIANTS[rand[3]]
    return f"{when[:8]}-{when[8:]}-7{rand[:3]}-{variant}{rand[4:7]}-{rand[7:19]}"


_VARIANTS: Final = {digit: "89ab"[number & 3] for number, digit in enumerate("0123456789abcdef")}
"""10, in bits, and two by chance."""


def place_id(topic: str, partition: int, offset: int) -> str:
    """The id of a task whose command names none: UUIDv5 of where the command stands."""
    return str(uuid.uuid5(NAMESPACE, f"{topic}/{partition}/{offset}"))


def is_task_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def is_tenant(name: str) -> bool:
    return TENANT.fullmatch(name) is not None and name != REDRIVE


def keyed_id(tenant: str, key: str) -> str:
    """The id of a task that came with an Idempotency-Key: UUIDv5 of whose key it is."""
    return str(uuid.uuid5(NAMESPACE, f"{tenant}/{key}"))


def part_id(tenant: str, key: str, part: str) -> str:
    """The id of a part of what came with an Idempotency-Key: of a batch, and of its tasks by their index. No
    key holds a line end, so it is no other key's task."""
    return keyed_id(tenant, f"{key}\n{part}")


def may_come_again(task_id: str) -> bool:
    """Whether a client may post a task of this id twice: it is a UUIDv5."""
    return task_id[14:15] == "5"


class Position(NamedTuple):
    """Where a command stands in its partition."""

    lane: Lane
    offset: int


Priority = Literal["high", "normal", "low"]
