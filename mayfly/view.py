"""A task as its readers see it: the hash `mayfly:task:<id>`, written from the log and only forward.

Pure: what each record of the log changes in the hash. Every value is a string; a field that is not known
or does not apply is absent. `docs/interfaces.md` documents the fields.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from mayfly.events import Attempt, CancelRequested, Claimed, Deferred, Finished, Reason
from mayfly.task import (
    DEFAULT_TENANT,
    LAST_MILLISECOND,
    NO_FENCE,
    Envelope,
    Failure,
    Lane,
    Log,
    Status,
    due_at,
)

_OF_AN_ATTEMPT: Final = (
    "progress",
    "progressMessage",
    "errorType",
    "errorMessage",
    "errorClass",
    "errorTraceback",
    "errorExitCode",
    "logKey",
    "logSize",
    "logDropped",
    "dueAt",
    "finishedAt",
)
"""What the next attempt does away with."""


class QueuedTask(msgspec.Struct, frozen=True):
    """A command as it was accepted. `created_at` is its broker's append time, milliseconds since 1970."""

    task_id: str
    task_type: str
    queue: str
    priority: Lane
    partition: int
    offset: int
    created_at: int
    payload_bytes: int
    content_type: str
    name: str | None = None
    tags: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    due_at: int = 0
    """When the first attempt is due, where that is later than the acceptance."""
    ttl_seconds: float | None = None
    concurrency_key: str | None = None
    rerun_of: str | None = None
    payload_sha256: str | None = None
    request_sha256: str | None = None
    tenant: str = DEFAULT_TENANT
    batch: str | None = None
    upload: str | None = None

    @property
    def status(self) -> Status:
        """What it is before any event."""
        return Status.SCHEDULED if self.due_at > self.created_at else Status.QUEUED

    def fields(self) -> dict[str, str]:
        fields = {
            "taskId": self.task_id,
            "taskType": self.task_type,
            "queue": self.queue,
            "priority": self.priority,
            "command": f"{self.priority}:{self.partition}:{self.offset}",
            "createdAt": timestamp(self.created_at),
            "contentType": self.content_type,
            "payloadBytes": str(self.payload_bytes),
            "tags": json.dumps(self.tags) if self.tags else "[]",
        }
        if self.tenant != DEFAULT_TENANT:
            fields["tenant"] = self.tenant
        if self.due_at > self.created_at:
            fields["runAt"] = timestamp(self.due_at)
        return fields | _known(
            name=self.name,
            timeoutSeconds=self.timeout_seconds,
            ttlSeconds=self.ttl_seconds,
            concurrencyKey=self.concurrency_key,
            rerunOf=self.rerun_of,
            payloadSha256=self.payload_sha256,
            requestSha256=self.request_sha256,
            batch=self.batch,
            upload=self.upload,
        )


class Reservation(NamedTuple):
    """What a task's id is reserved for: the request, by its SHA-256, and where its command goes."""

    request_sha256: str
    partition: int
    queue: str | None
    """None in one that was made before reservations had it."""


class Change(NamedTuple):
    """What an event that counts makes of a task's hash."""

    task_id: str
    partition: int
    offset: int
    status: Status | None
    """None: it stays what it is."""
    fields: dict[str, str]
    removed: Sequence[str] = ()
    """Fields that are true no more."""
    ended_at: int | None = None
    """Of a task that is terminal by this: when, milliseconds since 1970."""


def claimed(
    event: Claimed, *, partition: int, offset: int, at: int, history: Sequence[Attempt] = ()
) -> Change:
    """An attempt begins; `at` is the event's append time, milliseconds since 1970."""
    fields = {
        "attempt": str(event.attempt),
        "fence": str(offset),
        "dispatcher": event.dispatcher,
        "startedAt": timestamp(at),
    }
    fields |= _known(image=event.image) | attempts(history)
    return Change(event.task_id, partition, offset, Status.IN_PROGRESS, fields, _OF_AN_ATTEMPT)


def postponed(event: Claimed, *, partition: int, offset: int, history: Sequence[Attempt] = ()) -> Change:
    """A claim lets the task wait at once."""
    fields = attempts(history) | _due(event.due)
    return Change(event.task_id, partition, offset, _WAITS[event.reason or Reason.SCHEDULE], fields)


def deferred(event: Deferred, *, partition: int, offset: int, history: Sequence[Attempt] = ()) -> Change:
    """The task waits: for its time, for its next attempt, or for its turn."""
    fields = attempts(history) | _due(event.due)
    if event.outcome is not None:
        fields |= _failed(event.outcome.failure) | _logged(event.outcome.log)
    gone = ("progress", "progressMessage")
    return Change(event.task_id, partition, offset, _WAITS[event.reason], fields, gone)


