"""What tenants' webhooks are signed with: opened off the event loop, for KMS may take its time, and once."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import structlog

from mayfly.identity.vault import Unopened, Vault
from mayfly.webhooks.sealing import opened
from mayfly.webhooks.signing import WebhookSecret

log = structlog.get_logger(__name__)


class Book(Protocol):
    """By tenant."""

    @property
    def webhooks(self) -> Mapping[str, WebhookSecret]: ...


class _Open(NamedTuple):
    """It signs until then, milliseconds since 1970; the current one, with None, for as long as it is that."""

    secret: str
    until: int | None


class WebhookSecrets:
    """`now` is in milliseconds since 1970."""

    def __init__(self, book: Book, vault: Vault | None, *, now: Callable[[], int]) -> None:
        self._book = book
        self._vault = vault
        self._now = now
        self._openings: dict[str, tuple[WebhookSecret, asyncio.Task[list[_Open]]]] = {}

    async def of(self, tenant: str) -> list[str]:
        """Those to sign with, the current one first; none where the tenant has none.

        Raises `mayfly.identity.vault.Unopened`, and `SecretsUnavailable`.
        """
        record = self._book.webhooks.get(tenant)
        if record is None:
            self._openings.pop(tenant, None)
            return []
        known = self._openings.get(tenant)
        # The book has one object for as long as the record is the same.
        if known is None or known[0] is not record or _failed(known[1]):
            opening = asyncio.create_task(asyncio.to_thread(self._open, tenant, record))
            known = self._openings[tenant] = record, opening
        # All that wait for it ask once, and one that is given up does not take it from the others.
        found = await asyncio.shield(known[1])
        now = self._now()
        return [one.secret for one in found if one.until is None or one.until > now]

    def _open(self, tenant: str, record: WebhookSecret) -> list[_Open]:
        found = [_Open(opened(self._vault, tenant, record.secret), None)]
        now = self._now()
        for one in record.former:
            if one.until <= now:
                continue
            try:
                found.append(_Open(opened(self._vault, tenant, one.secret), one.until))
            except Unopened as error:
                # Whoever has the new secret is to get what is signed with it.
                log.warning("a webhook secret of before signs no more", tenant=tenant, reason=str(error))
        return found


def _failed(opening: "asyncio.Task[list[_Open]]") -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)
