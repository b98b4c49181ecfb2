"""What was done, asked and answered, in the order in which it was. Times are `time.monotonic`'s."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.schedule import Fault


@dataclass(frozen=True)
class Answer:
    """To one POST. `status` is None where there was none: the connection broke, or nobody answered."""

    at: float
    status: int | None
    task_id: str | None = None
    """The one that the answer names: of a 202, or of a 503 after which the task may run."""
    error: str | None = None

    @property
    def accepted(self) -> bool:
        return self.status == 202

    @property
    def ambiguous(self) -> bool:
        """Whether the task may be in the log although nobody said so."""
        return not self.accepted and (self.status is None or self.status >= 500)


@dataclass
class Request:
    """One task that a client wants, however often it has to ask. Without a key it asks once."""

    index: int
    function: str
    payload: dict[str, Any]
    key: str | None
    answers: list[Answer] = field(default_factory=list)

    @property
    def task_id(self) -> str | None:
        """Of the task that was accepted."""
        return next((answer.task_id for answer in self.answers if answer.accepted), None)


@dataclass(frozen=True)
class Sighting:
    """A task as `GET /tasks/{id}` showed it. Two are equal if a client could not tell them apart."""

    status: str
    attempt: int = 0
    finished_at: str | None = None
    result_size: int | None = None
    error: str | None = None

    @classmethod
    def of(cls, view: dict[str, Any]) -> "Sighting":
        return cls(
            view["status"],
            view.get("attempt", 0),
            view.get("finishedAt"),
            view.get("resultSize"),
            (view.get("error") or {}).get("type"),
        )

    @property
    def terminal(self) -> bool:
        return self.status in ("COMPLETED", "FAILED", "CANCELLED")


@dataclass
class Reads:
    """How `GET /tasks/{id}` was answered, but for the tasks that it showed."""

    shown: int = 0
    unknown: int = 0
    """404, of a task that was accepted."""
    unavailable: int = 0
    """503."""
    broken: int = 0
    """No answer."""


@dataclass
class History:
    seed: int
    requests: list[Request] = field(default_factory=list)
    sightings: dict[str, list[tuple[float, Sighting]]] = field(default_factory=dict)
    """Of each task, whenever it was seen to be another than before."""
    results: dict[str, Any] = field(default_factory=dict)
    """The JSON that `GET /tasks/{id}/result` gave, of those that completed."""
    reads: Reads = field(default_factory=Reads)
    faults: list[tuple[float, Fault]] = field(default_factory=list)
    skipped: int = 0
    """Faults of what was not up."""
    last_fault: float = 0.0
    """When the last one was over."""
    quiet: float | None = None
    """When every accepted task was seen to have ended."""

    @property
    def accepted(self) -> dict[str, Request]:
        """The requests that got a 202, by task. Several for one task are what a check will find."""
        return {request.task_id: request for request in self.requests if request.task_id}

    def see(self, at: float, task_id: str, sighting: Sighting) -> None:
        seen = self.sightings.setdefault(task_id, [])
        if not seen or seen[-1][1] != sighting:
            seen.append((at, sighting))

    def ended(self, task_id: str) -> bool:
        seen = self.sightings.get(task_id)
        return seen is not None and seen[-1][1].terminal

    def plain(self) -> dict[str, Any]:
        """For a file that says what happened."""
        return asdict(self)
