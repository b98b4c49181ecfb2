"""What this gateway has under way: beyond it, tasks are refused before anything breaks."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.errors import Problem
from mayfly.settings import MIB

BODIES: Final = 256 * MIB
"""Bytes of tasks that are held in memory at once, from their first byte to their answer."""
SHARE: Final = 0.5
"""What one tenant may take of all that, where there are several."""
RETRY_SECONDS: Final = 1


class Load:
    """`most` tasks are on their way to the log at once. `shared`: by several tenants, of whom none may take
    all of it."""

    def __init__(self, most: int, *, shared: bool, bodies: int = BODIES) -> None:
        self._most = most
        self._bodies = bodies
        share = SHARE if shared else 1.0
        self._most_each = max(1, int(most * share))
        self._bodies_each = int(bodies * share)
        self.appending = 0
        self.held = 0
        self._appending_of: Counter[str] = Counter()
        self._held_of: Counter[str] = Counter()

    def check(self, tenant: str) -> None:
        """Raises `Problem` while there is no room for another task."""
        if self.appending >= self._most:
            raise overloaded("The log takes less than is sent")
        if self.held >= self._bodies:
            raise overloaded("The memory for tasks that are being received is used up")
        if self._appending_of[tenant] >= self._most_each:
            raise _too_many("too many tasks on their way to the log")

    @contextmanager
    def append(self, tenant: str) -> Iterator[None]:
        """While a task is on its way to the log. Raises `Problem`."""
        if self.appending >= self._most:
            raise overloaded("The log takes less than is sent")
        if self._appending_of[tenant] >= self._most_each:
            raise _too_many("too many tasks on their way to the log")
        self.appending += 1
        self._appending_of[tenant] += 1
        try:
            yield
        finally:
            self.appending -= 1
            _give_back(self._appending_of, tenant, 1)

    def hold(self, tenant: str, size: int) -> None:
        """So many bytes more are in memory, until they are let `go`. Raises `Problem`: they are not, then."""
        if self.held + size > self._bodies:
            raise overloaded("The memory for tasks that are being received is used up")
        if self._held_of[tenant] + size > self._bodies_each:
            raise _too_many("too many bytes that are being received")
        self.held += size
        self._held_of[tenant] += size

    def go(self, tenant: str, size: int) -> None:
        self.held -= size
        _give_back(self._held_of, tenant, size)


def _give_back(of: Counter[str], tenant: str, size: int) -> None:
    of[tenant] -= size
    if not of[tenant]:
        del of[tenant]


def overloaded(why: str) -> Problem:
    return Problem(
        "overloaded", f"{why}; try again in a moment.", headers={"retry-after": str(RETRY_SECONDS)}
    )


def _too_many(what: str) -> Problem:
    detail = f"The tenant has {what}; try again in a moment."
    return Problem("too_many_requests", detail, headers={"retry-after": str(RETRY_SECONDS)})
