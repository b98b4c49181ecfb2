"""Keys, users, tenants and logging in: what the client asks and how it reads the answers. Without any I/O."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypedDict, Unpack
from urllib.parse import quote

import msgspec

from mayfly.client.wire import Call, Request, decode, given, post, send, timestamp


class Key(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An API key, without its secret. Times are UTC."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    name: str = ""
    created_at: datetime | None = None
    created_by: str = ""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    """About when: None where that is not known, or the key was never used."""


class NewKey(Key, frozen=True, rename="camel", omit_defaults=True):
    """An API key that was made just now: `key` is what to send, which is shown this once."""

    key: str = ""

    def __repr__(self) -> str:
        return f"<NewKey {self.id}>"


class User(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Somebody who can log in. Times are UTC."""

    name: str
    tenant: str
    scopes: tuple[str, ...]
    created_at: datetime | None = None
    created_by: str = ""
    disabled_at: datetime | None = None


class Token(msgspec.Struct, frozen=True, rename="camel"):
    """What logging in gives: `token` is good for `expires_in_seconds`."""

    token: str
    expires_in_seconds: int

    def __repr__(self) -> str:
        return f"<Token for {self.expires_in_seconds} s>"


class Allowance(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What may be asked for; None is what holds for all."""

    requests_per_second: float | None = None
    waiting_tasks: int | None = None
    running_tasks: int | None = None
    payload_bytes_per_day: int | None = None


class Tenant(msgspec.Struct, frozen=True):
    """A tenant, and what was set for it."""

    tenant: str
    allowance: Allowance = Allowance()


class Tenants(msgspec.Struct, frozen=True):
    """Those that something was set for, and what holds for all others."""

    tenants: tuple[Tenant, ...]
    defaults: Allowance = Allowance()


class Limits(TypedDict, total=False):
    """An `Allowance`, in keywords."""

    requests_per_second: float | None
    waiting_tasks: int | None
    running_tasks: int | None
    payload_bytes_per_day: int | None


class _Keys(msgspec.Struct):
    keys: tuple[Key, ...]


class _Users(msgspec.Struct):
    users: tuple[User, ...]


def login(username: str, password: str) -> Call[Token]:
    # Asked once: a wrong password counts, and the gateway's own wait is for whoever typed it.
    answer = yield from send(post("/login", {"username": username, "password": password}), again=False)
    return decode(answer.body, Token)


def create_key(
    scopes: Sequence[str],
    *,
    name: str | None = None,
    expires_at: datetime | None = None,
    tenant: str | None = None,
) -> Call[NewKey]:
    body = given(scopes=list(scopes), name=name, expiresAt=timestamp(expires_at), tenant=tenant)
    answer = yield from send(post("/keys", body))
    return decode(answer.body, NewKey)


def keys() -> Call[tuple[Key, ...]]:
    answer = yield from send(Request("GET", "/keys"))
    return decode(answer.body, _Keys).keys


def revoke_key(key_id: str) -> Call[Key]:
    answer = yield from send(Request("DELETE", f"/keys/{quote(key_id, safe='')}"), again=True)
    return decode(answer.body, Key)


def create_user(name: str, password: str, scopes: Sequence[str], *, tenant: str | None = None) -> Call[User]:
    body = given(name=name, password=password, scopes=list(scopes), tenant=tenant)
    answer = yield from send(post("/users", body))
    return decode(answer.body, User)


def users() -> Call[tuple[User, ...]]:
    answer = yield from send(Request("GET", "/users"))
    return decode(answer.body, _Users).users


def disable_user(name: str) -> Call[User]:
    answer = yield from send(Request("DELETE", _user_path(name)), again=True)
    return decode(answer.body, User)


def set_password(name: str, password: str) -> Call[User]:
    request = post(f"{_user_path(name)}/password", {"password": password}, method="PUT")
    answer = yield from send(request, again=True)
    return decode(answer.body, User)


def tenants() -> Call[Tenants]:
    answer = yield from send(Request("GET", "/tenants"))
    return decode(answer.body, Tenants)


def set_tenant(tenant: str, **limits: Unpack[Limits]) -> Call[Tenant]:
    body = msgspec.to_builtins(Allowance(**limits))
    # To set the same twice is to set it once.
    answer = yield from send(post(f"/tenants/{quote(tenant, safe='')}", body, method="PUT"), again=True)
    return decode(answer.body, Tenant)


def _user_path(name: str) -> str:
    return f"/users/{quote(name, safe='')}"
