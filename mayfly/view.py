"""A task as its readers see it: the hash `mayfly:task:<id>`, written from the log and only forward.

Pure: what each record of the log changes in the hash. Every value is a string; a field that is not known
or does not apply is absent. `docs/interfaces.md` documents the fields.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from mayfly.task import NO_FENCE, Claimed, Envelope, Finished, Lane, Status


@dataclass(frozen=True)
class QueuedTask:
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

    def fields(self) -> dict[str, str]:
        fields = {
            "taskId": self.task_id,
            "taskType": self.task_type,
            "queue": self.queue,
            "priority": self.priority.value,
            "command": f"{self.priority.value}:{self.partition}:{self.offset}",
            "createdAt": timestamp(self.created_at),
            "contentType": self.content_type,
            "payloadBytes": str(self.payload_bytes),
            "tags": json.dumps(self.tags),
        }
        return fields | _known(name=self.name, timeoutSeconds=self.timeout_seconds)


class Change(NamedTuple):
    """What an event that counts makes of a task's hash."""

    task_id: str
    partition: int
    offset: int
    status: Status
    fields: dict[str, str]


def claimed(event: Claimed, *, partition: int, offset: int, at: int) -> Change:
    """`at` is the event's append time, milliseconds since 1970."""
    fields = {
        "attempt": str(event.attempt),
        "fence": str(offset),
        "dispatcher": event.dispatcher,
        "startedAt": timestamp(at),
    }
    return Change(event.task_id, partition, offset, Status.IN_PROGRESS, fields | _known(image=event.image))


def finished(event: Finished, *, partition: int, offset: int) -> Change:
    outcome = event.outcome
    fields = {
        "attempt": str(event.attempt),
        "startedAt": timestamp(outcome.started_at),
        "finishedAt": timestamp(outcome.finished_at),
    }
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
    if failure := outcome.failure:
        fields |= {"errorType": failure.type.value, "errorMessage": failure.message}
        fields |= _known(
            errorClass=failure.error, errorTraceback=failure.traceback, errorExitCode=failure.exit_code
        )
    if kept := outcome.log:
        fields |= {
            "logKey": kept.blob.key,
            "logSize": str(kept.blob.size),
            "logDropped": str(kept.dropped),
        }
    return Change(event.task_id, partition, offset, outcome.status, fields)


def queued(envelope: Envelope, *, queue: str, lane: Lane, partition: int, offset: int, at: int) -> QueuedTask:
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
    )


def payload_size(envelope: Envelope) -> int:
    """Bytes of the payload as the function gets it."""
    if envelope.payload_ref:
        return envelope.payload_ref.size
    if envelope.payload_base64 is not None:
        text = envelope.payload_base64
        return len(text) * 3 // 4 - text[-2:].count("=")
    return len(bytes(envelope.payload)) or len("null")


def timestamp(milliseconds: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"


def _known(**fields: object) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items() if value is not None}
