"""Secrets: setting, listing, removing, encrypting anew, and what webhooks are signed with. No I/O."""

from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import quote

import msgspec

from mayfly.client.wire import Call, Request, decode, post, send

ROTATION_SECONDS: Final = 300.0
"""How long it may take to encrypt all that there are anew."""


class Secret(msgspec.Struct, frozen=True, rename="camel"):
    """A secret, of which nobody is shown the value. `key_id` says under which key it is encrypted."""

    name: str
    updated_at: datetime
    updated_by: str
    key_id: str


class Secrets(msgspec.Struct, frozen=True):
    secrets: tuple[Secret, ...]


class RotationFailure(msgspec.Struct, frozen=True):
    """A secret that stays under its old key."""

    tenant: str
    name: str
    detail: str


class Rotation(msgspec.Struct, frozen=True):
    """How many secrets were encrypted anew, and those that could not be."""

    rotated: int
    failed: tuple[RotationFailure, ...] = ()


class WebhookSecret(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A secret that was made just now: `secret` is what receivers check with, and is shown this once. Times
    are UTC."""

    secret: str
    tenant: str
    created_at: datetime
    former_signs_until: datetime | None = None
    """Until then the one before signs beside it; None where there was none."""

    def __repr__(self) -> str:
        return f"<WebhookSecret of {self.tenant}>"


def listed() -> Call[tuple[Secret, ...]]:
    answer = yield from send(Request("GET", "/secrets"))
    return decode(answer.body, Secrets).secrets


def put(name: str, value: str | bytes) -> Call[Secret]:
    content = value.encode() if isinstance(value, str) else value
    headers = {"content-type": "application/octet-stream"}
    request = Request("PUT", _path(name), headers=headers, content=content)
    # To set the same twice is to set it once.
    answer = yield from send(request, again=True)
    return decode(answer.body, Secret)


def remove(name: str) -> Call[Secret]:
    answer = yield from send(Request("DELETE", _path(name)))
    return decode(answer.body, Secret)


def rotate() -> Call[Rotation]:
    # Whoever asks again goes on where the first one was.
    request = replace(post("/secrets/rotate"), wait=ROTATION_SECONDS)
    answer = yield from send(request, again=True)
    return decode(answer.body, Rotation)


def renew_webhook_secret() -> Call[WebhookSecret]:
    # Asked once: the second time there would be another one.
    answer = yield from send(Request("PUT", "/webhooks/secret"), again=False)
    return decode(answer.body, WebhookSecret)


def _path(name: str) -> str:
    return f"/secrets/{quote(name, safe='')}"
