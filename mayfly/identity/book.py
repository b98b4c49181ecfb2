"""The book: keys, users, tenants, secrets and what webhooks are signed with, as the control topic has them.
Pure: what each record makes of it.

A record's key is `<kind>/<name>`, its value the thing as JSON; a record without a value takes it away.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from mayfly.identity.keys import Allowance, ApiKey
from mayfly.identity.users import User
from mayfly.identity.vault import Sealed
from mayfly.webhooks.signing import WebhookSecret

log = logging.getLogger(__name__)

_DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "key": msgspec.json.Decoder(ApiKey).decode,
    "user": msgspec.json.Decoder(User).decode,
    "tenant": msgspec.json.Decoder(Allowance).decode,
    "secret": msgspec.json.Decoder(Sealed).decode,
    "webhook": msgspec.json.Decoder(WebhookSecret).decode,
}


def place(kind: str, name: str) -> str:
    """The key of a record."""
    return f"{kind}/{name}"


class Book:
    """Readers on other threads see whole mappings: each is replaced, and never changed."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.users: dict[str, User] = {}
        self.tenants: dict[str, Allowance] = {}
        self.secrets: dict[str, Sealed] = {}
        """By `<tenant>/<name>`."""
        self.webhooks: dict[str, WebhookSecret] = {}
        """By tenant, what their webhooks are signed with."""

    def take(self, place: str, value: bytes | None) -> None:
        kind, _, name = place.partition("/")
        if (decode := _DECODERS.get(kind)) is None:
            return
        there: dict[str, Any] = dict(getattr(self, f"{kind}s"))
        if value is None:
            there.pop(name, None)
        else:
            try:
                there[name] = decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError):
                # What cannot be read opens nothing: whatever was there before is of no use any more either.
                there.pop(name, None)
                log.warning("the control topic has a record that is none", extra={"record": place})
        setattr(self, f"{kind}s", there)
