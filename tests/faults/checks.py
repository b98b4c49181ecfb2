"""Whether what was seen is what was promised. Pure."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from mayfly.audit.ledger import Ledger
from mayfly.audit.report import Report
from tests.faults.functions import ASKED_ATTEMPTS, NEVER_FAIL
from tests.faults.history import History, Sighting

LISTED = 5
"""Of what broke a promise, so many are named."""


@dataclass(frozen=True)
class Verdict:
    """A promise, its bound, what was seen, and whether it was kept; None where nothing was promised."""

    promise: str
    bound: str
    seen: str
    kept: bool | None = None
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAIL", None: ""}[self.kept]
        lines = [f"{mark:4}  {self.promise:<62}  {self.bound:>9}  {self.seen}"]
        return "\n".join([*lines, *(f"        {example}" for example in self.examples)])


@dataclass(frozen=True)
class Bounds:
    """What is promised in figures; None leaves a figure without a bound."""

    drain_seconds: float | None = 120.0
    duplicates: float | None = 0.02


@dataclass(frozen=True)
class Evidence:
    """All that is looked at in the end. `stored` are (task, attempt, fence) of the objects in S3, `left`
    the containers that the engine still has when every dispatcher has gone."""

    history: History
    ledger: Ledger
    audit: Report
    stored: Collection[tuple[str, int, int]]
    left: Collection[str]


def verdicts(evidence: Evidence, bounds: Bounds) -> Iterator[Verdict]:
    history, ledger = evidence.history, evidence.ledger
    accepted = history.accepted
    yield none("accepted tasks that are lost: not terminal in the log", lost(history, ledger))
    yield none("accepted tasks that a client does not see as ended", unseen(history))
    yield none("tasks with two outcomes", two_outcomes(evidence.audit))
    yield none("statuses that went back", regressions(history.sightings))
    yield none("keys that were answered with two tasks, tasks with two keys", split_keys(history))
    yield none("tasks in the log that nobody asked for", unasked(history, ledger))
    yield none("results that are another task's, or another attempt's", wrong_results(history, ledger))
    yield none("failures that are told to be a function's that never fails", blamed(history))
    yield none("executions without a claim that counts", unclaimed(evidence.stored, ledger))
    yield none("containers that nobody removed", evidence.left)
    off = [f"{finding.kind} {finding.task_id}: {finding.detail}" for finding in evidence.audit.findings]
    yield none("what the audit finds to be off", [evidence.audit.trouble] if evidence.audit.trouble else off)
    drain = float("inf") if history.quiet is None else history.quiet - history.last_fault
    yield at_most("from the end of the last fault to the last outcome", drain, bounds.drain_seconds, " s")
    twice = duplicates(history, ledger)
    share = twice / len(accepted) if accepted else 0.0
    yield at_most(f"executions that faults made necessary: {twice}", share * 100, _percent(bounds), " %")
    yield from figures(evidence)


def figures(evidence: Evidence) -> Iterator[Verdict]:
    """What was seen, and not promised."""
    history, ledger = evidence.history, evidence.ledger
    accepted = history.accepted
    statuses = Counter(ledger.ended[one].status.value for one in accepted if one in ledger.ended)
    yield Verdict("tasks accepted", "", str(len(accepted)))
    yield Verdict("their outcomes", "", ", ".join(f"{count} {name}" for name, count in statuses.items()))
    errors = Counter(
        sighting.error for seen in history.sightings.values() for _, sighting in seen[-1:] if sighting.error
    )
    yield Verdict("their failures", "", ", ".join(f"{count} {name}" for name, count in errors.items()))
    faults = Counter(f"{fault.how} {fault.target}" for _, fault in history.faults)
    yield Verdict("faults", "", f"{len(history.faults)}, {history.skipped} of what was not up")
    for name, count in sorted(faults.items()):
        yield Verdict(f"  {name}", "", str(count))
    answers = Counter(answer.status for request in history.requests for answer in request.answers)
    told = ", ".join(f"{count} {status or 'no answer'}" for status, count in answers.most_common())
    yield Verdict("answers to POST", "", told)
    reads = history.reads
    told = f"{reads.shown} tasks, {reads.unavailable} 503, {reads.unknown} 404, {reads.broken} no answer"
    yield Verdict("answers to GET", "", told)
    yield Verdict("events in the log that do not count", "", str(sum(ledger.void.values())))


def none(promise: str, broken: Collection[str]) -> Verdict:
    return Verdict(promise, "0", str(len(broken)), not broken, tuple(sorted(broken)[:LISTED]))


def at_most(promise: str, seen: float, bound: float | None, unit: str) -> Verdict:
    if bound is None:
        return Verdict(promise, "", f"{seen:.1f}{unit}")
    return Verdict(promise, f"<= {bound:g}{unit}", f"{seen:.1f}{unit}", seen <= bound)


def _percent(bounds: Bounds) -> float | None:
    return None if bounds.duplicates is None else bounds.duplicates * 100


# --- the single promises


def lost(history: History, ledger: Ledger) -> list[str]:
    return [task_id for task_id in history.accepted if task_id not in ledger.ended]


def unseen(history: History) -> list[str]:
    return [task_id for task_id in history.accepted if not history.ended(task_id)]


def two_outcomes(audit: Report) -> list[str]:
    return [off.task_id for off in audit.findings if off.kind in ("two-outcomes", "contradicted")]


def regressions(sightings: Mapping[str, list[tuple[float, Sighting]]]) -> list[str]:
    """A task that had ended and has not, or has ended in another way; an attempt before one seen already."""
    found = []
    for task_id, seen in sightings.items():
        for (_, before), (_, after) in itertools.pairwise(seen):
            if before.terminal or after.attempt < before.attempt:
                found.append(f"{task_id}: {_shown(before)}, then {_shown(after)}")
    return found


def _shown(sighting: Sighting) -> str:
    return f"{sighting.status} (attempt {sighting.attempt})"


def split_keys(history: History) -> list[str]:
    """A key names one task, and a task comes of one request."""
    found, of = [], dict[str, int]()
    for request in history.requests:
        ids = {answer.task_id for answer in request.answers if answer.accepted and answer.task_id}
        if len(ids) > 1:
            found.append(f"task {request.index}: {', '.join(sorted(ids))}")
        for task_id in ids:
            if of.setdefault(task_id, request.index) != request.index:
                found.append(f"{task_id}: tasks {of[task_id]} and {request.index}")
    return found


def unasked(history: History, ledger: Ledger) -> list[str]:
    """Beyond those that were accepted, and one for each request whose only answer was ambiguous."""
    unknown = ledger.accepted.keys() - history.accepted.keys()
    excused = {a.task_id for request in history.requests for a in request.answers if a.ambiguous}
    nameless = sum(
        request.task_id is None and any(answer.ambiguous for answer in request.answers)
        for request in history.requests
    )
    left = sorted(unknown - excused)
    return left if len(left) > nameless else []


def wrong_results(history: History, ledger: Ledger) -> list[str]:
    """A result says which task and which attempt it is of."""
    found = []
    for task_id, result in history.results.items():
        request, ended = history.accepted.get(task_id), ledger.ended.get(task_id)
        if request is None or ended is None:
            continue
        if (result.get("index"), result.get("attempt")) != (request.index, ended.attempt):
            found.append(f"{task_id}: {result.get('index')} of attempt {result.get('attempt')}")
    return found


def blamed(history: History) -> list[str]:
    """That infrastructure failed is an outcome too, but never the function's."""
    found = []
    for task_id, request in history.accepted.items():
        error = next((one.error for _, one in history.sightings.get(task_id, [])[-1:]), None)
        if request.function in NEVER_FAIL and error is not None and error.startswith("Function."):
            found.append(f"{task_id}: {error} of {request.function}")
    return found


def unclaimed(stored: Collection[tuple[str, int, int]], ledger: Ledger) -> list[str]:
    """What was stored by an attempt whose claim the log does not count."""
    found = []
    for task_id, attempt, fence in stored:
        ended = ledger.ended.get(task_id)
        if ended is None or fence not in ended.fences:
            found.append(f"{task_id}: attempt {attempt} under fence {fence}")
    return found


def duplicates(history: History, ledger: Ledger) -> int:
    """Attempts that were begun beyond those that the functions themselves asked for."""
    return sum(
        max(0, ended.attempts - ASKED_ATTEMPTS[request.function])
        for task_id, request in history.accepted.items()
        if (ended := ledger.ended.get(task_id))
    )
