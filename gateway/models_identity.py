"""The shapes of logins and keys that go over HTTP, and the names of tenants and scopes, as the document has
them: that one fits is checked where it is read.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, StringConstraints, WithJsonSchema

from gateway.models import _NO_CONTROLS, Time, Timestamp, _Model
from gateway.models_limits import Allowance
from mayfly.identity.principal import Scope
from mayfly.task import REDRIVE, TENANT

TENANT_SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": f"^{TENANT.pattern}$",
    "not": {"const": REDRIVE},
}
TenantName = Annotated[str, WithJsonSchema(TENANT_SCHEMA)]
ScopeName = Annotated[str, WithJsonSchema({"type": "string", "enum": [scope.value for scope in Scope]})]


class LoginRequest(_Model):
    username: str = Field(min_length=1, max_length=63)
    password: str = Field(min_length=1, max_length=256)


class Login(_Model):
    token: str = Field(description="A JWT, to be sent as `Authorization: Bearer ...`.")
    token_type: Literal["Bearer"]
    expires_in_seconds: int


class KeyRequest(_Model):
    """An API key to be made."""

    name: Annotated[str, StringConstraints(max_length=200, pattern=_NO_CONTROLS)] | None = Field(
        None, description="A label for people."
    )
    scopes: list[ScopeName] = Field(
        min_length=1, max_length=4, description="What it is good for: submit, read, cancel, admin."
    )
    expires_at: Time | None = Field(None, description="RFC 3339; never if left out.")
    tenant: TenantName | None = Field(
        None, description="Whose it is: for admins of the default tenant only, who else makes only its own."
    )
    allowance: Allowance | None = Field(
        None,
        description="What it may ask for, in place of what its tenant may: for admins of the default one.",
    )


class Key(_Model):
    """An API key, without its secret."""

    id: str
    name: str
    tenant: str
    scopes: list[Literal["submit", "read", "cancel", "admin"]]
    created_at: Timestamp
    created_by: str
    expires_at: Timestamp | None = None
    revoked_at: Timestamp | None = None
    last_used_at: Timestamp | None = Field(
        None, description="As far as it is known: to half a minute, and not from before Redis was flushed."
    )
    allowance: Allowance | None = None


class NewKey(Key):
    key: str = Field(description="The whole key, which is shown this once.")
    aws_secret_access_key: str = Field(
        description="For AWS's clients, whose access key id is `id`: the SHA-256 of the key's secret."
    )


class KeyList(_Model):
    keys: list[Key]


MODELS: Final[tuple[type[BaseModel], ...]] = (LoginRequest, Login, KeyRequest, NewKey, KeyList)
