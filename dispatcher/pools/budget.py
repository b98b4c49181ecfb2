"""Whose sandboxes make room for another's: the least recently used function's. Pure."""

from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Holding(NamedTuple, Generic[T]):
    """What is kept ready for the tasks of one tenant that run on one version of a function."""

    of: T
    used_at: float
    """When a task took one last."""
    spare: int
    """How many of them it may be made to give up."""
    mib: int
    """Of each."""


def evictions(holdings: Iterable[Holding[T]], needed_mib: int) -> list[Holding[T]] | None:
    """Whose to give up, one by one, until there is room for so much more; None if that is not enough."""
    victims: list[Holding[T]] = []
    for holding in sorted(holdings, key=lambda one: one.used_at):
        for _ in range(holding.spare):
            if needed_mib <= 0:
                return victims
            victims.append(holding)
            needed_mib -= holding.mib
    return victims if needed_mib <= 0 else None
