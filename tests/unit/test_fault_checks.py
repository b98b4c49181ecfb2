"""The fault harness judges rightly: its schedule is the seed's, and each broken promise is seen as one."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from mayfly.audit.ledger import Accepted, Ended, Ledger, Place
from mayfly.audit.report import Kind, Off, Report
from mayfly.task import Status
from tests.faults import functions
from tests.faults.checks import Bounds, Evidence, verdicts
from tests.faults.history import Answer, History, Request, Sighting
from tests.faults.schedule import GAP, KAFKA_GAP, PAUSE, How, Target, schedule

PLACE = Place("default", 0)
DONE = Sighting("COMPLETED", 1, "12:00", 20)


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    first, again, other = (list(itertools.islice(schedule(seed), 100)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_faults_of_every_kind_come_in_the_shares_and_gaps_that_are_promised() -> None:
    faults = list(itertools.islice(schedule(5), 3000))
    gaps = [after.at - before.at for before, after in itertools.pairwise(faults)]
    assert GAP[0] <= min(gaps) <= max(gaps) <= GAP[1]
    assert {fault.target for fault in faults} == set(Target)
    signals = [fault for fault in faults if fault.how is not How.FLUSH]
    pauses = [fault for fault in signals if fault.how is How.PAUSE]
    assert 0.17 < len(pauses) / len(signals) < 0.23
    assert all(PAUSE[0] <= fault.seconds <= PAUSE[1] for fault in pauses)
    assert all((fault.how is How.FLUSH) == (fault.target is Target.DATA) for fault in faults)
    kafka = [fault.at for fault in faults if fault.target is Target.KAFKA]
    assert min(after - before for before, after in itertools.pairwise(kafka)) >= KAFKA_GAP


def test_a_schedule_of_some_targets_has_no_others() -> None:
    faults = itertools.islice(schedule(1, [Target.GATEWAY, Target.DATA], pauses=False), 100)
    assert {(fault.target, fault.how) for fault in faults} == {
        (Target.GATEWAY, How.KILL),
        (Target.DATA, How.FLUSH),
    }
    assert {fault.target for fault in itertools.islice(schedule(1, [Target.KAFKA]), 9)} == {Target.KAFKA}


# --- what is judged


def ended(*fences: int, attempts: int = 1) -> Ended:
    last = fences[-1]
    return Ended(PLACE, last + 1, last, len(fences), Status.COMPLETED, 0, None, fences, attempts)


@dataclass
class Run:
    """A run of a hundred tasks in which all went well, and one was taken over. A test then breaks it."""

    evidence: Evidence

    @classmethod
    def good(cls) -> "Run":
        history, ledger = History(1), Ledger()
        for index in range(100):
            task_id = f"task-{index}"
            answers = [Answer(0, 503, task_id), Answer(1, None), Answer(2, 202, task_id)]
            history.requests.append(Request(index, functions.NAP, {}, f"key-{index}", answers))
            history.see(3, task_id, Sighting("QUEUED"))
            history.see(4, task_id, Sighting("IN_PROGRESS", 1))
            history.see(5, task_id, DONE)
            history.results[task_id] = {"index": index, "attempt": 1}
            ledger.accepted[task_id] = Accepted(PLACE, False)
            ledger.ended[task_id] = ended(10)
        ledger.ended["task-0"] = ended(10, 20, attempts=2)
        history.results["task-0"] = {"index": 0, "attempt": 2}
        history.last_fault, history.quiet = 10, 40
        stored = [("task-0", 1, 10), ("task-0", 2, 20), ("task-1", 1, 10)]
        return cls(Evidence(history, ledger, Report(), stored, []))

    @property
    def history(self) -> History:
        return self.evidence.history

    @property
    def ledger(self) -> Ledger:
        return self.evidence.ledger

    def change(self, **changes: object) -> None:
        self.evidence = replace(self.evidence, **changes)  # type: ignore[arg-type]

    def broken(self, bounds: Bounds = Bounds()) -> list[str]:  # noqa: B008 - it is frozen
        return [one.promise for one in verdicts(self.evidence, bounds) if one.kept is False]


def answer_a_key_with_another_task(run: Run) -> None:
    run.history.requests[3].answers.append(Answer(3, 202, "task-4"))


def run_most_of_them_again(run: Run) -> None:
    run.ledger.ended.update({f"task-{index}": ended(10, attempts=2) for index in range(5)})


def fail(run: Run, error: str) -> None:
    run.history.sightings["task-7"].pop()
    run.history.see(5, "task-7", Sighting("FAILED", 1, "12:00", error=error))


@pytest.mark.parametrize(
    ("damage", "promise"),
    [
        (lambda run: run.ledger.ended.pop("task-7"), "accepted tasks that are lost"),
        (lambda run: run.history.sightings.pop("task-7"), "accepted tasks that a client does not see"),
        (
            lambda run: run.change(
                audit=Report(
                    found={"two-outcomes": 1}, findings=(Off(Kind.TWO_OUTCOMES, "task-7", "q", "", ""),)
                )
            ),
            "tasks with two outcomes",
        ),
        (lambda run: run.history.see(9, "task-7", Sighting("QUEUED")), "statuses that went back"),
        (lambda run: run.history.see(9, "task-7", replace(DONE, attempt=2)), "statuses that went back"),
        (answer_a_key_with_another_task, "keys that were answered with two tasks"),
        (lambda run: run.ledger.accepted.update(x=Accepted(PLACE, False)), "tasks in the log that nobody"),
        (lambda run: run.history.results["task-7"].update(index=8), "results that are another task's"),
        (lambda run: run.history.results["task-7"].update(attempt=2), "results that are another task's"),
        (lambda run: fail(run, "Function.ExitCode"), "failures that are told to be a function's"),
        (lambda run: run.change(stored=[("task-7", 1, 11)]), "executions without a claim"),
        (lambda run: run.change(left=["/mayfly-1"]), "containers that nobody removed"),
        (lambda run: run.change(audit=Report(trouble="S3 does not answer")), "what the audit finds"),
        (lambda run: setattr(run.history, "quiet", 131), "from the end of the last fault"),
        (lambda run: setattr(run.history, "quiet", None), "from the end of the last fault"),
        (run_most_of_them_again, "executions that faults made necessary"),
    ],
)
def test_each_broken_promise_is_seen(damage: Callable[[Run], object], promise: str) -> None:
    run = Run.good()
    damage(run)
    assert any(one.startswith(promise) for one in run.broken()), run.broken()


def test_a_run_in_which_all_went_well_breaks_none() -> None:
    assert Run.good().broken() == []


def test_that_infrastructure_failed_too_often_is_an_outcome() -> None:
    run = Run.good()
    fail(run, "Sandbox.Lost")
    assert run.broken() == []


def test_a_task_that_may_have_been_taken_although_nobody_said_so_is_asked_for() -> None:
    run = Run.good()
    run.ledger.accepted["named"] = run.ledger.accepted["nameless"] = Accepted(PLACE, False)
    run.history.requests.append(Request(100, functions.NAP, {}, None, [Answer(0, 503, "named")]))
    run.history.requests.append(Request(101, functions.NAP, {}, None, [Answer(0, None)]))
    assert run.broken() == []


def test_an_attempt_that_goes_back_while_the_task_runs_is_seen() -> None:
    run = Run.good()
    seen = [(1.0, Sighting("IN_PROGRESS", 2)), (2.0, Sighting("IN_PROGRESS", 1)), (3.0, DONE)]
    run.history.sightings["task-7"] = seen
    assert run.broken() == ["statuses that went back"]


def test_what_a_function_asks_for_is_no_execution_that_a_fault_made_necessary() -> None:
    run = Run.good()
    run.history.requests[0] = replace(run.history.requests[0], function=functions.FLAKY)
    figures = {one.promise for one in verdicts(run.evidence, Bounds())}
    assert "executions that faults made necessary: 0" in figures
