"""`make bench`: what becomes of its slices."""

import json

import pytest

from benchmarks.contenders.base import Measured
from benchmarks.figures import FIGURES, FLOORS, Results, as_json, as_markdown, ratios

KEYS = {key for key, _ in FIGURES}


def results(**rates: float) -> Results:
    found = Results()
    for name, rate in rates.items():
        found.add(name, 1, Measured(rate, 1.0))
    return found


def of(seen: Results, over: str, under: str) -> tuple[float | None, bool]:
    found = [
        ratio for ratio in ratios(seen.figures()) if (ratio.floor.over, ratio.floor.under) == (over, under)
    ]
    return found[0].value, found[0].met


def test_a_rate_is_what_ended_in_all_slices_over_what_they_took() -> None:
    found = Results()
    for count, seconds in ((10, 2.0), (90, 3.0)):
        found.add("rq", 1, Measured(count, seconds))
    assert found.rate("rq") == 20


def test_a_peers_rate_is_its_best_of_all_concurrencies() -> None:
    found = Results()
    for at_once, count in ((1, 10), (2, 30), (4, 20)):
        found.add("rq", at_once, Measured(count, 1.0))
    assert (found.rate("rq"), found.at_once("rq")) == (30, 2)


def test_a_container_is_held_against_dockers_api_at_the_same_concurrency() -> None:
    found = Results()
    for at_once, docker, mayfly in ((1, 5, 4), (2, 9, 7), (4, 8, 20)):
        found.add("docker_api", at_once, Measured(docker, 1.0))
        found.add("container", at_once, Measured(mayfly, 1.0))
    assert (found.rate("container"), found.at_once("container")) == (7, 2)
    assert of(found, "container_per_s", "docker_api_per_s")[0] == pytest.approx(7 / 9, abs=0.001)


def test_a_p50_is_of_tasks_that_ran_one_at_a_time() -> None:
    found = Results()
    found.add("docker_run", 4, Measured(9, 1.0, (900.0, 900.0, 900.0)))
    found.add("docker_run", 1, Measured(2, 1.0, (200.0, 220.0)))
    found.add("docker_run", 1, Measured(1, 1.0, (300.0,)))
    assert found.p50("docker_run") == 220


def test_a_floor_is_met_by_what_is_just_as_much() -> None:
    assert of(results(warm=120, celery_prefork=100), "warm_per_s", "celery_prefork_per_s") == (1.2, True)
    assert of(results(warm=119, celery_prefork=100), "warm_per_s", "celery_prefork_per_s") == (1.19, False)


def test_what_was_not_measured_meets_no_floor_and_is_null() -> None:
    found = results(celery_prefork=100)
    assert of(found, "warm_per_s", "celery_prefork_per_s") == (None, False)
    assert found.figures()["warm_per_s"] is None


def test_every_floor_is_of_figures_that_there_are() -> None:
    assert {name for floor in FLOORS for name in (floor.over, floor.under)} <= KEYS


def test_json_has_every_key_and_every_slice() -> None:
    found = results(warm=120, celery_prefork=100)
    found.unavailable["oci"] = "no runc"
    seen = json.loads(json.dumps(as_json(found, {"at": "now"})))
    assert seen.keys() >= KEYS | {"at", "ratios", "atOnce", "unavailable", "samples"}
    assert seen["samples"]["warm x1"] == [{"count": 120, "seconds": 1.0, "perSecond": 120.0}]
    assert sum(ratio["met"] for ratio in seen["ratios"]) == 1


def test_the_table_shows_each_figure_and_each_ratio_beside_its_floor() -> None:
    found = results(warm=1200, celery_prefork=600)
    found.unavailable["oci"] = "no runc"
    text = as_markdown(as_json(found, {}))
    assert all(f"`{key}`" in text for key in KEYS)
    row = next(line for line in text.splitlines() if "`warm_per_s / celery_prefork_per_s`" in line)
    assert [cell.strip() for cell in row.split("|")[2:5]] == ["2", "1.2", "met"]
    assert "1,200" in text
    assert "not measured" in text
    assert "- oci was not measured: no runc" in text


def test_every_row_of_a_table_is_as_wide_as_its_head() -> None:
    tables = as_markdown(as_json(results(warm=1), {})).split("\n\n")
    for table in tables:
        assert len({len(line) for line in table.strip().splitlines()}) == 1
