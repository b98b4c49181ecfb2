"""How long is lingered: not at all where few tasks end or the processors have time, and never so long that it
bounds how many do."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.linger import BUSY, IDLE, MOST_SECONDS, WINDOW_SECONDS, Linger
from dispatcher.processors import idle_seconds


class Machine:
    """Of four processors."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.idle: float | None = 50.0
        self.linger = Linger(lambda: self.now, lambda: self.idle, processors=4)

    def run(self, rate: float, *, idle: float | None = 0.0, seconds: float = 2 * WINDOW_SECONDS) -> "Machine":
        """As many attempts end in each second, while that share of the processors' time is nobody's."""
        for _ in range(int(seconds * rate)):
            self.now += 1 / rate
            self.idle = None if idle is None else (self.idle or 0.0) + idle * 4 / rate
            self.linger.ended()
        return self

    def seconds(self, running: int) -> float:
        return self.linger.seconds(running)


def test_there_is_none_before_anything_has_ended() -> None:
    assert Machine().seconds(64) == 0


def test_there_is_none_where_few_end_however_many_run() -> None:
    assert Machine().run(BUSY / 2).seconds(1000) == 0


def test_where_many_end_it_grows_with_those_on_their_way() -> None:
    machine = Machine().run(10 * BUSY)
    assert 0 < machine.seconds(1) < machine.seconds(64) < machine.seconds(10_000) == MOST_SECONDS


def test_there_is_none_where_the_processors_have_time_or_nobody_knows() -> None:
    assert Machine().run(10 * BUSY, idle=1.5 * IDLE).seconds(64) == 0
    assert Machine().run(10 * BUSY, idle=None).seconds(64) == 0
    assert Machine().run(10 * BUSY, idle=IDLE / 2).seconds(64) > 0


def test_the_more_time_the_processors_have_the_shorter_it_is() -> None:
    full, half = (Machine().run(10 * BUSY, idle=idle).seconds(64) for idle in (0.0, IDLE / 2))
    assert 0.3 * full < half < 0.7 * full


def test_it_is_over_when_the_processors_have_time_again() -> None:
    machine = Machine().run(10 * BUSY)
    assert machine.run(10 * BUSY, idle=0.9).seconds(64) == 0


def test_it_is_over_when_no_more_end() -> None:
    machine = Machine().run(10 * BUSY)
    machine.now += 2 * WINDOW_SECONDS
    assert machine.seconds(64) == 0


@given(st.integers(1, 10_000), st.floats(2 * BUSY, 50 * BUSY))
def test_it_takes_less_than_half_of_the_time_that_an_attempt_takes(running: int, rate: float) -> None:
    # Each is held up four times: its claim and its end, each where it is appended and where it is read.
    assert 4 * Machine().run(rate, seconds=1.1 * WINDOW_SECONDS).seconds(running) < 0.5 * running / rate


def test_the_kernel_says_how_long_the_processors_were_idle() -> None:
    before = idle_seconds()
    assert before is not None
    assert before <= (idle_seconds() or 0)
