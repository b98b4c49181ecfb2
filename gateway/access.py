"""Who asks, and whether they may: by an API key or a token in the Authorization header.

Where nobody is asked (`MAYFLY_AUTH` is off, which is for loopback alone), everybody is `ANYONE`.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope as Asgi

from gateway.errors import Problem
from gateway.ports import Book
from gateway.times import now
from mayfly.identity import keys
from mayfly.identity.keys import ApiKey, Credential
from mayfly.identity.principal import ANYONE, Principal, Scope
from mayfly.identity.tokens import Tokens
from mayfly.task import DEFAULT_TENANT

Handler = Callable[[Request], Awaitable[Response]]
_PRINCIPAL: Final = "mayfly.principal"
_REFUSALS: Final = frozenset({"unauthenticated", "forbidden"})
_AUTHORIZATION: Final = b"authorization"
_BEARER: Final = "bearer "
_USER: Final = "user:"


class Access:
    """`is_read` says whether the book has been read to its end."""

    def __init__(
        self,
        *,
        required: bool,
        book: Book,
        is_read: Callable[[], bool],
        tokens: Tokens | None,
        admin_key: Credential | None = None,
        on_refused: Callable[[Request, str], None] = lambda request, reason: None,
    ) -> None:
        self.required = required
        self.on_refused = on_refused
        """Told of each request that is turned away for who asks, and why."""
        self._admin_key = admin_key and ApiKey(
            admin_key.id, admin_key.sha256, DEFAULT_TENANT, (Scope.ADMIN,), 0, name="MAYFLY_ADMIN_KEY"
        )
        self._book = book
        self._is_read = is_read
        self._tokens = tokens
        self.used: dict[str, int] = {}
        """When each key was used last here, milliseconds since 1970."""

    def admit(self, scope: Asgi, needs: Scope) -> None:
        """Notes who asks. Raises `Problem` unless that is known, and may do what needs that scope."""
        principal = scope[_PRINCIPAL] = self._principal(scope) if self.required else ANYONE
        if not principal.may(needs):
            has = ", ".join(sorted(principal.scopes)) or "none"
            raise Problem(
                "forbidden",
                f"This needs the scope {needs.value}; the credential has {has}.",
                scope=needs.value,
            )

    def _principal(self, scope: Asgi) -> Principal:
        given = [value for name, value in scope["headers"] if name == _AUTHORIZATION]
        if not given:
            raise unauthenticated("Send a key or a token: Authorization: Bearer ...")
        text = given[0].decode("latin-1")
        if len(given) > 1 or text[: len(_BEARER)].lower() != _BEARER:
            raise unauthenticated("There is to be one Authorization header: Bearer, and a key or a token.")
        credential = text[len(_BEARER) :].strip()
        if (key := keys.parse(credential)) is not None:
            return self._by_key(key)
        if self._tokens is None:
            raise unauthenticated("The credential is no API key, and tokens are not taken here.")
        try:
            principal = self._tokens.check(credential)
        except ValueError as error:
            raise unauthenticated(f"The credential is refused: {error}.") from None
        return self._by_user(principal) if principal.subject.startswith(_USER) else principal

    def _by_key(self, credential: Credential) -> Principal:
        own = self._admin_key
        key = own if own is not None and own.id == credential.id else self._book.keys.get(credential.id)
        if not credential.fits(key) or key is None:
            if not self._is_read():
                raise Problem("catalog_unavailable", "The keys are still being read; try again in a moment.")
            raise unauthenticated("The key is not known.")
        at = now()
        if refusal := key.refusal(at):
            raise unauthenticated(f"The credential is refused: {refusal}.")
        self.used[key.id] = at
        return key.principal

    def _by_user(self, principal: Principal) -> Principal:
        """A user's token is good while the user is, with the password that it was given for."""
        user = self._book.users.get(principal.subject.removeprefix(_USER))
        if user is None and not self._is_read():
            raise Problem("catalog_unavailable", "The users are still being read; try again in a moment.")
        if user is None or user.disabled_at is not None:
            raise unauthenticated("The credential is refused: the user was disabled, or is gone.")
        # A token's time has whole seconds: one of the same second is let pass.
        if principal.since < user.password_at // 1000:
            raise unauthenticated("The credential is refused: the user has another password since.")
        return principal


class Guarded(Route):
    """A route that says what it needs: None is open to everybody."""

    def __init__(
        self, path: str, endpoint: Handler, method: str, needs: Scope | None, access: Access, **options: Any
    ) -> None:
        self.needs = needs

        async def guarded(request: Request) -> Response:
            try:
                if needs is not None:
                    access.admit(request.scope, needs)
                return await endpoint(request)
            except Problem as problem:
                if problem.code in _REFUSALS:
                    access.on_refused(request, problem.detail)
                raise

        super().__init__(path, guarded, methods=[method], name=path, **options)


def principal_of(request: Request) -> Principal:
    """Who asks, on a route that needs a scope."""
    principal: Principal = request.scope[_PRINCIPAL]
    return principal


def known_principal(request: Request) -> Principal | None:
    """Who asks, as far as that is known."""
    principal: Principal | None = request.scope.get(_PRINCIPAL)
    return principal


def for_operators(handler: Handler) -> Handler:
    """What concerns every tenant: whoever else asks is refused."""

    async def guarded(request: Request) -> Response:
        if not principal_of(request).is_operator:
            raise Problem("forbidden", "This is for admins of the default tenant: it concerns every tenant.")
        return await handler(request)

    return guarded


def unauthenticated(detail: str) -> Problem:
    return Problem("unauthenticated", detail, headers={"www-authenticate": 'Bearer realm="mayfly"'})
