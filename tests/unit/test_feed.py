"""How `make bench` measures the rate of a queue."""

from typing import cast

import pytest

from benchmarks import feed
from benchmarks.arena import Arena
from benchmarks.contenders.base import Unavailable
from benchmarks.contenders.mayfly import Tasks


class Line:
    """A queue that does one task between two looks."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.submitted = self.ended = self.most = 0
        self._stuck = stuck

    def submit(self, count: int) -> None:
        self.submitted += count
        self.most = max(self.most, self.submitted - self.ended)

    def done(self) -> int:
        if self.submitted > self.ended and not self._stuck:
            self.ended += 1
        return self.ended


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LEAD", 0.0)
    monkeypatch.setattr(feed, "LOOK", 0.0)


def test_so_many_are_kept_waiting_and_no_more() -> None:
    line = Line()
    feed.measure(line, 0.01, keep=7)
    assert 5 <= line.most <= 7


def test_only_what_ends_while_the_clock_runs_counts() -> None:
    flow = feed.measure(Line(), 0.01, keep=7, after=20)
    assert flow.first > 20
    assert flow.count == flow.last - flow.first > 0
    assert flow.seconds > 0


def test_the_clock_runs_until_a_task_has_ended_however_short_it_was_to_run() -> None:
    assert feed.measure(Line(), 0.0, keep=1).count > 0


def test_the_end_is_waited_for() -> None:
    line = Line()
    line.submit(9)
    feed.finish(line)
    assert line.ended == 9


def test_a_queue_that_does_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PATIENCE", 0.01)
    with pytest.raises(Unavailable, match="no task ended"):
        feed.measure(Line(stuck=True), 0.01, keep=3)


class Counter:
    """An arena in which somebody completes tasks."""

    url = "http://127.0.0.1:1"
    count = 0

    def completed(self) -> int:
        return self.count


def test_what_others_complete_between_two_slices_of_a_contender_is_none_of_its_tasks() -> None:
    arena = Counter()
    tasks = Tasks(cast("Arena", arena), ["f"], 0)
    arena.count = 70
    tasks.begin()
    tasks.submitted = 3
    arena.count += 3
    assert tasks.done() == 3
    arena.count += 500
    tasks.begin()
    assert tasks.done() == 3
