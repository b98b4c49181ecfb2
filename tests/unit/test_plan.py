"""What a deployment would change, before it does."""

from mayfly import versions
from mayfly.function import Function, Limits
from mayfly.plan import Change, Difference, planned, retirement
from mayfly.task import RetryPolicy

FUNCTION = Function("f", "mayfly/fn-f:a", "a", env={"A": "1", "B": "2"}, schema={"type": "object"})


def deployed(function: Function = FUNCTION) -> Function:
    entry = versions.deployed(None, function, 5)
    assert entry is not None
    return entry


def test_what_nobody_deployed_is_new() -> None:
    step = planned(None, FUNCTION, traffic=False)
    assert (step.change, step.version, step.share, step.differences) == (Change.NEW, "v1", 100, ())


def test_the_same_is_unchanged_and_says_what_it_gets() -> None:
    entry = versions.deployed(deployed(), Function("f", "mayfly/fn-f:b", "b"), 6, traffic=False)
    assert entry is not None
    step = planned(entry, Function("f", "mayfly/fn-f:b", "b"))
    assert (step.change, step.version, step.share) == (Change.UNCHANGED, "v2", 0)


def test_each_difference_is_told_by_the_manifests_name() -> None:
    other = Function(
        "f",
        "mayfly/fn-f:b",
        "b",
        env={"A": "1", "B": "3", "C": "4"},
        limits=Limits(memory_mib=512, timeout_seconds=5.0),
        retries=RetryPolicy(max_attempts=3),
        schema={"type": "array"},
        queue="big",
    )
    step = planned(deployed(), other)
    assert (step.change, step.version) == (Change.CHANGED, "v2")
    assert set(step.differences) == {
        Difference("image", "mayfly/fn-f:a", "mayfly/fn-f:b"),
        Difference("env.B", "2", "3"),
        Difference("env.C", None, "4"),
        Difference("memory", 256, 512),
        Difference("timeout", 60.0, 5.0),
        Difference("retries.max_attempts", None, 3),
        Difference("schema.type", "object", "array"),
        Difference("queue", "default", "big"),
    }


def test_a_plan_compares_with_the_newest_version_and_not_with_what_gets_the_tasks() -> None:
    entry = versions.deployed(deployed(), Function("f", "mayfly/fn-f:b", "b", queue="big"), 6, traffic=False)
    assert entry is not None
    (difference,) = planned(entry, Function("f", "mayfly/fn-f:b", "b", queue="small")).differences
    assert difference == Difference("queue", "big", "small")


def test_what_was_retired_is_new_when_it_comes_back() -> None:
    entry = versions.retired(deployed())
    assert planned(entry, FUNCTION).change is Change.NEW
    assert retirement(deployed()).change is Change.RETIRED
