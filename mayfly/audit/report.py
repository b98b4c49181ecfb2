"""What an audit found: what there is, what is off, and what that means."""

import enum
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

SHOWN: Final = 100
"""How many findings a report lists; it counts all of them."""


class Kind(enum.StrEnum):
    """What can be off."""

    UNACCEPTED = "unaccepted"
    UNCLAIMED = "unclaimed"
    CONTRADICTED = "contradicted"
    TWO_OUTCOMES = "two-outcomes"
    LEFT_RECORD = "left-record"
    NO_DEAD_LETTER = "no-dead-letter"
    STRAY_DEAD_LETTER = "stray-dead-letter"
    MISSING = "missing"
    UNKNOWN = "unknown"
    BEHIND = "behind"
    AHEAD = "ahead"
    DIFFERENT = "different"
    NO_RESULT = "no-result"
    RESULT_GONE = "result-gone"
    RESULT_DIFFERENT = "result-different"

    @property
    def meaning(self) -> str:
        return MEANINGS[self]

    @property
    def may_settle(self) -> bool:
        """Whether a stack that is at work looks like this for a moment."""
        return self in _LAGS


MEANINGS: Final = {
    Kind.UNACCEPTED: "the log has events or a record of a task that no lane holds",
    Kind.UNCLAIMED: "an outcome was written under a claim that never counted",
    Kind.CONTRADICTED: "whoever held the claim wrote a second, different outcome; the first one counts",
    Kind.TWO_OUTCOMES: "two outcomes count for one id, in two partitions; readers see one of them",
    Kind.LEFT_RECORD: "a task that has ended still has a deferred record: a new owner would run it again",
    Kind.NO_DEAD_LETTER: "the task failed for good, and the dead-letter topic never had it",
    Kind.STRAY_DEAD_LETTER: "the dead-letter topic has a task that did not fail",
    Kind.MISSING: "Redis does not have an accepted task: readers get a 404",
    Kind.UNKNOWN: "Redis has a task that the log does not know",
    Kind.BEHIND: "Redis has not got as far as the log",
    Kind.AHEAD: "Redis names an event that the log does not have",
    Kind.DIFFERENT: "Redis says something else of the task than the log",
    Kind.NO_RESULT: "the outcome is COMPLETED and names no result",
    Kind.RESULT_GONE: "S3 does not have the result that the outcome names",
    Kind.RESULT_DIFFERENT: "S3 has other bytes than the outcome names",
}
_LAGS: Final = frozenset(
    {Kind.LEFT_RECORD, Kind.NO_DEAD_LETTER, Kind.MISSING, Kind.UNKNOWN, Kind.BEHIND, Kind.AHEAD}
)


class Finding(NamedTuple):
    """One thing that is off with one task. `detail` says what is where."""

    kind: Kind
    task_id: str
    queue: str
    detail: str


class Off(msgspec.Struct, frozen=True, rename="camel"):
    """A finding, as it is shown."""

    kind: Kind
    task_id: str
    queue: str
    detail: str
    meaning: str


class QueueCounts(msgspec.Struct, frozen=True, rename="camel"):
    """A queue by the log alone. `accepted` is `waiting`, `running` and the terminal ones together."""

    queue: str
    accepted: int = 0
    waiting: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    attempts: int = 0
    """Claims that counted and were for an attempt."""
    void: int = 0
    """Events that do not count."""

    @property
    def terminal(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def adds_up(self) -> bool:
        return self.accepted == self.waiting + self.running + self.terminal


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """An audit. `trouble` says which part did not answer: nothing is proved then."""

    queues: tuple[QueueCounts, ...] = ()
    hashes: int = 0
    """Tasks that were read in Redis."""
    results: int = 0
    result_bytes: int = 0
    """Objects that were read in S3, and their bytes."""
    dead_letters: int = 0
    found: dict[str, int] = {}
    """How much is off, by kind."""
    findings: tuple[Off, ...] = ()
    """The first of it."""
    notes: tuple[str, ...] = ()
    """What could not be looked at."""
    seconds: float = 0.0
    trouble: str | None = None

    @property
    def clean(self) -> bool:
        return not self.found and self.trouble is None and all(one.adds_up for one in self.queues)


def tally(findings: Iterable[Finding]) -> tuple[dict[str, int], tuple[Off, ...]]:
    """How many there are of each kind, and the first of them."""
    counted: Counter[str] = Counter()
    shown: list[Off] = []
    for finding in findings:
        counted[finding.kind.value] += 1
        if len(shown) < SHOWN:
            shown.append(Off(*finding, meaning=finding.kind.meaning))
    return dict(counted), tuple(shown)
