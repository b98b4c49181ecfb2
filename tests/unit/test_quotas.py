"""Buckets, days and counts, over any number of gateways."""

import itertools
import math

from counts_world import Shared
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.bucket import Bucket, size_of
from gateway.limits.counters import COMPARE_SECONDS, IDLE_SECONDS, KEEP_SECONDS, Counters
from gateway.limits.daily import DAY_SECONDS, Daily, day_of, seconds_left
from gateway.limits.limits import PERIOD_SECONDS
from gateway.limits.standing import Standing, headers, tightest, whole_seconds
from mayfly.identity.usage import Count, Told

RATES = st.floats(0.1, 1000)
PAUSES = st.lists(st.floats(0, 20), max_size=60)


# --- buckets


@given(RATES, PAUSES)
def test_one_gateway_lets_in_the_burst_and_the_rate_and_no_more(rate: float, pauses: list[float]) -> None:
    bucket, now, taken = Bucket(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        for _ in range(3):
            taken += bucket.take(now) == 0
    assert taken <= size_of(rate) + rate * now + 1e-6


@given(RATES, PAUSES)
def test_who_waits_as_long_as_is_said_is_let_in(rate: float, pauses: list[float]) -> None:
    bucket, now = Bucket(rate, 0.0), 0.0
    for pause in pauses:
        now += pause
        while (wait := bucket.take(now)) == 0:
            pass
        assert bucket.take(now + wait * 0.9) > 0
        now += wait
        assert bucket.take(now) == 0


@given(RATES)
def test_a_burst_is_let_in_at_once(rate: float) -> None:
    bucket = Bucket(rate, 0.0)
    taken = 0
    while bucket.take(0.0) == 0:
        taken += 1
    assert size_of(rate) - 1 <= taken <= size_of(rate) + 1e-6


@given(st.floats(0.5, 100), st.integers(1, 4), st.data())
def test_over_many_gateways_the_average_holds_and_a_burst_is_one_for_each(
    rate: float, count: int, data: st.DataObject
) -> None:
    """However requests are spread, and whichever gateway has rested meanwhile."""
    shared, gateways = Shared(), [Counters() for _ in range(count)]
    taken = 0
    steps = data.draw(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, count - 1), st.integers(1, 600)), max_size=40)
    )
    for periods, number, requests in steps:
        for _ in range(periods):
            shared.now += PERIOD_SECONDS
            for one, counters in enumerate(gateways):
                exchange(shared, one, counters)
        bucket = gateways[number].bucket("tenant:acme", rate, shared.now)
        taken += sum(bucket.take(shared.now) == 0 for _ in range(requests))
    late = count * (COMPARE_SECONDS + PERIOD_SECONDS)
    assert taken <= count * size_of(rate) + rate * (shared.now + late) + 1e-6


def test_what_one_gateway_let_in_another_one_does_not_let_in_again() -> None:
    shared, gateways = Shared(), [Counters(), Counters()]
    first, second = (one.bucket("key:1", 2.0, 0.0) for one in gateways)
    for _ in range(10):
        assert first.take(0.0) == 0
    for number, counters in enumerate(gateways):
        exchange(shared, number, counters)
    assert second.take(0.0) > 0


def test_gateways_that_cannot_tell_each_other_hold_the_rate_each_by_itself() -> None:
    counters = Counters()
    bucket = counters.bucket("key:1", 2.0, 0.0)
    taken = 0
    for tick in range(400):
        now = tick * PERIOD_SECONDS
        taken += bucket.take(now) == 0
        counters.tell(now)
        counters.lose()
    assert taken <= 10 + 2 * 100


@given(RATES, RATES, st.floats(0, 10))
def test_another_rate_holds_at_once(before: float, after: float, now: float) -> None:
    counters = Counters()
    counters.bucket("key:1", before, 0.0).take(0.0)
    bucket = counters.bucket("key:1", after, now)
    assert (bucket.rate, bucket.size) == (after, size_of(after))
    assert bucket.tokens <= bucket.size


# --- days


def test_a_day_ends_at_midnight_utc() -> None:
    assert day_of(DAY_SECONDS - 0.5) == 0
    assert day_of(DAY_SECONDS) == 1
    assert seconds_left(DAY_SECONDS * 3 - 60.0) == 60
    daily = Daily(0)
    daily.own, daily.others, daily.reserved = 5, 7, 11
    daily.turn(1)
    assert (daily.own, daily.others, daily.total) == (0, 0, 11)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1000), st.sampled_from(["tell", "twice", "no"])),
        max_size=60,
    )
)
def test_once_everybody_has_told_everybody_knows_the_days_sum(steps: list[tuple[int, int, str]]) -> None:
    """Whatever was told twice, or not at all, on the way."""
    shared, gateways = Shared(), [Counters() for _ in range(3)]
    for number, size, how in steps:
        gateways[number].day("key:1", 9).own += size
        for _ in range({"tell": 1, "twice": 2, "no": 0}[how]):
            exchange(shared, number, gateways[number])
    settle(shared, gateways)
    whole = sum(size for _, size, _ in steps)
    assert [one.day("key:1", 9).total for one in gateways] == [whole] * 3
    shared.flush()
    settle(shared, gateways)
    assert [one.day("key:1", 9).total for one in gateways] == [whole] * 3


