"""What follows an attempt: another, or none. Pure."""

import msgspec

from dispatcher.buffers import Command
from mayfly import retry
from mayfly.function import Function
from mayfly.steps import Claim
from mayfly.task import MAX_LOSSES, Failure, FailureType, Outcome


def losses_allowed(command: Command, function: Function | None) -> int:
    redeliver = command.envelope.redeliver
    if redeliver is None:
        redeliver = function is None or function.redeliver
    return MAX_LOSSES if redeliver else 0


def pause_after(command: Command, claim: Claim, function: Function | None, outcome: Outcome) -> float | None:
    """Seconds until the task is tried again; None if this is its end. What was lost is no attempt of its."""
    if outcome.failure is None or function is None:
        return None
    policy = retry.merged(command.envelope.retry, function.retries)
    return retry.pause(policy, claim.attempt - claim.losses, outcome.failure)


def cancelled_outcome(outcome: Outcome) -> Outcome:
    """What ended by itself after its end was asked for: a result stands, a failure is what was wanted."""
    failure = outcome.failure
    if failure is None or failure.type is FailureType.CANCELLED:
        return outcome
    told = Failure(
        FailureType.CANCELLED, f"the task was cancelled; its attempt had failed: {failure.message}"
    )
    return msgspec.structs.replace(outcome, failure=told)
