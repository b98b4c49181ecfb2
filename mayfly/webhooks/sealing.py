"""What webhooks are signed with, at rest: encrypted where there is a master key. Pure but for randomness."""

from collections.abc import Callable
from typing import Final

import msgspec

from mayfly.identity.vault import Context, Sealed, Unopened, Vault
from mayfly.webhooks.signing import WebhookSecret

NAME: Final = "webhook-secret"
"""In what a ciphertext is bound to. No secret that a function names has a hyphen."""


def context(tenant: str) -> Context:
    return Context(tenant, NAME)


def sealed(vault: Vault, tenant: str, record: WebhookSecret) -> WebhookSecret:
    """The record with nothing in clear. Raises `SecretsUnavailable`."""

    def seal(secret: str | Sealed) -> Sealed:
        if isinstance(secret, Sealed):
            return secret
        return vault.seal(context(tenant), secret, at=record.created_at, by=record.created_by)

    return _each(record, seal)


def anew(vault: Vault, tenant: str, record: WebhookSecret, now: int) -> WebhookSecret:
    """The record with all that signs under the current master key; the very same one if it is already.

    Raises `Unopened`, and `SecretsUnavailable`.
    """

    def is_current(secret: str | Sealed) -> bool:
        return isinstance(secret, Sealed) and vault.is_current(secret)

    def renew(secret: str | Sealed) -> str | Sealed:
        if isinstance(secret, str) or vault.is_current(secret):
            return secret
        return vault.rotated(context(tenant), secret)

    if all(map(is_current, record.current(now))):
        return record
    # One that signs no more may be under a key that there is no more.
    left = tuple(one for one in record.former if one.until > now)
    return sealed(vault, tenant, _each(msgspec.structs.replace(record, former=left), renew))


def opened(vault: Vault | None, tenant: str, secret: str | Sealed) -> str:
    """Raises `Unopened`, and `SecretsUnavailable`."""
    if isinstance(secret, str):
        return secret
    if vault is None:
        raise Unopened(
            "it is encrypted, and no key is set here: MAYFLY_SECRETS_KEY or MAYFLY_SECRETS_KMS_KEY is to be "
            "that of the gateways"
        )
    return vault.open(context(tenant), secret)


def _each(record: WebhookSecret, change: Callable[[str | Sealed], str | Sealed]) -> WebhookSecret:
    former = tuple(msgspec.structs.replace(one, secret=change(one.secret)) for one in record.former)
    return msgspec.structs.replace(record, secret=change(record.secret), former=former)