def settle(shared: Shared, gateways: list[Counters]) -> None:
    for _ in range(2):
        for number, counters in enumerate(gateways):
            counters.day("key:1", 9)
            exchange(shared, number, counters)


# --- tasks


@given(st.lists(st.sampled_from(["come", "accept", "refuse", "end", "count"]), max_size=100))
def test_no_more_tasks_are_let_in_than_there_is_room_for(steps: list[str]) -> None:
    """One gateway: what is in Redis and what is on its way is never more than was to be."""
    most, there, counters = 7, 0, Counters()
    shared = Shared()
    for step in steps:
        gauge = counters.gauge("acme", shared.now)
        if step == "come" and gauge.waiting < most:
            gauge.reserve(1)
        elif step in ("accept", "refuse") and gauge.reserved:
            there += step == "accept"
            gauge.settle(1, accepted=step == "accept")
        elif step == "end" and there:
            there -= 1
        elif step == "count":
            shared.tasks["acme"] = Count(there, 0)
            exchange(shared, 0, counters)
        assert there + gauge.reserved <= most
        assert gauge.waiting >= there + gauge.reserved
    shared.tasks["acme"] = Count(there, 3)
    counters.gauge("acme", shared.now)
    exchange(shared, 0, counters)
    gauge = counters.gauge("acme", shared.now)
    assert (gauge.waiting - gauge.reserved, gauge.running) == (there, 3)


def test_while_nobody_counts_what_was_let_in_since_counts() -> None:
    counters = Counters()
    gauge = counters.gauge("acme", 0.0)
    gauge.hear(1000, 5)
    counters.tell(0.0)
    counters.lose()
    assert (gauge.waiting, gauge.running) == (0, 0)
    gauge.reserve(2)
    gauge.settle(2, accepted=True)
    assert gauge.waiting == 2


def test_what_says_nothing_any_more_is_forgotten() -> None:
    counters = Counters()
    counters.bucket("key:1", 1.0, 0.0)
    counters.day("key:1", 5)
    counters.gauge("acme", 0.0)
    counters.tell(0.0)
    counters.forget(IDLE_SECONDS, 5)
    assert counters.buckets
    assert counters.days
    assert counters.gauges
    counters.forget(max(KEEP_SECONDS, IDLE_SECONDS) + 1, 6)
    assert not counters.buckets
    assert not counters.days
    assert not counters.gauges


def test_only_what_was_used_is_told_and_a_bucket_is_compared_for_a_while() -> None:
    counters = Counters()
    counters.bucket("key:1", 1.0, 0.0)
    counters.gauge("acme", 0.0)
    told = counters.tell(0.0)
    assert ([draw.bucket for draw in told.draws], told.tenants) == (["key:1"], ("acme",))
    assert counters.tell(COMPARE_SECONDS / 2) == Told()
    assert not Told()
    assert [draw.spent for draw in counters.tell(COMPARE_SECONDS).draws] == [0]


# --- how a caller stands


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1))
def test_the_limit_that_is_met_first_is_told(pairs: list[tuple[int, int]]) -> None:
    found = tightest(Standing("", limit, min(limit, left), 0.0) for limit, left in pairs)
    assert found is not None
    assert found.share == min(min(limit, left) / limit if limit else 0 for limit, left in pairs)


@given(st.floats(0, 1e6))
def test_whole_seconds_are_never_too_few(seconds: float) -> None:
    assert seconds - 1e-5 <= whole_seconds(seconds) <= math.ceil(seconds)


def test_the_headers_are_whole_numbers() -> None:
    assert headers(Standing("", 10, -3, 0.2)) == [
        (b"ratelimit-limit", b"10"),
        (b"ratelimit-remaining", b"0"),
        (b"ratelimit-reset", b"1"),
    ]


def exchange(shared: Shared, gateway: int, counters: Counters) -> None:
    told = counters.tell(shared.now)
    if told:
        counters.hear(shared.exchange(gateway, told), told, shared.now)


def test_a_caller_that_asks_all_the_time_gets_its_rate() -> None:
    """Nobody is held below what is allowed, over three gateways."""
    shared, gateways = Shared(), [Counters() for _ in range(3)]
    turn = itertools.cycle(range(3))
    taken, rate = 0, 20.0
    for tick in range(4000):
        shared.now = tick * 0.025
        if tick % 10 == 0:
            for number, counters in enumerate(gateways):
                exchange(shared, number, counters)
        bucket = gateways[next(turn)].bucket("tenant:acme", rate, shared.now)
        taken += sum(bucket.take(shared.now) == 0 for _ in range(3))
    assert taken >= rate * 99
