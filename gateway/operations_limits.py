"""The operations on what callers may ask for, for the OpenAPI document."""

from gateway.models_identity import TENANT_SCHEMA
from gateway.operations import _BODY, Json, _body, _json, _operation, _path, _problems, _read


def paths() -> Json:
    return {
        "/tenants": {"get": _read("identity", "listTenants", "What tenants may ask for", "TenantList")},
        "/tenants/{tenant}": {
            "put": _operation("identity", "setTenant", "Set what a tenant may ask for")
            | {
                "parameters": [_path("tenant", "The tenant's name.", TENANT_SCHEMA)],
                "requestBody": _body("Allowance", required=True),
                "responses": {
                    "200": _json("It holds", "Tenant"),
                    **_problems(*_BODY, "log_unavailable"),
                },
            },
        },
    }
