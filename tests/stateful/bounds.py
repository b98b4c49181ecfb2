"""How far the machines go: in `make test` a cut, always the same; with STATEFUL_STEPS so far, at random.

`make test-long` takes 100,000 steps. A run that fails prints the steps that led there, and a line that
reproduces them: `@reproduce_failure(...)`, to be put above the machine.
"""

import math
import os
import sys
from typing import ClassVar, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

STEPS: Final = int(os.environ.get("STATEFUL_STEPS", "10000"))
"""Rules that are run, of all machines together."""
AT_RANDOM: Final = "STATEFUL_STEPS" in os.environ

patient = pytest.mark.timeout(3600)
"""What failed is made as short as it gets, which may take longer than a test that passes."""


class Machine(RuleBasedStateMachine):
    """Is checked after every step, and comes to an end where none of them failed."""

    taken: ClassVar[int] = 0
    """Steps of all its runs."""

    def __init__(self) -> None:
        super().__init__()
        self._handled = sys.exception()
        # It is asked for before the first step as well.
        type(self).taken -= 1

    def check_invariants(self, *_: object) -> None:
        # Not an `invariant`: what failed is printed with each call of one, and hard to read.
        type(self).taken += 1
        self.check()

    def teardown(self) -> None:
        try:
            if sys.exception() is self._handled:
                self.come_to_an_end()
        finally:
            self.close()

    def check(self) -> None:
        """What must hold after every step."""

    def come_to_an_end(self) -> None:
        """What must hold once everything has landed."""

    def close(self) -> None:
        """Give back what it took."""


def explore(machine: type[Machine], part: float, steps_of_one: int) -> None:
    """Run the machine for its part of the steps, so many at a time."""
    machine.taken, share = 0, math.ceil(STEPS * part)
    while machine.taken < share:
        bounds = settings(
            max_examples=math.ceil((share - machine.taken) / steps_of_one),
            stateful_step_count=steps_of_one,
            derandomize=not AT_RANDOM,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(machine, settings=bounds)
        if not AT_RANDOM:
            # The same again.
            return
