"""Whether a failed attempt is followed by another, and when. Pure."""

import random
from collections.abc import Callable
from typing import Final

import msgspec

from mayfly.task import Advice, Failure, FailureType, RetryPolicy

DEFAULTS: Final = RetryPolicy(
    max_attempts=1,
    initial_delay=1.0,
    max_delay=300.0,
    retry_on=(
        FailureType.ERROR,
        FailureType.TIMEOUT,
        FailureType.OUT_OF_MEMORY,
        FailureType.EXIT_CODE,
        FailureType.BAD_RESULT,
    ),
    never_on=(),
)
ASKED_ATTEMPTS: Final = 3
"""Attempts of a function that asks to be tried again, where no policy says how many there may be."""
_OURS: Final = frozenset({FailureType.LOST, FailureType.INVALID, FailureType.EXPIRED, FailureType.CANCELLED})
"""Not the function's doing: another attempt has a budget of its own, or could change nothing."""


def merged(over: RetryPolicy | None, under: RetryPolicy | None) -> RetryPolicy:
    """What `over` says, and where it says nothing, what `under` does."""
    if over is None or under is None:
        return over or under or RetryPolicy()
    said = {name: value for name in over.__struct_fields__ if (value := getattr(over, name)) is not None}
    return msgspec.structs.replace(under, **said)


def pause(
    policy: RetryPolicy, attempt: int, failure: Failure, draw: Callable[[], float] = random.random
) -> float | None:
    """Seconds until the attempt after this one (counted from 1) is due; None if there is none.

    Exponential backoff with full jitter: the bound doubles with each attempt, and `draw` (0 to 1) takes a
    part of it. A function that names its own time gets that.
    """
    if failure.type in _OURS or failure.advice is Advice.PERMANENT:
        return None
    full = merged(policy, DEFAULTS)
    assert full.max_attempts is not None
    assert full.initial_delay is not None
    assert full.max_delay is not None
    asked = failure.advice is Advice.RETRY
    most = ASKED_ATTEMPTS if asked and policy.max_attempts is None else full.max_attempts
    wanted = asked or (failure.type in (full.retry_on or ()) and failure.type not in (full.never_on or ()))
    if not wanted or attempt >= most:
        return None
    if failure.retry_after is not None:
        return failure.retry_after
    # The exponent is bounded: what comes out of it is cut anyway, and 2.0**2000 is an error.
    return draw() * min(full.max_delay, full.initial_delay * 2.0 ** min(attempt - 1, 60))
