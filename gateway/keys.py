"""API keys: made, listed, revoked. The secret is shown once, when a key is made."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway import audit
from gateway.access import principal_of
from gateway.errors import Problem
from gateway.models_identity import KeyRequest
from gateway.models_limits import allowance_of, allowance_view
from gateway.parameters import parameters
from gateway.ports import Control
from gateway.responses import json_response
from gateway.submissions import checked, json_body
from gateway.times import milliseconds, now
from gateway.uses import Uses
from mayfly.identity.keys import ApiKey, Credential, new_credential
from mayfly.identity.principal import Principal, scopes_of
from mayfly.task import is_tenant
from mayfly.view import timestamp


class Keys:
    """The handlers of /keys. An admin sees to the keys of its tenant, an operator to everybody's."""

    def __init__(self, control: Control, uses: Uses) -> None:
        self._control = control
        self._uses = uses

    async def create(self, request: Request) -> Response:
        parameters(request)
        by = principal_of(request)
        wanted = checked(KeyRequest, await json_body(request), "invalid_body")
        try:
            scopes = scopes_of(wanted.scopes)
        except ValueError as error:
            raise Problem("invalid_body", f"scopes: {error}.", field="scopes") from None
        if wanted.allowance is not None and not by.is_operator:
            raise Problem("forbidden", "Only admins of the default tenant say what a key may ask for.")
        credential = new_credential()
        key = ApiKey(
            id=credential.id,
            sha256=credential.sha256,
            tenant=tenant_for(by, wanted.tenant),
            scopes=tuple(sorted(scopes)),
            created_at=now(),
            name=wanted.name or "",
            created_by=by.subject,
            expires_at=milliseconds(wanted.expires_at) if wanted.expires_at else None,
            allowance=allowance_of(wanted.allowance),
        )
        await audit.record(request, "key.create", key.id, tenant=key.tenant)
        await self._control.put("key", key.id, key)
        return json_response(key_view(key) | _secrets(key, credential), 201)

    async def list(self, request: Request) -> Response:
        parameters(request)
        by = principal_of(request)
        keys = [key for key in self._control.book.keys.values() if by.is_operator or key.tenant == by.tenant]
        keys.sort(key=lambda key: (key.created_at, key.id))
        used = await self._uses.last([key.id for key in keys])
        return json_response({"keys": [key_view(key, used.get(key.id)) for key in keys]})

    async def revoke(self, request: Request) -> Response:
        """From the answer on no gateway takes it for longer than it is behind in reading, which is little."""
        parameters(request)
        by, key_id = principal_of(request), request.path_params["key_id"]
        key = self._control.book.keys.get(key_id)
        if key is None or not (by.is_operator or key.tenant == by.tenant):
            raise Problem("unknown_key", f"There is no key {key_id[:64]!r}.")
        if key.revoked_at is None:
            await audit.record(request, "key.revoke", key.id, tenant=key.tenant)
            key = msgspec.structs.replace(key, revoked_at=now())
            await self._control.put("key", key.id, key)
        return json_response(key_view(key))


def _secrets(key: ApiKey, credential: Credential) -> dict[str, str]:
    """Shown this once: the key, and what AWS's clients sign with, which is what is stored of it."""
    return {"key": str(credential), "awsSecretAccessKey": key.sha256}


def tenant_for(by: Principal, wanted: str | None) -> str:
    """Whose a new thing is: the maker's own tenant's, or the one that an operator names. Raises `Problem`."""
    if wanted is None or wanted == by.tenant:
        return by.tenant
    if not by.is_operator:
        raise Problem("forbidden", "Only admins of the default tenant make things for another one.")
    if not is_tenant(wanted):
        detail = "tenant: a-z, 0-9 and hyphens, at most 63 of them, no hyphen first, and not redrive."
        raise Problem("invalid_body", detail, field="tenant")
    return wanted


def key_view(key: ApiKey, used_at: int | None = None) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "createdAt": timestamp(key.created_at),
        "createdBy": key.created_by,
    }
    if allowance := allowance_view(key.allowance):
        view["allowance"] = allowance
    if key.expires_at is not None:
        view["expiresAt"] = timestamp(key.expires_at)
    if key.revoked_at is not None:
        view["revokedAt"] = timestamp(key.revoked_at)
    if used_at is not None:
        view["lastUsedAt"] = timestamp(used_at)
    return view
