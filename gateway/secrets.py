"""Secrets: set, listed by name, removed. Nobody is ever shown a value again."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway import audit
from gateway.access import principal_of
from gateway.bodies import read_body
from gateway.errors import Problem
from gateway.parameters import parameters
from gateway.ports import Control
from gateway.responses import json_response
from gateway.times import now
from mayfly.identity.vault import MOST_BYTES, Context, Sealed, Unopened, Vault
from mayfly.view import timestamp
from mayfly.webhooks import sealing

MOST_SECRETS: Final = 1000
"""Of one tenant: every gateway and dispatcher has all of them in memory."""
NAME: Final = re.compile(r"(?!MAYFLY_)[A-Za-z_][A-Za-z0-9_]{0,99}")
"""What function.toml takes for a secret's name."""


class _Rotation(NamedTuple):
    """Of a record of the control topic, which `anew` returns as it is where it has nothing to do."""

    kind: str
    place: str
    context: Context
    there: msgspec.Struct
    anew: Callable[[], msgspec.Struct]


class Secrets:
    """The handlers of /secrets. Each is of the admin's own tenant."""

    def __init__(self, control: Control, vault: Vault | None) -> None:
        self._control = control
        self._vault = vault

    async def set(self, request: Request) -> Response:
        """The body is the value. Dispatchers have it within two seconds."""
        parameters(request)
        by, vault = principal_of(request), self._need_vault()
        context = Context(by.tenant, _name(request))
        value = _text(await read_body(request, MOST_BYTES))
        if self._find(context) is None and len(self._own(by.tenant)) >= MOST_SECRETS:
            raise Problem("too_many_secrets", f"There are {MOST_SECRETS} secrets, which is the most.")
        sealed = await asyncio.to_thread(vault.seal, context, value, at=now(), by=by.subject)
        await audit.record(request, "secret.set", context.name)
        await self._control.put("secret", _place(context), sealed)
        return json_response(_view(context.name, sealed))

    async def list(self, request: Request) -> Response:
        parameters(request)
        own = self._own(principal_of(request).tenant)
        return json_response({"secrets": [_view(name, own[name]) for name in sorted(own)]})

    async def remove(self, request: Request) -> Response:
        parameters(request)
        context = Context(principal_of(request).tenant, request.path_params["name"])
        if (sealed := self._find(context)) is None:
            raise Problem("unknown_secret", f"There is no secret {context.name[:100]!r}.")
        await audit.record(request, "secret.remove", context.name)
        await self._control.put("secret", _place(context), None)
        return json_response(_view(context.name, sealed))

    async def rotate(self, request: Request) -> Response:
        """Encrypt anew, under the key that is set now, what is under another one, or none; of every
        tenant."""
        parameters(request)
        vault = self._need_vault()
        await audit.record(request, "secret.rotate")
        rotated = 0
        failed: list[dict[str, str]] = []
        for kind, place, context, there, anew in self._rotations(vault):
            try:
                fresh = await asyncio.to_thread(anew)
            except Unopened as error:
                failed.append({"tenant": context.tenant, "name": context.name, "detail": str(error)})
                continue
            # Set anew, or removed, meanwhile: that is what counts.
            if fresh is not there and self._there(kind).get(place) is there:
                await self._control.put(kind, place, fresh)
                rotated += 1
        return json_response({"rotated": rotated, "failed": failed})

    def _rotations(self, vault: Vault) -> Iterator[_Rotation]:
        for place, one in sorted(self._there("secret").items()):
            context = Context(*place.split("/", 1))
            yield _Rotation("secret", place, context, one, partial(_anew, vault, context, one))
        for tenant, one in sorted(self._there("webhook").items()):
            anew = partial(sealing.anew, vault, tenant, one, now())
            yield _Rotation("webhook", tenant, sealing.context(tenant), one, anew)

    def _there(self, kind: str) -> Mapping[str, Any]:
        book = self._control.book
        return book.secrets if kind == "secret" else book.webhooks

    def _need_vault(self) -> Vault:
        if self._vault is None:
            detail = (
                "No key is set, so no secret can be stored. Give gateways and dispatchers the same "
                "MAYFLY_SECRETS_KEY, which `mayfly secrets generate-key` prints, or MAYFLY_SECRETS_KMS_KEY."
            )
            raise Problem("no_secrets_key", detail)
        return self._vault

    def _find(self, context: Context) -> Sealed | None:
        return self._control.book.secrets.get(_place(context))

    def _own(self, tenant: str) -> dict[str, Sealed]:
        prefix = f"{tenant}/"
        secrets = self._control.book.secrets.items()
        return {place.removeprefix(prefix): one for place, one in secrets if place.startswith(prefix)}


def _anew(vault: Vault, context: Context, sealed: Sealed) -> Sealed:
    return sealed if vault.is_current(sealed) else vault.rotated(context, sealed)


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if not NAME.fullmatch(name):
        detail = (
            f"{name[:100]!r} is no secret's name: letters, digits and _, at most 100 of them, no digit "
            "first, and not MAYFLY_ at the beginning."
        )
        raise Problem("invalid_secret", detail, field="name")
    return name


def _text(body: bytes) -> str:
    """The value, which is to fit an environment variable."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        detail = "The value is not UTF-8; what is not text can be set in base64."
        raise Problem("invalid_secret", detail, field="value") from None
    if not text or "\0" in text:
        what = "has a NUL" if text else "is empty"
        raise Problem("invalid_secret", f"The value {what}, which no variable can hold.", field="value")
    return text


def _place(context: Context) -> str:
    return f"{context.tenant}/{context.name}"


def _view(name: str, sealed: Sealed) -> dict[str, Any]:
    return {
        "name": name,
        "updatedAt": timestamp(sealed.updated_at),
        "updatedBy": sealed.updated_by,
        "keyId": sealed.key_id,
    }