_WAITS: Final = {
    Reason.SCHEDULE: Status.SCHEDULED,
    Reason.RETRY: Status.RETRYING,
    Reason.LIMIT: Status.QUEUED,
}


def _due(due: int) -> dict[str, str]:
    return {"dueAt": timestamp(due)} if due else {}


def cancel_requested(event: CancelRequested, *, partition: int, offset: int, at: int) -> Change:
    return Change(event.task_id, partition, offset, None, {"cancelRequestedAt": timestamp(at)})


def finished(event: Finished, *, partition: int, offset: int, history: Sequence[Attempt] = ()) -> Change:
    outcome = event.outcome
    fields = {
        "startedAt": timestamp(outcome.started_at),
        "finishedAt": timestamp(outcome.finished_at),
    }
    if event.attempt:
        fields["attempt"] = str(event.attempt)
    if event.fence != NO_FENCE:
        fields["fence"] = str(event.fence)
    if result := outcome.result:
        fields |= {
            "resultKey": result.blob.key,
            "resultSize": str(result.blob.size),
            "resultSha256": result.blob.sha256,
            "resultContentType": result.content_type,
        }
        if result.inline:
            fields["result"] = bytes(result.inline).decode()
    fields |= _failed(outcome.failure) | _logged(outcome.log) | attempts(history)
    removed = ("progress", "progressMessage", "dueAt")
    return Change(event.task_id, partition, offset, outcome.status, fields, removed, outcome.finished_at)


def attempts(history: Sequence[Attempt]) -> dict[str, str]:
    """The attempts that are over as the field `attempts`, a JSON list; without any, no field."""
    return {"attempts": json.dumps([_attempt(one) for one in history])} if history else {}


def _attempt(one: Attempt) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "attempt": one.attempt,
        "dispatcher": one.dispatcher,
        "startedAt": timestamp(one.started_at),
        "finishedAt": timestamp(one.finished_at),
    }
    if one.image:
        shown["image"] = one.image
    if one.failure:
        shown["error"] = {"type": one.failure.type.value, "message": one.failure.message}
    if one.log:
        shown["logKey"] = one.log.blob.key
    return shown


def _failed(failure: Failure | None) -> dict[str, str]:
    if failure is None:
        return {}
    return {"errorType": failure.type.value, "errorMessage": failure.message} | _known(
        errorClass=failure.error, errorTraceback=failure.traceback, errorExitCode=failure.exit_code
    )


def _logged(log: Log | None) -> dict[str, str]:
    if log is None:
        return {}
    return {"logKey": log.blob.key, "logSize": str(log.blob.size), "logDropped": str(log.dropped)}


def queued(envelope: Envelope, *, queue: str, lane: Lane, partition: int, offset: int, at: int) -> QueuedTask:
    """A command as its readers see it; of a release, the command that it goes back to."""
    if origin := envelope.origin:
        lane, offset, at = origin.lane, origin.offset, origin.accepted_at
    return QueuedTask(
        task_id=envelope.task_id,
        task_type=envelope.task_type,
        queue=queue,
        priority=lane,
        partition=partition,
        offset=offset,
        created_at=at,
        payload_bytes=payload_size(envelope),
        content_type=envelope.content_type,
        name=envelope.name,
        tags=envelope.tags,
        timeout_seconds=envelope.timeout_seconds,
        due_at=due_at(envelope, at),
        ttl_seconds=envelope.ttl_seconds,
        concurrency_key=envelope.concurrency_key,
        rerun_of=envelope.rerun_of,
        payload_sha256=envelope.payload_sha256,
        request_sha256=envelope.request_sha256,
        tenant=envelope.tenant,
        batch=envelope.batch,
        upload=envelope.upload,
    )


def payload_size(envelope: Envelope) -> int:
    """Bytes of the payload as the function gets it."""
    if envelope.payload_ref:
        return envelope.payload_ref.size
    if envelope.payload_base64 is not None:
        text = envelope.payload_base64
        return len(text) * 3 // 4 - text[-2:].count("=")
    return len(bytes(envelope.payload)) or len("null")


def tenant_of(fields: Mapping[str, str]) -> str:
    """Whose task a hash is."""
    return fields.get("tenant", DEFAULT_TENANT)


def timestamp(milliseconds: int) -> str:
    """RFC 3339 in UTC, to the millisecond; what is before 1970 or after 9999 as the nearest that is not."""
    seconds, rest = divmod(min(max(milliseconds, 0), LAST_MILLISECOND), 1000)
    return f"{_to_the_second(seconds)}.{rest:03d}Z"


@lru_cache(256)
def _to_the_second(seconds: int) -> str:
    # What is projected at once is mostly of the same few seconds.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _known(**fields: object) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items() if value is not None}
