"""The secrets that functions name: those that are stored, and in the tenant `default` the operator's own."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, Protocol

from dispatcher.claims import insist
from mayfly.errors import LogUnavailable, SecretsUnavailable
from mayfly.identity.vault import Context, Sealed, Vault
from mayfly.task import DEFAULT_TENANT

REMEMBERED: Final = 1000
"""Secrets that are kept open: to open one again may be a call to KMS."""
KAFKA_AWAY: Final = "Kafka is away: whether there is a secret is not known, the attempt waits"
KMS_AWAY: Final = "KMS does not open a secret: the attempt waits"


class Book(Protocol):
    """By `<tenant>/<name>`."""

    @property
    def secrets(self) -> Mapping[str, Sealed]: ...


class Stored(Protocol):
    """The secrets as gateways have written them."""

    @property
    def book(self) -> Book: ...
    async def reach_end(self) -> None:
        """Returns when all was read that is there now. Raises `LogUnavailable`."""


class Secrets:
    """`operator` is the environment's, by name. Without a vault nothing that is stored can be opened, and it
    is not looked at."""

    def __init__(
        self, operator: Mapping[str, str], stored: Stored | None = None, vault: Vault | None = None
    ) -> None:
        self._operator = operator
        self._stored = stored if vault is not None else None
        self._vault = vault
        self._open: OrderedDict[Context, tuple[Sealed, str]] = OrderedDict()

    async def find(self, tenant: str, name: str, *, otherwise: str | None = None) -> str | None:
        """A secret's value: the stored one, else the operator's, else what is given here; None if there is
        none at all.

        Waits while it cannot be known. Raises `mayfly.identity.vault.Unopened`.
        """
        if tenant == DEFAULT_TENANT:
            otherwise = self._operator.get(name, otherwise)
        if self._stored is None:
            return otherwise
        context = Context(tenant, name)
        sealed = self._stored.book.secrets.get(f"{tenant}/{name}")
        if sealed is None and otherwise is None:
            # It may have been set a moment ago, and not been read here.
            await insist(self._stored.reach_end, LogUnavailable, KAFKA_AWAY)
            sealed = self._stored.book.secrets.get(f"{tenant}/{name}")
        if sealed is None:
            self._open.pop(context, None)
            return otherwise
        return await self._opened(context, sealed)

    async def _opened(self, context: Context, sealed: Sealed) -> str:
        known = self._open.get(context)
        # The book has one object for as long as the record is the same.
        if known is not None and known[0] is sealed:
            self._open.move_to_end(context)
            return known[1]
        vault = self._vault
        assert vault is not None
        value = await insist(
            lambda: asyncio.to_thread(vault.open, context, sealed), SecretsUnavailable, KMS_AWAY
        )
        self._open[context] = sealed, value
        while len(self._open) > REMEMBERED:
            self._open.popitem(last=False)
        return value

    def missing(self, tenant: str, name: str) -> str:
        """What to do about one that there is not."""
        own = tenant == DEFAULT_TENANT
        whose = f"secret {name}" if own else f"secret {name} of the tenant {tenant}"
        given = f"give the dispatcher MAYFLY_SECRET_{name}"
        if self._stored is None:
            keyless = (
                "what `mayfly secrets set` has stored it does not read, for it has no MAYFLY_SECRETS_KEY"
            )
            return (
                f"{whose} is not set: {given}; {keyless}" if own else f"{whose} is not known here: {keyless}"
            )
        return f"{whose} is not set: `mayfly secrets set {name}` does that" + (f", or {given}" if own else "")
