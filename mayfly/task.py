"""A task: its envelope, its events, and the fold that alone decides what became of it.

Everything here is pure: no I/O, no clock. Kafka is the source of truth; a partition's lifecycle log is
folded in log order, by whoever owns the partition, and every owner comes to the same state.

A *fence* is the offset of the `Claimed` event that gave a dispatcher the right to an attempt; `NO_FENCE`
is the start, before any claim. A *position* is a (lane, offset) pair: where a command stands.
"""

import enum
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

NO_FENCE: Final = -1
JSON: Final = "application/json"
NAMESPACE: Final = uuid.UUID("6f1c6a52-4f0e-5d0b-9d53-6d6179666c79")
"""Of every UUIDv5 that Mayfly makes."""

MAX_TIMEOUT_SECONDS: Final = 86_400
"""What a task may ask for as its own limit: a day."""

MAX_LOSSES: Final = 3
"""How often a task is delivered again because infrastructure failed, before it fails with `Sandbox.Lost`."""


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
    """Bytes in S3: the object's key, its size in bytes, its SHA-256 in hex."""

    key: str
    size: int
    sha256: str


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


class Failure(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Why an attempt failed. `error` is the exception's class where the function raised one."""

    type: FailureType
    message: str
    error: str | None = None
    traceback: str | None = None
    exit_code: int | None = None


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


class Claimed(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, tag_field="type"):
    """A dispatcher asks for the right to run an attempt. `nonce` lets it recognise its own event."""

    task_id: str
    lane: Lane
    offset: int
    attempt: int
    dispatcher: str
    nonce: str
    follows: int = NO_FENCE
    image: str | None = None


class Finished(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, tag_field="type"):
    """The claim's holder says how the attempt ended, for good."""

    task_id: str
    fence: int
    attempt: int
    outcome: Outcome


Event = Claimed | Finished

_envelope_decoder = msgspec.json.Decoder(Envelope)
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def encode(message: Envelope | Event) -> bytes:
    return _encoder.encode(message)


class MalformedCommand(ValueError):
    """A command that no sandbox can be given: the message says why."""


def decode_envelope(value: bytes | None, *, topic: str, partition: int, offset: int) -> Envelope:
    """The envelope in a command's value; its place in the log gives it an id where it has none.

    Raises `MalformedCommand`; `place_id` then names the task.
    """
    try:
        envelope = _envelope_decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedCommand(f"the command is not an envelope: {error}") from error
    given = sum(
        (bool(envelope.payload), envelope.payload_base64 is not None, envelope.payload_ref is not None)
    )
    if given > 1:
        raise MalformedCommand("payload, payloadBase64 and payloadRef exclude each other")
    if not envelope.task_id:
        return msgspec.structs.replace(envelope, task_id=place_id(topic, partition, offset))
    if not is_task_id(envelope.task_id):
        raise MalformedCommand("taskId is not a UUID in lower case with hyphens")
    return envelope


def decode_event(value: bytes | None) -> Event | None:
    """The event, or None for a record that is none: the fold passes over it."""
    try:
        return _event_decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


# --- ids ----------------------------------------------------------------------------------------------------


def new_task_id() -> str:
    """A UUIDv7 (RFC 9562): its first 48 bits are the time in milliseconds."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))


def place_id(topic: str, partition: int, offset: int) -> str:
    """The id of a task whose command names none: UUIDv5 of where the command stands."""
    return str(uuid.uuid5(NAMESPACE, f"{topic}/{partition}/{offset}"))


def is_task_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


# --- the fold -----------------------------------------------------------------------------------------------


class Position(NamedTuple):
    """Where a command stands in its partition."""

    lane: Lane
    offset: int


@dataclass(frozen=True, slots=True)
class TaskState:
    """What a task's events so far amount to. A task that no event has counted for has no state."""

    fence: int
    attempt: int
    holder: str
    first: int
    """Offset of the first event that counted: what a checkpoint may not start behind."""
    losses: int = 0
    """How many of its claims followed a claim that never ended."""
    terminal: bool = False


class Fold:
    """One partition's tasks. `apply` in log order; whatever it answers is what every other fold answers.

    `is_done` tells whether a command is done by the checkpoint that this fold started from or has come to:
    a claim for a task that the fold does not know counts only if its command is not.
    """

    def __init__(self, is_done: Callable[[Position], bool]) -> None:
        self._is_done = is_done
        # Insertion order is the order of `first`, and a task keeps its place when its state is replaced.
        self._tasks: OrderedDict[str, TaskState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, task_id: str) -> TaskState | None:
        return self._tasks.get(task_id)

    @property
    def first(self) -> int | None:
        """The first event of the tasks that it knows, or None if it knows none."""
        return next(iter(self._tasks.values())).first if self._tasks else None

    def apply(self, offset: int, event: Event) -> bool:
        """Whether the event counts; one that does not is void, and changes nothing."""
        state = self._tasks.get(event.task_id)
        match event:
            case Claimed():
                if state is None:
                    if event.follows != NO_FENCE or self._is_done(Position(event.lane, event.offset)):
                        return False
                    state = TaskState(
                        fence=offset, attempt=event.attempt, holder=event.dispatcher, first=offset
                    )
                elif state.terminal or event.follows != state.fence:
                    return False
                else:
                    state = replace(
                        state,
                        fence=offset,
                        attempt=event.attempt,
                        holder=event.dispatcher,
                        losses=state.losses + 1,
                    )
            case Finished():
                if state is None or state.terminal or event.fence != state.fence:
                    return False
                state = replace(state, terminal=True)
        self._tasks[event.task_id] = state
        return True

    def forget(self, task_id: str) -> None:
        """Drop a terminal task. Only for whoever knows that each of its commands is done."""
        state = self._tasks.get(task_id)
        if state is not None and state.terminal:
            del self._tasks[task_id]


class Done(NamedTuple):
    """The command has its successor: mark it done."""


class Claim(NamedTuple):
    """Claim the task, naming the fence that the claim follows."""

    follows: int
    attempt: int
    losses: int


class Held(NamedTuple):
    """Somebody has a claim. Park the command; if the holder is gone, `takeover` is what to do."""

    holder: str
    fence: int
    takeover: Claim


Step = Done | Claim | Held


def next_step(state: TaskState | None) -> Step:
    """What the owner of a partition, its fold at the log's end, does with a command that is not done."""
    if state is None:
        return Claim(follows=NO_FENCE, attempt=1, losses=0)
    if state.terminal:
        return Done()
    takeover = Claim(follows=state.fence, attempt=state.attempt + 1, losses=state.losses + 1)
    return Held(holder=state.holder, fence=state.fence, takeover=takeover)


Priority = Literal["high", "normal", "low"]
JsonValue = Any
