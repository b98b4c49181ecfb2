"""What Redis, S3 and the dead-letter topic hold, against the ledger. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from mayfly.audit.ledger import Ended, Ledger, Place
from mayfly.audit.report import Finding, Kind
from mayfly.task import DEFAULT_TENANT, NO_FENCE, TERMINAL, BlobRef, Status

FIELDS: Final = (
    "taskType",
    "queue",
    "status",
    "position",
    "command",
    "attempt",
    "resultKey",
    "resultSize",
    "resultSha256",
    "tenant",
)
TRACE_MS: Final = 20 * 3_600_000
"""How long the broker surely keeps the trace of a purged dead letter: less than `delete.retention.ms`."""


_SWEPT: Final = frozenset({Kind.MISSING, Kind.RESULT_GONE, Kind.NO_DEAD_LETTER})


class Hash(NamedTuple):
    """What the audit reads of a task's hash in Redis; what is absent there is empty."""

    task_type: str = ""
    queue: str = ""
    status: str = ""
    position: str = ""
    command: str = ""
    attempt: str = ""
    result_key: str = ""
    result_size: str = ""
    result_sha256: str = ""
    tenant: str = ""

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "Hash":
        return cls(*(fields.get(name, "") for name in FIELDS))

    @property
    def offset(self) -> int:
        """Of the last event that was written here, or -1."""
        _, _, offset = self.position.rpartition(":")
        return int(offset) if offset.isdecimal() else NO_FENCE

    def beyond(self, ledger: Ledger, place: Place) -> bool:
        """Whether it was written from events that the ledger has not read."""
        return self.offset >= ledger.read_to(place)


def may_be_swept(finding: Finding, ledger: Ledger, now: int) -> bool:
    """Whether something is missing that may have been swept. `now` is in milliseconds since 1970."""
    ended = ledger.ended.get(finding.task_id)
    if finding.kind not in _SWEPT or ended is None:
        return False
    failed, letter = ended.status is Status.FAILED, finding.task_id in ledger.dead_letters
    return ledger.retention.is_over(ended.at, now, failed=failed, letter=letter)


def judge(ledger: Ledger, task_id: str, seen: Hash | None) -> Finding | None:
    """What is off with a task in Redis, or nothing. `seen` is None where Redis has no such hash."""
    accepted = ledger.accepted.get(task_id)
    if accepted is None:
        return _unaccepted(ledger, task_id, seen)
    place = accepted.place

    def off(kind: Kind, detail: str) -> Finding:
        return Finding(kind, task_id, place.queue, detail)

    if seen is None or not seen.task_type:
        return off(Kind.MISSING, "half a hash: its command is not there" if seen else "no hash")
    if (tenant := seen.tenant or DEFAULT_TENANT) != accepted.tenant:
        return off(Kind.DIFFERENT, f"tenant {tenant} there, {accepted.tenant} in the log")
    ended = ledger.ended.get(task_id)
    if ended is None:
        return _judge_course(ledger, task_id, place, seen)
    if seen.status not in TERMINAL:
        return off(Kind.BEHIND, f"{seen.status} there, {ended.status} in the log")
    if differences := "; ".join(_differences(ended, seen)):
        return off(Kind.DIFFERENT, differences)
    return None


def _unaccepted(ledger: Ledger, task_id: str, seen: Hash | None) -> Finding | None:
    if seen is None or seen.queue in ledger.trimmed:
        return None
    return Finding(Kind.UNKNOWN, task_id, seen.queue, f"{seen.status or 'no status'}, command {seen.command}")


def _judge_course(ledger: Ledger, task_id: str, place: Place, seen: Hash) -> Finding | None:
    last, status = ledger.last(task_id), ledger.status(task_id)
    if seen.beyond(ledger, place):
        detail = f"offset {seen.offset} of partition {place.partition}, which ends at {ledger.read_to(place)}"
        return Finding(Kind.AHEAD, task_id, place.queue, detail)
    if seen.status in TERMINAL or seen.offset > last:
        detail = f"{seen.status} by offset {seen.offset} there, {status or 'claimed'} by {last} in the log"
        return Finding(Kind.DIFFERENT, task_id, place.queue, detail)
    # A claim that is for no attempt shows nowhere, and so does not move the hash.
    if status is None:
        return None
    if seen.offset < last:
        detail = f"{seen.status} by offset {seen.offset} there, {status} by {last} in the log"
        return Finding(Kind.BEHIND, task_id, place.queue, detail)
    if seen.status != status:
        return Finding(Kind.DIFFERENT, task_id, place.queue, f"{seen.status} there, {status} in the log")
    return None


def _differences(ended: Ended, seen: Hash) -> Iterator[str]:
    blob = ended.result
    pairs = (
        ("status", seen.status, ended.status.value),
        ("attempt", seen.attempt, str(ended.attempt) if ended.attempt else seen.attempt),
        ("resultKey", seen.result_key, blob.key if blob else ""),
        ("resultSize", seen.result_size, str(blob.size) if blob else ""),
        ("resultSha256", seen.result_sha256, blob.sha256 if blob else ""),
    )
    for name, there, here in pairs:
        if there != here:
            yield f"{name} {there or 'absent'} there, {here or 'none'} in the log"


def dead_letters(ledger: Ledger, now: int) -> Iterator[Finding]:
    """Each task that failed for good is in the dead-letter topic, or was there; no other is.

    `now` is in milliseconds since 1970.
    """
    for task_id, ended in ledger.ended.items():
        if ended.status is not Status.FAILED:
            continue
        traced = not ledger.dead_letters_compacted or now - ended.at < TRACE_MS
        if traced and task_id not in ledger.dead_letters and task_id not in ledger.cleared:
            yield Finding(
                Kind.NO_DEAD_LETTER, task_id, ended.place.queue, f"failed under fence {ended.fence}"
            )
    for task_id in ledger.dead_letters:
        accepted = ledger.accepted.get(task_id)
        if accepted is not None and ledger.status(task_id) is not Status.FAILED:
            status = ledger.status(task_id) or "claimed"
            yield Finding(Kind.STRAY_DEAD_LETTER, task_id, accepted.place.queue, f"{status} in the log")


def results(ledger: Ledger) -> Iterator[tuple[str, Ended]]:
    """The tasks whose result must be in S3."""
    return ((id_, ended) for id_, ended in ledger.ended.items() if ended.status is Status.COMPLETED)


def judge_result(task_id: str, ended: Ended, stored: BlobRef | None) -> Finding | None:
    """What is off with a result. `stored` is what S3 has under the key that the outcome names, or None."""
    named = ended.result
    queue = ended.place.queue
    if named is None:
        return Finding(Kind.NO_RESULT, task_id, queue, f"under fence {ended.fence}")
    if stored is None:
        return Finding(Kind.RESULT_GONE, task_id, queue, named.key)
    if stored != named:
        there = f"{stored.size} bytes, {stored.sha256[:12]}"
        detail = f"{named.key}: {there} there, {named.size} bytes, {named.sha256[:12]} in the log"
        return Finding(Kind.RESULT_DIFFERENT, task_id, queue, detail)
    return None
