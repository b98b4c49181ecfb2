"""The protocol holds in every state within small bounds, and every rule of it is needed.

Bounds that take minutes are for the command line: see `tests.model.protocol`.
"""

import pytest

from tests.model.protocol import Bounds, Failure, Rule, check


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param(Bounds(commands=2), id="a wait"),
        pytest.param(Bounds(events=6, records=3, defers=2, zombies=0), id="two waits"),
        pytest.param(Bounds(events=3, faults=2), id="two faults"),
        pytest.param(Bounds(events=3, commands=2, others=1), id="among other tasks"),
        pytest.param(Bounds(defers=0, late=1, cancels=1), id="late messages, cancelled"),
        pytest.param(Bounds(defers=0, late=1, copies=1), id="late messages, copies"),
        pytest.param(
            Bounds(events=3, commands=2, defers=0, postpones=2, faults=2, zombies=0, cancels=1),
            id="waits without an attempt",
        ),
    ],
)
def test_holds(bounds: Bounds) -> None:
    verdict = check(bounds)
    assert verdict.failure is None, "\n".join(verdict.trace)
    # A model in which nothing can happen holds as well.
    assert verdict.states > 2500


BREAKS = {
    Rule.COUNTED: (Failure.LOST, Bounds()),
    Rule.OWN_FENCE: (Failure.STUCK, Bounds()),
    Rule.RELEASE_NAMES_WAIT: (Failure.OUTCOME, Bounds(faults=0, late=1, late_kind="command")),
    Rule.BEHIND_PARKS: (Failure.LOST, Bounds(commands=2)),
    Rule.DONE_IS_VOID: (Failure.OUTCOME, Bounds(defers=0)),
    Rule.FORGET_WHEN_DONE: (Failure.OUTCOME, Bounds(defers=0)),
    Rule.IN_ORDER: (Failure.OUTCOME, Bounds(defers=0, copies=1, late=1)),
    Rule.GUARD: (Failure.OUTCOME, Bounds(defers=0, copies=1)),
    Rule.FLAG: (Failure.LOST, Bounds(cancels=1)),
    Rule.CANCEL_RELEASES: (Failure.STUCK, Bounds(cancels=1)),
    Rule.FLAG_HOLDS_LOG: (Failure.CANCEL, Bounds(cancels=1)),
    Rule.FLAG_LISTED: (Failure.CANCEL, Bounds(commands=2, records=1, cancels=1)),
    Rule.FLAG_RECORDED: (
        Failure.CANCEL,
        Bounds(events=3, commands=2, defers=0, postpones=2, faults=2, zombies=0, cancels=1),
    ),
    Rule.COVERED: (Failure.LOST, Bounds(others=1)),
    Rule.DONE_WHEN_COVERED: (Failure.VIEW, Bounds(faults=0, late=1, late_kind="event", others=1)),
    Rule.TRUST: (Failure.OUTCOME, Bounds(commands=2)),
    Rule.READ_BEFORE_JUDGED: (Failure.LOST, Bounds(events=3, commands=1, faults=2)),
    Rule.FRESH_KEY: (Failure.LOST, Bounds(commands=2)),
    Rule.COMMIT_BEFORE_STALE: (Failure.LOST, Bounds(commands=2)),
    Rule.COMMIT_BEFORE_RESUMED: (Failure.LOST, Bounds(commands=2)),
    Rule.WIPED_BEFORE_PASS: (Failure.OUTCOME, Bounds(commands=2)),
    Rule.OLDER_HOLDS_LOG: (Failure.VIEW, Bounds(events=5, defers=2, zombies=0)),
    Rule.LEASE: (Failure.STUCK, Bounds(defers=0)),
    Rule.ONE_COMMIT: (Failure.OUTCOME, Bounds(defers=0)),
}


@pytest.mark.parametrize("rule", Rule)
def test_every_rule_is_needed(rule: Rule) -> None:
    failure, bounds = BREAKS[rule]
    # Where records tell of a cancellation, a fold that took it for an end would mostly be right.
    hides = [Rule.FLAG_RECORDED] if rule is Rule.FLAG else []
    assert check(bounds, [rule, *hides]).failure is failure
