"""How `make bench` measures the rate of a queue."""

import pytest

from benchmarks import feed
from benchmarks.contenders.base import Unavailable


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
