"""One forked child, as the relay knows it; and how processes end."""

import os

WINDOW = 256 * 1024
"""Bytes on the way to a child, and as many from it."""


class Line:
    """One child's pipes, as far as they are open."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.stdin = self.stdout = self.stderr = -1
        self.unsent = bytearray()
        """Input that the child has not taken."""
        self.taken = 0
        """Input that it has, and that no credit was given for."""
        self.closing = False
        self.credit = WINDOW
        self.reading = False
        self.full = False
        """Whether its stdin is waited for."""
        self.killed = False
        self.status: int | None = None
        self.peak = 0
        """Bytes of memory that its largest process has had."""
        self.started = False
        self.oom_kills = 0
        """How many processes had been killed for the container's memory when it was started."""


def exit_code(status: int) -> int:
    """As a shell has it: 128 and the number of the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
