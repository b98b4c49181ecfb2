"""What a delivery is signed with, by Standard Webhooks (https://www.standardwebhooks.com). Pure.

A receiver computes HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>` with the secret's bytes, and
looks for it, in Base64 after `v1,`, among the signatures of `webhook-signature`.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable
from typing import Final

import msgspec

from mayfly.identity.vault import Sealed

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
OVERLAP_MS: Final = 86_400_000
"""How long a secret signs beside the one that took its place: a day."""
MOST_FORMER: Final = 4
"""Secrets that sign beside the current one; the oldest one leaves."""


class FormerSecret(msgspec.Struct, frozen=True, rename="camel"):
    """One that was replaced. It signs until then, milliseconds since 1970, UTC."""

    secret: str | Sealed
    until: int


class WebhookSecret(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A tenant's, as it stands in the control topic. Times are milliseconds since 1970, UTC.

    What was written without a master key is in clear: `whsec_` and 32 random bytes in Base64.
    """

    secret: str | Sealed
    created_at: int
    created_by: str = ""
    former: tuple[FormerSecret, ...] = ()
    """The newest first."""

    def __repr__(self) -> str:
        return "WebhookSecret(...)"

    def current(self, now: int) -> list[str | Sealed]:
        """Those to sign with."""
        return [self.secret, *(one.secret for one in self.former if one.until > now)]


def new_secret() -> str:
    return PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()


def rotated(secret: str, before: WebhookSecret | None, now: int, by: str) -> WebhookSecret:
    """A new one, beside which the one before signs for a day."""
    former: tuple[FormerSecret, ...] = ()
    if before is not None:
        left = tuple(one for one in before.former if one.until > now)
        former = (FormerSecret(before.secret, now + OVERLAP_MS), *left)[:MOST_FORMER]
    return WebhookSecret(secret, now, by, former)


def signatures(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`; `timestamp` is in seconds since 1970."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets)


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
