"""A function's versions: which one a task runs on, and what deployments and shares make of an entry."""

import uuid
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly import versions
from mayfly.function import Function, Limits, decode_function, encode_function

IDS = [str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for number in range(4000)]


def function(image: str = "a", **fields: object) -> Function:
    return Function("f", f"mayfly/fn-f:{image}", image, **fields)  # type: ignore[arg-type]


def deploy(*images: str, traffic: bool = True, entry: Function | None = None) -> Function:
    for at, image in enumerate(images):
        entry = versions.deployed(entry, function(image), at, traffic=traffic)
    assert entry is not None
    return entry


def shares(entry: Function) -> dict[str, int]:
    return {versions.name_of(one): one.share for one in versions.versions(entry)}


def split(*percent: int) -> Function:
    """An entry of so many versions with those shares, oldest first."""
    entry = deploy(*(f"i{number}" for number in range(len(percent))))
    return versions.shared(entry, {f"v{number}": share for number, share in enumerate(percent, 1)})


# --- which one a task runs on


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5).filter(any))
def test_each_version_gets_its_share_of_many_tasks(weights: list[int]) -> None:
    percent = list(versions._divided(100, {f"v{at}": one for at, one in enumerate(weights, 1)}).values())
    entry = split(*percent)
    found = Counter(versions.chosen(entry, task_id).number for task_id in IDS)
    for number, share in enumerate(percent, 1):
        # Five standard deviations of a binomial at its widest.
        assert abs(found[number] / len(IDS) - share / 100) < 5 * 0.5 / len(IDS) ** 0.5
        if share in (0, 100):
            assert found[number] == len(IDS) * share / 100


def test_everybody_who_asks_finds_the_same_version() -> None:
    entry = split(50, 30, 20)
    other = decode_function(encode_function(entry))
    assert other == entry
    assert [versions.chosen(entry, one) for one in IDS[:500]] == [
        versions.chosen(other, one) for one in IDS[:500]
    ]


def test_a_share_that_grows_takes_tasks_and_gives_none_away() -> None:
    before, after = split(90, 10), split(50, 50)
    on_new = [one for one in IDS if versions.chosen(before, one).number == 2]
    assert on_new
    assert all(versions.chosen(after, one).number == 2 for one in on_new)


def test_a_task_stays_on_what_it_ran_on_as_long_as_that_gets_tasks() -> None:
    entry = split(90, 10)
    assert {versions.chosen(entry, one, "mayfly/fn-f:i1").number for one in IDS[:200]} == {2}
    rolled_back = versions.shared(entry, {"v1": 100})
    assert {versions.chosen(rolled_back, one, "mayfly/fn-f:i1").number for one in IDS[:200]} == {1}


def test_a_task_that_names_an_image_runs_on_the_version_that_had_it() -> None:
    entry = deploy("old")
    entry = versions.deployed(entry, function("new", limits=Limits(memory_mib=512)), 1) or entry
    assert versions.pinned(entry, "mayfly/fn-f:old").limits.memory_mib == 256
    forgotten = versions.pinned(entry, "mayfly/fn-f:older")
    assert (forgotten.image, forgotten.limits.memory_mib) == ("mayfly/fn-f:older", 512)


def test_what_is_the_functions_and_no_versions_is_as_the_main_one_says() -> None:
    entry = deploy("a")
    entry = versions.deployed(entry, function("b", concurrency=2), 1) or entry
    entry = versions.shared(entry, {"v1": 60, "v2": 40})
    assert {versions.chosen(entry, one).concurrency for one in IDS[:100]} == {None}


# --- what deployments make


def test_a_deployment_is_a_version_that_gets_every_task() -> None:
    assert shares(deploy("a", "b", "c")) == {"v3": 100, "v2": 0, "v1": 0}


def test_the_same_again_changes_nothing_whatever_gets_the_tasks() -> None:
    entry = versions.shared(deploy("a", "b"), {"v1": 100})
    assert versions.deployed(entry, function("b"), 9) is None
    assert versions.deployed(entry, function("b"), 9, traffic=False) is None


def test_what_was_deployed_before_is_another_version_when_it_comes_back() -> None:
    assert shares(deploy("a", "b", "a")) == {"v3": 100, "v2": 0, "v1": 0}


def test_a_manifest_that_changed_makes_a_version_too() -> None:
    entry = versions.deployed(deploy("a"), function("a", limits=Limits(memory_mib=512)), 1)
    assert entry is not None
    assert shares(entry) == {"v2": 100, "v1": 0}
    assert [one.limits.memory_mib for one in versions.versions(entry)] == [512, 256]


def test_without_traffic_tasks_run_as_before() -> None:
    entry = deploy("b", traffic=False, entry=deploy("a"))
    assert shares(entry) == {"v2": 0, "v1": 100}
    assert entry.version == "a"
    assert shares(deploy("a", traffic=False)) == {"v1": 100}


def test_the_oldest_that_get_nothing_are_forgotten() -> None:
    entry = versions.shared(deploy("first", "second"), {"v1": 50, "v2": 50})
    entry = deploy(*map(str, range(12)), traffic=False, entry=entry)
    names = list(shares(entry))
    assert len(names) == versions.KEPT
    assert names[:8] == [f"v{number}" for number in range(14, 6, -1)]
    assert names[8:] == ["v2", "v1"]


def test_an_entry_fits_a_record_however_large_its_versions() -> None:
    entry = None
    for at in range(6):
        entry = versions.deployed(entry, function(str(at), description="x" * 200_000), at)
    assert entry is not None
    assert len(encode_function(entry)) <= versions.MOST_BYTES
    assert list(shares(entry)) == ["v6", "v5"]


def test_what_was_retired_comes_back_as_it_was_or_with_a_new_version_for_every_task() -> None:
    gone = versions.retired(versions.shared(deploy("a", "b"), {"v1": 30, "v2": 70}))
    again = versions.deployed(gone, function("b"), 9)
    assert again is not None
    assert not again.retired
    assert shares(again) == {"v2": 70, "v1": 30}
    other = versions.deployed(gone, function("c"), 9, traffic=False)
    assert other is not None
    assert not other.retired
    assert shares(other) == {"v3": 100, "v2": 0, "v1": 0}


# --- what shares make


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        ((100, 0), {"v2": 10}, {"v2": 10, "v1": 90}),
        ((90, 10), {"v1": 100}, {"v2": 0, "v1": 100}),
        ((60, 30, 10), {"v3": 20}, {"v3": 20, "v2": 27, "v1": 53}),
        ((50, 50), {"v1": 50}, {"v2": 50, "v1": 50}),
        ((100, 0, 0), {"v3": 5, "v2": 5}, {"v3": 5, "v2": 5, "v1": 90}),
    ],
)
def test_the_others_keep_what_is_left(
    before: tuple[int, ...], asked: dict[str, int], after: dict[str, int]
) -> None:
    entry = versions.shared(split(*before), asked)
    assert shares(entry) == after
    assert entry.share == max(after.values())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"v7": 10}, "there is no v7: there are v2, v1"),
        ({"v2": 10}, "90 % would go to no version: give it to one of them, such as v1=90"),
        ({"v1": 60, "v2": 50}, "110 % together"),
        ({"v1": 60, "v2": 30}, "10 % would go to no version"),
        ({"v1": -1}, "no share"),
    ],
)
def test_shares_that_cannot_hold_are_refused(asked: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        versions.shared(deploy("a", "b"), asked)
