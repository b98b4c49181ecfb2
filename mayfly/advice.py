"""What a handler raises to say whether another attempt makes sense.

    import mayfly

    raise mayfly.Retry("the shop is closed", after=600)
    raise mayfly.Permanent("there is no such customer")

In a sandbox this file is the whole of `mayfly`, so it imports nothing; a handler's tests find the same
classes where Mayfly is installed. The bootstrap knows them by `_mayfly_advice`.
"""

MAX_AFTER = 366 * 86_400
"""Seconds: a year."""


class Retry(Exception):
    """This attempt failed, and another may succeed. The task's or the function's policy says how many
    there may be; where neither does, three in all.

    `after`: seconds until the next one, from 0 to a year; None leaves them to the policy. Any other is a
    ValueError. A subclass may set `after` in its body as its own default.
    """

    __module__ = "mayfly"
    _mayfly_advice = "retry"
    after: float | None = None

    def __init__(self, message: str = "", *, after: float | None = None) -> None:
        super().__init__(message)
        if after is None:
            return
        # Written so that NaN, which is neither, is refused.
        if not isinstance(after, int | float) or not 0 <= after <= MAX_AFTER:
            raise ValueError(f"after takes seconds, from 0 to {MAX_AFTER} (a year), not {after!r}")
        self.after = after


class Permanent(Exception):
    """This attempt failed, and so would every other: the task fails now, whatever its policy says."""

    __module__ = "mayfly"
    _mayfly_advice = "permanent"

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
