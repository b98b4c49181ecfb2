"""API keys: `mf_<id>.<secret>`. What is stored says nothing of the secret.

The secret has 256 random bits, so one SHA-256 of it is as good as a slow hash: there is nothing to guess.
"""

import base64
import hashlib
import hmac
import os
import re
from typing import Final, NamedTuple

import msgspec

from mayfly.identity.principal import Principal, Scope

KEY: Final = re.compile(r"mf_([0-9a-f]{16})\.([A-Za-z0-9_-]{43})")
"""How a key looks: what scanners for leaked secrets can be told."""


class Allowance(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a key, or a tenant, may ask for; None leaves it to the setting."""

    requests_per_second: float | None = None
    waiting_tasks: int | None = None
    running_tasks: int | None = None
    payload_bytes_per_day: int | None = None


class ApiKey(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A key as it is stored. Times are milliseconds since 1970, UTC."""

    id: str
    sha256: str
    """Of the secret, in hex."""
    tenant: str
    scopes: tuple[Scope, ...]
    created_at: int
    name: str = ""
    created_by: str = ""
    expires_at: int | None = None
    revoked_at: int | None = None
    allowance: Allowance = Allowance()

    def refusal(self, now: int) -> str | None:
        """Why it is of no use now, or None."""
        if self.revoked_at is not None:
            return "the key was revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "the key has expired"
        return None

    @property
    def principal(self) -> Principal:
        return Principal(f"key:{self.id}", self.tenant, frozenset(self.scopes))


class Credential(NamedTuple):
    """What a client sends."""

    id: str
    secret: str

    def __str__(self) -> str:
        return f"mf_{self.id}.{self.secret}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def fits(self, key: ApiKey | None) -> bool:
        """In the same time whether or not there is such a key, and wherever it differs."""
        return hmac.compare_digest(self.sha256, key.sha256 if key else "0" * 64)


def new_credential() -> Credential:
    return Credential(os.urandom(8).hex(), base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("="))


def parse(text: str) -> Credential | None:
    """None for what cannot be a key."""
    found = KEY.fullmatch(text)
    return Credential(found[1], found[2]) if found else None
