"""How many tasks there are, between two counts. Pure.

Redis is asked a few times a second. What was let in here since the last count is added to it; what ended
since is not known before the next one.
"""


class Gauge:
    """One gateway's view of the tasks of a tenant, or of everybody."""

    __slots__ = ("_asked", "added", "counted", "reserved", "running", "touched")

    def __init__(self, now: float) -> None:
        self.counted = 0
        """Tasks that waited at the last count; none before there was one."""
        self.running = 0
        self.added = 0
        """Tasks that were accepted here since that was asked for."""
        self.reserved = 0
        """Tasks of requests that were let in here and are not answered yet."""
        self.touched = now
        self._asked = 0

    @property
    def waiting(self) -> int:
        return self.counted + self.added + self.reserved

    def reserve(self, tasks: int) -> None:
        self.reserved += tasks

    def settle(self, tasks: int, *, accepted: bool) -> None:
        """A request was answered. Its tasks were shown in Redis before that, so that whatever is counted
        from here on has them."""
        self.reserved -= tasks
        if accepted:
            self.added += tasks

    def tell(self) -> None:
        """They are about to be counted."""
        self._asked = self.added

    def hear(self, waiting: int, running: int) -> None:
        self.counted, self.running = waiting, running
        self.added -= self._asked
        self._asked = 0

    def lose(self) -> None:
        """Nobody counts any more: what there was may have ended. What is let in from here on counts."""
        self.counted = self.running = self._asked = 0
