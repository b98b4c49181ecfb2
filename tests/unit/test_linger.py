"""How long is lingered: not at all where few tasks end, and never so long that it bounds how many do."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.linger import BUSY, MOST_SECONDS, WINDOW_SECONDS, Linger


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def after(rate: float) -> tuple[Linger, Clock]:
    """One that has just seen as many attempts end in a second."""
    clock = Clock()
    linger = Linger(clock)
    for _ in range(int(2 * WINDOW_SECONDS * rate)):
        clock.now += 1 / rate
        linger.ended()
    return linger, clock


def test_there_is_none_before_anything_has_ended() -> None:
    assert Linger(Clock()).seconds(64) == 0


def test_there_is_none_where_few_end_however_many_run() -> None:
    linger, _ = after(BUSY / 2)
    assert linger.seconds(1000) == 0


def test_where_many_end_it_grows_with_those_on_their_way() -> None:
    linger, _ = after(10 * BUSY)
    assert 0 < linger.seconds(1) < linger.seconds(64) < linger.seconds(1000) == MOST_SECONDS


def test_it_is_over_when_no_more_end() -> None:
    linger, clock = after(10 * BUSY)
    clock.now += 2 * WINDOW_SECONDS
    assert linger.seconds(64) == 0


@given(st.integers(1, 10_000))
def test_it_lets_a_thousand_a_second_end_whatever_is_on_its_way(running: int) -> None:
    linger, _ = after(10 * BUSY)
    # Each is held up four times: its claim and its end, each where it is appended and where it is read.
    assert running / (4 * linger.seconds(running)) > 1000
