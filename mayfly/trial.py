"""One task for one sandbox, with neither log nor store: `mayfly run` and `python -m dispatcher.once`.

The one writes a `Trial` to the other's stdin and reads a `Verdict` from its stdout, both as JSON; bytes are
base64 there.
"""

import msgspec

from mayfly.function import Function
from mayfly.task import JSON, Failure


class Trial(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The task. `folder` is the function's; the `.env` there is part of what it gets."""

    function: Function
    folder: str
    payload: bytes
    content_type: str = JSON
    timeout_seconds: float | None = None
    """In place of the function's own."""


class Verdict(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How it ended: a result, a failure of the function, or `trouble` with what a sandbox needs."""

    result: bytes | None = None
    content_type: str = JSON
    failure: Failure | None = None
    log: bytes = b""
    log_dropped: int = 0
    seconds: float = 0.0
    trouble: str | None = None
    mend: str | None = None
    """The command that may end the trouble."""
