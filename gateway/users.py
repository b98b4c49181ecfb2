"""Users: made, listed, disabled, given another password. No answer has anything of a password."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway import audit
from gateway.access import principal_of
from gateway.errors import Problem
from gateway.keys import tenant_for
from gateway.models_users import PasswordRequest, UserRequest
from gateway.parameters import parameters
from gateway.ports import Control
from gateway.responses import json_response
from gateway.submissions import checked, json_body
from gateway.times import now
from mayfly.identity.principal import Principal, scopes_of
from mayfly.identity.users import USER_NAME, User, hash_password
from mayfly.view import timestamp


class Users:
    """The handlers of /users. An admin sees to the users of its tenant, an operator to everybody's.

    `is_read` says whether the book has been read to its end: before that, a name that somebody has may seem
    to be free.
    """

    def __init__(self, control: Control, is_read: Callable[[], bool]) -> None:
        self._control = control
        self._is_read = is_read
        self._writing = asyncio.Lock()
        """From a look into the book to what is written because of it; and one password is hashed at a time,
        since each takes a core, and memory."""

    async def create(self, request: Request) -> Response:
        parameters(request)
        by = principal_of(request)
        wanted = checked(UserRequest, await json_body(request), "invalid_body")
        if not USER_NAME.fullmatch(wanted.name):
            detail = "name: a-z, 0-9 and . _ @ -, at most 63 of them, a letter or a digit first."
            raise Problem("invalid_body", detail, field="name")
        try:
            scopes = scopes_of(wanted.scopes)
        except ValueError as error:
            raise Problem("invalid_body", f"scopes: {error}.", field="scopes") from None
        tenant = tenant_for(by, wanted.tenant)
        async with self._writing:
            self._require_free(wanted.name)
            at = now()
            user = User(
                name=wanted.name,
                password=await _hashed(wanted.password),
                tenant=tenant,
                scopes=tuple(sorted(scopes)),
                created_at=at,
                created_by=by.subject,
                password_at=at,
            )
            await audit.record(request, "user.create", user.name, tenant=tenant)
            # Another gateway may have made the user while the password was hashed.
            self._require_free(wanted.name)
            await self._control.put("user", user.name, user)
        return json_response(user_view(user), 201)

    async def list(self, request: Request) -> Response:
        parameters(request)
        by = principal_of(request)
        self._require_book()
        users = [user for user in self._control.book.users.values() if _sees(by, user)]
        users.sort(key=lambda user: user.name)
        return json_response({"users": [user_view(user) for user in users]})

    async def disable(self, request: Request) -> Response:
        """From the answer on nobody logs in by that name, and its tokens are refused."""
        parameters(request)
        async with self._writing:
            user = self._own(request)
            if user.disabled_at is None:
                await audit.record(request, "user.disable", user.name, tenant=user.tenant)
                user = msgspec.structs.replace(user, disabled_at=now())
                await self._control.put("user", user.name, user)
        return json_response(user_view(user))

    async def set_password(self, request: Request) -> Response:
        """The tokens of the user's former password are refused from then on."""
        parameters(request)
        self._own(request)
        wanted = checked(PasswordRequest, await json_body(request), "invalid_body")
        async with self._writing:
            password = await _hashed(wanted.password)
            own = self._own(request)
            await audit.record(request, "user.password", own.name, tenant=own.tenant)
            # Looked at only now: who was disabled while the password was hashed stays so.
            user = msgspec.structs.replace(self._own(request), password=password, password_at=now())
            await self._control.put("user", user.name, user)
        return json_response(user_view(user))

    def _own(self, request: Request) -> User:
        """The user in the path. Raises `Problem` where there is none that who asks may see."""
        self._require_book()
        name: str = request.path_params["name"]
        user = self._control.book.users.get(name)
        if user is None or not _sees(principal_of(request), user):
            raise Problem("unknown_user", f"There is no user {name[:64]!r}.")
        return user

    def _require_free(self, name: str) -> None:
        """A name is given once, to one tenant, and never again: what is known of it stays true."""
        self._require_book()
        if name in self._control.book.users:
            raise Problem("user_exists", f"The name {name!r} is taken.", field="name")

    def _require_book(self) -> None:
        if not self._is_read():
            raise Problem("catalog_unavailable", "The users are still being read; try again in a moment.")


def user_view(user: User) -> dict[str, Any]:
    view: dict[str, Any] = {
        "name": user.name,
        "tenant": user.tenant,
        "scopes": list(user.scopes),
        "createdAt": timestamp(user.created_at),
        "createdBy": user.created_by,
    }
    if user.disabled_at is not None:
        view["disabledAt"] = timestamp(user.disabled_at)
    return view


def _sees(by: Principal, user: User) -> bool:
    return by.is_operator or user.tenant == by.tenant


async def _hashed(password: str) -> str:
    try:
        return await asyncio.to_thread(hash_password, password)
    except ValueError as error:
        raise Problem("invalid_body", f"password: {error}.", field="password") from None
