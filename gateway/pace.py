"""The pace that requests are begun at: what is more than a core can do is refused before it costs anything.

Every request that is begun has its turn, and a loop with a thousand of them comes round in seconds: health is
asked for in a connection of its own, which takes five rounds. So a round is held to what can be done in a
moment, and whoever comes beyond that is told to come again.
"""

import asyncio
import time
from typing import Final

LOOK_SECONDS: Final = 0.05
"""Between two looks, and a round of the loop where that takes longer."""
ROUND_SECONDS: Final = 0.12
"""Of work between two looks, as the processor counts it: that others had the core is no fault of ours."""
LEAST: Final = 32
MOST: Final = 4096
"""Requests that are begun between two looks."""


class Pace:
    """Lowered to what there would have been time for where there was too much to do, and raised by an eighth
    at each look otherwise."""

    def __init__(self) -> None:
        self.room = MOST
        self.begun = 0
        """Requests since the last look."""
        self._before = 0
        """Requests between the two looks before it, of which most is done after the last one."""
        self.refused = 0
        """Requests since the process began."""

    def begins(self) -> bool:
        """Whether a request is to be begun; else it is refused."""
        if self.begun >= self.room:
            self.refused += 1
            return False
        self.begun += 1
        return True

    def look(self, worked: float) -> None:
        """`worked`: seconds of the processor's time since the last look."""
        if worked > ROUND_SECONDS:
            done = min(self.room, max(self.begun, self._before))
            self.room = max(LEAST, int(done * ROUND_SECONDS / worked))
        else:
            self.room = min(MOST, self.room + self.room // 8)
        self._before, self.begun = self.begun, 0

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from now on, for as long as the loop runs."""
        # A call, not a task that sleeps: that would need another round to wake up.
        worked = time.thread_time()

        def look() -> None:
            nonlocal worked
            before, worked = worked, time.thread_time()
            self.look(worked - before)
            loop.call_later(LOOK_SECONDS, look)

        loop.call_later(LOOK_SECONDS, look)
