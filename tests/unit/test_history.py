"""The whole log, folded from its start: an id that was used anew has two lives, and nothing else has."""

import pytest
from owner_world import claimed

from mayfly.events import CancelRequested, Event, Finished
from mayfly.fold import Phase
from mayfly.history import End, History
from mayfly.retention import SLACK_MS, Retention
from mayfly.task import Lane, Outcome

DAY = 86_400_000


@pytest.fixture
def history() -> History:
    """Of a task that ended on the first day."""
    history = History(0, Retention(days=7, dead_letter_days=30))
    assert history.apply(0, claimed("t", 0), DAY) is not None
    assert history.apply(1, Finished("t", 0, 1, Outcome(0, DAY)), DAY) is not None
    return history


@pytest.mark.parametrize("event", [claimed("t", 9), CancelRequested("t", Lane.NORMAL, 9)])
def test_what_begins_a_task_when_the_one_before_was_swept_counts(history: History, event: Event) -> None:
    assert history.apply(2, event, 8 * DAY) is not None
    assert history.before == {"t": End(1, DAY, failed=False)}
    assert history.ended == {}


@pytest.mark.parametrize("event", [claimed("t", 9), CancelRequested("t", Lane.NORMAL, 9)])
def test_what_comes_before_that_is_void(history: History, event: Event) -> None:
    assert history.apply(2, event, 8 * DAY - SLACK_MS) is None
    assert history.apply(3, event, DAY) is None


@pytest.mark.parametrize("event", [claimed("t", 9, follows=0), Finished("t", 0, 1, Outcome(0, 1))])
def test_what_follows_a_claim_begins_nothing_however_late_it_comes(history: History, event: Event) -> None:
    assert history.apply(2, event, 800 * DAY) is None


def test_where_everything_is_kept_for_ever_an_id_has_one_life() -> None:
    history = History(0)
    history.apply(0, claimed("t", 0), DAY)
    history.apply(1, Finished("t", 0, 1, Outcome(0, DAY)), DAY)
    assert history.apply(2, claimed("t", 9), 800 * DAY) is None


def test_a_second_life_ends_as_the_first_did_and_may_be_followed_by_a_third(history: History) -> None:
    history.apply(2, claimed("t", 9), 9 * DAY)
    assert history.apply(3, claimed("t", 9, nonce="late"), 9 * DAY) is None
    state = history.apply(4, Finished("t", 2, 1, Outcome(0, 9 * DAY)), 9 * DAY)
    assert state is not None
    assert state.phase is Phase.TERMINAL
    assert history.apply(5, claimed("t", 9), 10 * DAY) is None
    assert history.apply(6, claimed("t", 11), 17 * DAY) is not None
