"""Tenants: what each may ask for. A tenant needs no record to be one: keys and tokens name it."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway import audit, models_limits
from gateway.errors import Problem
from gateway.models_limits import allowance_of, allowance_view
from gateway.parameters import parameters
from gateway.ports import Control
from gateway.responses import json_response
from gateway.submissions import checked, json_body
from mayfly.identity.keys import Allowance
from mayfly.task import is_tenant


class Tenants:
    """The handlers of /tenants: for operators."""

    def __init__(self, control: Control, defaults: Allowance) -> None:
        self._control = control
        self._defaults = defaults

    async def list(self, request: Request) -> Response:
        parameters(request)
        tenants = [tenant_view(*one) for one in sorted(self._control.book.tenants.items())]
        return json_response({"tenants": tenants, "defaults": allowance_view(self._defaults)})

    async def put(self, request: Request) -> Response:
        """In place of what was set before; with nothing, what holds for all holds for it as well."""
        parameters(request)
        tenant = request.path_params["tenant"]
        if not is_tenant(tenant):
            detail = "tenant: a-z, 0-9 and hyphens, at most 63 of them, and no hyphen first."
            raise Problem("invalid_body", detail, field="tenant")
        # Nothing at all is more likely a mistake than the wish to lift every limit.
        body = await json_body(request, needed=True)
        allowance = allowance_of(checked(models_limits.Allowance, body, "invalid_body"))
        await audit.record(request, "tenant.set", tenant)
        await self._control.put("tenant", tenant, allowance if allowance != Allowance() else None)
        return json_response(tenant_view(tenant, allowance))


def tenant_view(tenant: str, allowance: Allowance) -> dict[str, Any]:
    return {"tenant": tenant, "allowance": allowance_view(allowance)}
