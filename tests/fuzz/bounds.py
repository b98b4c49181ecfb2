"""How much is sent: in `make test` a cut, always the same; with FUZZ_CASES so much, at random.

`make test-long` sends 10,000 requests, and gives each parser as many inputs. What Hypothesis finds it makes
as short as it gets, and prints a line that reproduces it.
"""

import os
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

CASES: Final = int(os.environ.get("FUZZ_CASES", "300"))
AT_RANDOM: Final = "FUZZ_CASES" in os.environ

patient = pytest.mark.timeout(3600)


def fuzzed(test: Callable[..., Any]) -> Callable[..., Any]:
    """Hypothesis' bounds for a test of a parser."""
    bounds = settings(
        max_examples=CASES,
        derandomize=not AT_RANDOM,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    return patient(bounds(test))
