"""Who a request is from, and what it may do."""

import enum
from collections.abc import Collection
from typing import Final, NamedTuple

from mayfly.task import DEFAULT_TENANT


class Scope(enum.StrEnum):
    """What a credential is good for."""

    SUBMIT = "submit"
    """Post tasks, run them again."""
    READ = "read"
    """See tasks, results, logs, functions."""
    CANCEL = "cancel"
    """End tasks, purge dead letters."""
    ADMIN = "admin"
    """All of it, and keys, users, secrets, webhooks, the audit log."""


class Principal(NamedTuple):
    """One who was recognised. `subject` says who, as it stands in the audit log: `key:...`, `user:...`,
    `token:...`, or `anyone` where nobody is asked."""

    subject: str
    tenant: str
    scopes: frozenset[Scope]
    since: int = 0
    """When its token was issued, seconds since 1970; 0 where it has none, or that is not known."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def is_operator(self) -> bool:
        """Whether it may do what concerns every tenant."""
        return self.tenant == DEFAULT_TENANT and Scope.ADMIN in self.scopes


ANYONE: Final = Principal("anyone", DEFAULT_TENANT, frozenset(Scope))
"""Who asks where nobody is asked who they are."""


def scopes_of(names: Collection[str]) -> frozenset[Scope]:
    """Raises `ValueError`, which says what scopes there are."""
    unknown = sorted(set(names) - {scope.value for scope in Scope})
    if unknown:
        there = ", ".join(scope.value for scope in Scope)
        raise ValueError(f"{unknown[0]!r} is no scope; there are {there}")
    return frozenset(Scope(name) for name in names)
