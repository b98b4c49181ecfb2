"""What becomes of a task, as it stands in the log: the events, and the records that outlive them.

Pure. `mayfly.fold` says which events count.
"""

import enum

import msgspec

from mayfly.task import NO_FENCE, Envelope, Failure, Lane, Log, Outcome


class Attempt(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An attempt that is over, as it is kept with its task. Times are milliseconds since 1970, UTC."""

    attempt: int
    fence: int
    dispatcher: str
    started_at: int
    finished_at: int
    image: str | None = None
    failure: Failure | None = None
    """None for the one that gave the result. Without its traceback, which is with the outcome."""
    log: Log | None = None


class Purpose(enum.StrEnum):
    """What a claim is for."""

    RUN = "run"
    """An attempt."""
    DEFER = "defer"
    """To let the task wait at once: its time has not come, or too many of its kind run."""
    END = "end"
    """To end it without an attempt: it was cancelled, or has expired. `Finished` follows."""


class Reason(enum.StrEnum):
    """Why a task waits."""

    SCHEDULE = "schedule"
    RETRY = "retry"
    LIMIT = "limit"


class Claimed(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, tag_field="type"):
    """A dispatcher asks for the right to a task. `nonce` lets it recognise its own event.

    It says everything about the task that a fold needs which knows nothing of it: one that starts here.
    """

    task_id: str
    lane: Lane
    offset: int
    attempt: int
    """Attempts begun so far, this one included if the purpose is to run."""
    dispatcher: str
    nonce: str
    follows: int = NO_FENCE
    image: str | None = None
    purpose: Purpose = Purpose.RUN
    losses: int = 0
    """How many of the attempts so far were lost with their infrastructure."""
    cancelled: bool = False
    """Whether the task's end had been asked for."""
    group: str | None = None
    """Whose limit of tasks at once this attempt counts against."""
    history: tuple[Attempt, ...] = ()
    """The attempts that are over, where the task comes out of a deferred record."""
    reason: Reason | None = None
    due: int = 0
    """Of a claim to let it wait: why, and until when, as `Deferred` has them."""


class Deferred(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, tag_field="type"):
    """The claim's holder lets the task wait: until `due`, milliseconds since 1970; for its turn, 0."""

    task_id: str
    fence: int
    attempt: int
    reason: Reason
    due: int = 0
    outcome: Outcome | None = None
    """How the attempt ended, where one did."""


class CancelRequested(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, tag_field="type"):
    """A client asks for the task's end. It names the command that was accepted, and only sets a flag."""

    task_id: str
    lane: Lane
    offset: int


class Finished(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, tag_field="type"):
    """The claim's holder says how the attempt ended, for good."""

    task_id: str
    fence: int
    attempt: int
    outcome: Outcome


Event = Claimed | Deferred | CancelRequested | Finished


class DeferredRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A task that waits, in `mayfly.<queue>.deferred`: all that there is of it until it is released.

    Written by the partition's owner, under a key that is never used twice, once the fold has counted what let
    it wait, at this fence. `envelope` has its `origin`.
    """

    envelope: Envelope
    fence: int
    attempt: int
    reason: Reason
    due: int = 0
    losses: int = 0
    group: str | None = None
    history: tuple[Attempt, ...] = ()
    cancelled: bool = False
    """Whether the task's end had been asked for. The request may lie behind where the next fold starts."""


class DeadLetter(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A task that failed for good, in `mayfly.dead-letter`, keyed by its id. A purged one has no value."""

    task_id: str
    queue: str
    envelope: Envelope
    failure: Failure
    failed_at: int
    """Milliseconds since 1970, UTC."""
    attempts: tuple[Attempt, ...] = ()


_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_record_decoder = msgspec.json.Decoder(DeferredRecord)
_dead_letter_decoder = msgspec.json.Decoder(DeadLetter)


def decode_event(value: bytes | None) -> Event | None:
    """The event, or None for a record that is none: the fold passes over it."""
    try:
        return _event_decoder.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode_record(value: bytes) -> DeferredRecord | None:
    """The record, or None for what is none."""
    try:
        return _record_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode_dead_letter(value: bytes) -> DeadLetter | None:
    """The dead letter, or None for what is none."""
    try:
        return _dead_letter_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
