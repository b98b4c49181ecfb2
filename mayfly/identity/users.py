"""Users: a name and a password, for people. `POST /login` gives a token for them."""

import re
from typing import Final

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mayfly.identity.principal import Principal, Scope

USER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}")
SHORTEST_PASSWORD: Final = 12
LONGEST_PASSWORD: Final = 256
_HASHER: Final = PasswordHasher()
"""argon2id, with the library's parameters: RFC 9106's second recommendation."""
_NOBODY: Final = (
    "$argon2id$v=19$m=65536,t=3,p=4$mx9D1pOpISaxEJE+Cz6mkw$TGMrdfez8EKd+L2BD4J3nzpPd1bdv5A5K3/IdlsiVac"
)
"""What a name that nobody has is checked against: the answer takes as long as for one that somebody has. Not
made anew at each start, which would take 0.2 s."""


class User(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A user as it is stored. Times are milliseconds since 1970, UTC."""

    name: str
    password: str
    """argon2id, with its salt and parameters."""
    tenant: str
    scopes: tuple[Scope, ...]
    created_at: int
    created_by: str = ""
    disabled_at: int | None = None
    password_at: int = 0
    """When the password was set: tokens from before that are of no use."""

    @property
    def principal(self) -> Principal:
        return Principal(f"user:{self.name}", self.tenant, frozenset(self.scopes))


def hash_password(password: str) -> str:
    """Takes some 50 ms of a core, on purpose. Raises `ValueError` for a password that is none."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ValueError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return _HASHER.hash(password)


def fits(user: User | None, password: str) -> bool:
    """As slow as `hash_password`, whether there is such a user or not."""
    try:
        _HASHER.verify(user.password if user else _NOBODY, password[:LONGEST_PASSWORD])
    except (VerificationError, InvalidHashError):
        return False
    return user is not None and user.disabled_at is None
