"""Whether a failed attempt is followed by another, and when: by properties."""

import random

from hypothesis import example, given
from hypothesis import strategies as st

from mayfly.retry import ASKED_ATTEMPTS, DEFAULTS, merged, pause
from mayfly.task import MAX_ATTEMPTS, Advice, Failure, FailureType, RetryPolicy

OURS = (FailureType.LOST, FailureType.INVALID, FailureType.EXPIRED, FailureType.CANCELLED)
FUNCTIONS = tuple(kind for kind in FailureType if kind not in OURS)

maybe = st.none()
types = st.lists(st.sampled_from(FailureType), max_size=4).map(tuple)
policies = st.builds(
    RetryPolicy,
    max_attempts=maybe | st.integers(1, MAX_ATTEMPTS),
    initial_delay=maybe | st.floats(0, 86_400),
    max_delay=maybe | st.floats(0, 604_800),
    retry_on=maybe | types,
    never_on=maybe | types,
)
attempts = st.integers(1, 5 * MAX_ATTEMPTS)
draws = st.floats(0, 1, exclude_max=True)


def failed(
    kind: FailureType = FailureType.ERROR, advice: Advice | None = None, after: float | None = None
) -> Failure:
    return Failure(kind, "message", advice=advice, retry_after=after)


failures = st.builds(
    failed,
    st.sampled_from(FailureType),
    maybe | st.sampled_from(Advice),
    maybe | st.floats(0, 366 * 86_400),
)


@given(policies, attempts, failures, draws)
@example(RetryPolicy(max_attempts=100, initial_delay=86_400.0), 99, failed(), 0.5)
def test_a_pause_is_never_negative_and_never_over_its_bound(
    policy: RetryPolicy, attempt: int, failure: Failure, draw: float
) -> None:
    seconds = pause(policy, attempt, failure, lambda: draw)
    if seconds is None:
        return
    full = merged(policy, DEFAULTS)
    assert full.max_delay is not None
    assert 0 <= seconds <= (full.max_delay if failure.retry_after is None else failure.retry_after)


@given(
    st.just(0.0) | st.floats(1e-6, 86_400),
    st.floats(0, 604_800),
    st.integers(1, MAX_ATTEMPTS - 1),
    draws,
)
def test_the_bound_doubles_with_each_attempt_and_the_draw_takes_a_part_of_it(
    initial: float, most: float, attempt: int, draw: float
) -> None:
    policy = RetryPolicy(max_attempts=MAX_ATTEMPTS, initial_delay=initial, max_delay=most)
    bound = min(most, initial * 2 ** (attempt - 1))
    assert pause(policy, attempt, failed(), lambda: draw) == draw * bound


def test_the_jitter_is_full() -> None:
    policy = RetryPolicy(max_attempts=2, initial_delay=10.0)
    source = random.Random(1)
    drawn = [pause(policy, 1, failed(), source.random) or 0.0 for _ in range(1000)]
    assert min(drawn) < 0.5
    assert max(drawn) > 9.5
    assert 4.5 < sum(drawn) / 1000 < 5.5


@given(policies, failures, draws)
def test_there_are_never_more_attempts_than_the_policy_allows(
    policy: RetryPolicy, failure: Failure, draw: float
) -> None:
    most = policy.max_attempts or (ASKED_ATTEMPTS if failure.advice is Advice.RETRY else 1)
    assert all(pause(policy, attempt, failure, lambda: draw) is None for attempt in range(most, most + 50))


@given(policies, failures)
def test_an_attempt_without_another_has_no_other_behind_it_either(
    policy: RetryPolicy, failure: Failure
) -> None:
    due = [pause(policy, attempt, failure) is not None for attempt in range(1, MAX_ATTEMPTS + 2)]
    assert due == sorted(due, reverse=True)


@given(policies, attempts, st.sampled_from(FailureType))
def test_a_permanent_failure_is_never_tried_again(
    policy: RetryPolicy, attempt: int, kind: FailureType
) -> None:
    assert pause(policy, attempt, failed(kind, Advice.PERMANENT)) is None


@given(policies, st.sampled_from(OURS), st.none() | st.sampled_from(Advice))
def test_what_is_not_the_functions_doing_is_no_retrys_business(
    policy: RetryPolicy, kind: FailureType, advice: Advice | None
) -> None:
    assert pause(policy, 1, failed(kind, advice)) is None


@given(policies, st.sampled_from(FUNCTIONS), st.floats(0, 366 * 86_400))
def test_a_function_that_asks_gets_what_attempts_there_are_whatever_it_failed_of(
    policy: RetryPolicy, kind: FailureType, after: float
) -> None:
    most = policy.max_attempts or ASKED_ATTEMPTS
    asked = failed(kind, Advice.RETRY, after)
    assert [pause(policy, attempt, asked) for attempt in range(1, most)] == [after] * (most - 1)
    assert pause(policy, most, asked) is None


@given(policies, st.sampled_from(FUNCTIONS))
def test_what_a_policy_never_retries_wins_over_what_it_retries(
    policy: RetryPolicy, kind: FailureType
) -> None:
    full = merged(policy, DEFAULTS)
    wanted = kind in (full.retry_on or ()) and kind not in (full.never_on or ())
    more = (full.max_attempts or 1) > 1
    assert (pause(policy, 1, failed(kind)) is not None) == (wanted and more)


def test_without_a_policy_there_is_one_attempt_and_up_to_three_where_the_function_asks() -> None:
    assert pause(RetryPolicy(), 1, failed()) is None
    asked = failed(advice=Advice.RETRY)
    due = [pause(RetryPolicy(), attempt, asked, lambda: 0.5) for attempt in (1, 2, 3)]
    assert due == [0.5, 1.0, None]


@given(policies, policies)
def test_a_policy_takes_what_it_leaves_open_from_the_one_beneath(
    over: RetryPolicy, under: RetryPolicy
) -> None:
    both = merged(over, under)
    for name in RetryPolicy.__struct_fields__:
        said = getattr(over, name)
        assert getattr(both, name) == (getattr(under, name) if said is None else said)


@given(policies, policies, policies)
def test_policies_may_be_merged_in_any_grouping(a: RetryPolicy, b: RetryPolicy, c: RetryPolicy) -> None:
    assert merged(merged(a, b), c) == merged(a, merged(b, c))


@given(policies)
def test_a_policy_over_or_under_none_is_itself(policy: RetryPolicy) -> None:
    assert merged(policy, None) == merged(None, policy) == merged(policy, policy) == policy
    assert merged(None, None) == RetryPolicy()
