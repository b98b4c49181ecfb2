"""What this gateway has under way: beyond it, tasks are refused before anything breaks."""

from types import TracebackType
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
        self._appending_of: dict[str, int] = {}
        self._held_of: dict[str, int] = {}

    def check(self, tenant: str) -> None:
        """Raises `Problem` while there is no room for another task."""
        if self.appending >= self._most:
            raise overloaded("The log takes less than is sent")
        if self.held >= self._bodies:
            raise overloaded("The memory for tasks that are being received is used up")
        if self._appending_of.get(tenant, 0) >= self._most_each:
            raise _too_many("too many tasks on their way to the log")

    def append(self, tenant: str) -> "_Appending":
        """While a task is on its way to the log. Raises `Problem`."""
        if self.appending >= self._most:
            raise overloaded("The log takes less than is sent")
        own = self._appending_of.get(tenant, 0)
        if own >= self._most_each:
            raise _too_many("too many tasks on their way to the log")
        self.appending += 1
        self._appending_of[tenant] = own + 1
        return _Appending(self, tenant)

    def appended(self, tenant: str) -> None:
        """A task has arrived, or will not."""
        self.appending -= 1
        _give_back(self._appending_of, tenant, 1)

    def hold(self, tenant: str, size: int) -> None:
        """So many bytes more are in memory, until they are let `go`. Raises `Problem`: they are not, then."""
        if self.held + size > self._bodies:
            raise overloaded("The memory for tasks that are being received is used up")
        own = self._held_of.get(tenant, 0) + size
        if own > self._bodies_each:
            raise _too_many("too many bytes that are being received")
        self.held += size
        self._held_of[tenant] = own

    def go(self, tenant: str, size: int) -> None:
        if size:
            self.held -= size
            _give_back(self._held_of, tenant, size)


class _Appending:
    """A task on its way. A class, since a generator costs several times as much for every task."""

    __slots__ = ("_load", "_tenant")

    def __init__(self, load: Load, tenant: str) -> None:
        self._load = load
        self._tenant = tenant

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._load.appended(self._tenant)


def _give_back(of: dict[str, int], tenant: str, size: int) -> None:
    if left := of[tenant] - size:
        of[tenant] = left
    else:
        del of[tenant]


def overloaded(why: str) -> Problem:
    return Problem(
        "overloaded", f"{why}; try again in a moment.", headers={"retry-after": str(RETRY_SECONDS)}
    )


def _too_many(what: str) -> Problem:
    detail = f"The tenant has {what}; try again in a moment."
    return Problem("too_many_requests", detail, headers={"retry-after": str(RETRY_SECONDS)})
