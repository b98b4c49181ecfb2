"""The shapes of users that go over HTTP."""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from gateway.models import Timestamp, _Model
from gateway.models_identity import ScopeName, TenantName
from mayfly.identity.users import LONGEST_PASSWORD, SHORTEST_PASSWORD, USER_NAME

_PASSWORD = f"{SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters."
Password = Annotated[
    str,
    WithJsonSchema({"type": "string", "minLength": SHORTEST_PASSWORD, "maxLength": LONGEST_PASSWORD}),
]
UserName = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{USER_NAME.pattern}$"})]


class UserRequest(_Model):
    """A user to be made, who logs in by name and password."""

    name: UserName = Field(description=f"A name that nobody has: {USER_NAME.pattern}.")
    password: Password = Field(repr=False, description=_PASSWORD)
    scopes: list[ScopeName] = Field(
        min_length=1, max_length=4, description="What the user may: submit, read, cancel, admin."
    )
    tenant: TenantName | None = Field(
        None, description="Whose it is: for admins of the default tenant only, who else makes only its own."
    )


class PasswordRequest(_Model):
    """A user's new password."""

    password: Password = Field(repr=False, description=_PASSWORD)


class User(_Model):
    """A user, without its password."""

    name: str
    tenant: str
    scopes: list[Literal["submit", "read", "cancel", "admin"]]
    created_at: Timestamp
    created_by: str
    disabled_at: Timestamp | None = None


class UserList(_Model):
    users: list[User]
