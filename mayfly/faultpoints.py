"""Places where a process can be made to die, for the tests that prove that nothing is lost there.

Disabled unless `arm` names one, which the services do only when `MAYFLY_FAULT_POINT` is set. A point that is
not armed costs a comparison.
"""

import enum
import os
import signal
from typing import Final

from mayfly.errors import SettingsError


class FaultPoint(enum.StrEnum):
    """In the order in which a task comes by them."""

    # --- the gateway
    BEFORE_APPEND = "before-append"
    """The task is checked, and its payload stored."""
    AFTER_APPEND = "after-append"
    """The log has the task; the client has no answer."""
    # --- the dispatcher
    POLLED = "polled"
    """A batch was taken from the log."""
    BEFORE_CLAIM = "before-claim"
    """An attempt is decided on; nothing was appended."""
    CLAIM_APPENDED = "claim-appended"
    """`Claimed` is acknowledged, and was not read back."""
    CLAIM_COUNTED = "claim-counted"
    """The claim is held; the sandbox has no input."""
    RAN = "ran"
    """The function has given its answer."""
    STORED = "stored"
    """Result and log are in S3."""
    END_APPENDED = "end-appended"
    """`Finished` or `Deferred` is acknowledged, and was not read back."""
    END_COUNTED = "end-counted"
    """The fold has counted it."""
    RECORD_APPENDED = "record-appended"
    """A deferred record is acknowledged, and was not read back."""
    RELEASED = "released"
    """A task that waited is back in its lane."""
    TOMBSTONED = "tombstoned"
    """The record that a task came out of is gone; the checkpoint still lists the claim."""
    BURIED = "buried"
    """A dead letter is acknowledged; its task's command is not done."""
    NOTIFIED = "notified"
    """The notice of a task's end is acknowledged; its command is not done."""
    DELIVERED = "delivered"
    """Who is to be told of it was told; the notice is still there."""
    PROJECTED = "projected"
    """The read model was told; no mark says so."""
    MARKED = "marked"
    """The read model has the mark; the checkpoint is not committed."""
    COMMITTED = "committed"
    """The checkpoint is committed, and nobody here was told."""


GATEWAY: Final = (FaultPoint.BEFORE_APPEND, FaultPoint.AFTER_APPEND)
WEBHOOKS: Final = (FaultPoint.NOTIFIED, FaultPoint.DELIVERED)
"""Of a dispatcher, where a task has a callback only."""
_armed: FaultPoint | None = None
_passes = 0


def arm(text: str | None) -> None:
    """Die at the point of that name; of `name:3`, the third time. Raises `SettingsError` for what is none."""
    global _armed, _passes
    if text is None:
        return
    name, _, times = text.partition(":")
    try:
        _armed, _passes = FaultPoint(name), int(times or 1)
    except ValueError as error:
        known = ", ".join(FaultPoint)
        raise SettingsError(f"MAYFLY_FAULT_POINT is {text!r}; there are {known}") from error


def reached(point: FaultPoint) -> None:
    """The process is at this point: as if the machine had failed here, if it is the one that is armed."""
    global _passes
    if point is _armed:
        _passes -= 1
        if _passes == 0:
            os.kill(os.getpid(), signal.SIGKILL)
