"""Who asks, and whether they may: by an API key or a token in the Authorization header.

A browser sets no headers on a WebSocket. There the credential may be a subprotocol, `bearer.<credential>`: a
header all the same, and not the query, which stands in the logs of whatever passes it on, and in histories.

Where nobody is asked (`MAYFLY_AUTH` is off, which is for loopback alone), everybody is `ANYONE`.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, Protocol

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Asgi
from starlette.websockets import WebSocket

from gateway.errors import Problem
from gateway.limits.limits import Limits
from gateway.ports import Book
from gateway.recognised import Recognised
from gateway.scope import values
from gateway.times import now
from mayfly.identity import keys
from mayfly.identity.keys import ApiKey, Credential
from mayfly.identity.principal import ANYONE, Principal, Scope
from mayfly.identity.tokens import Tokens
from mayfly.task import DEFAULT_TENANT

Handler = Callable[[Request], Awaitable[Response]]
SocketHandler = Callable[[WebSocket], Awaitable[None]]
_PRINCIPAL: Final = "mayfly.principal"
_REFUSALS: Final = frozenset({"unauthenticated", "forbidden"})
_ADMITTED: Final = "mayfly.admitted"
_AUTHORIZATION: Final = b"authorization"
_BEARER: Final = "bearer "
_USER: Final = "user:"
_SUBPROTOCOL: Final = "bearer."


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
        on_refused: Callable[[HTTPConnection, str], None] = lambda request, reason: None,
    ) -> None:
        self.required = required
        self.on_refused = on_refused
        """Told of each request that is turned away for who asks, and why."""
        self._admin_key = admin_key and ApiKey(
            admin_key.id, admin_key.sha256, DEFAULT_TENANT, (Scope.ADMIN,), 0, name="MAYFLY_ADMIN_KEY"
        )
        self._book = book
        self._recognised = Recognised(self.find)
        self._is_read = is_read
        self._tokens = tokens
        self.used: dict[str, int] = {}
        """When each key was used last here, milliseconds since 1970."""

    def admit(self, scope: Asgi, needs: Scope) -> Principal:
        """Notes who asks. Raises `Problem` unless that is known, and may do what needs that scope."""
        scope[_ADMITTED] = self, needs
        return self.permitted(scope, self._principal(scope) if self.required else ANYONE, needs)

    async def admit_request(self, request: Request, needs: Scope) -> Principal:
        """The same."""
        return self.admit(request.scope, needs)

    def permitted(self, scope: Asgi, principal: Principal, needs: Scope) -> Principal:
        """Notes that it asks. Raises `Problem` unless it may do what needs that scope."""
        scope[_PRINCIPAL] = principal
        if not principal.may(needs):
            has = ", ".join(sorted(principal.scopes)) or "none"
            raise Problem(
                "forbidden",
                f"This needs the scope {needs.value}; the credential has {has}.",
                scope=needs.value,
            )
        return principal

    def _principal(self, scope: Asgi) -> Principal:
        given = values(scope, _AUTHORIZATION)
        if scope["type"] == "websocket":
            given += _offered(scope)
        if not given:
            raise unauthenticated("Send a key or a token: Authorization: Bearer ...")
        if len(given) == 1 and (known := self._recognised.find(given[0])) is not None:
            return self._good(*known)
        text = given[0].decode("latin-1")
        if len(given) > 1 or text[: len(_BEARER)].lower() != _BEARER:
            raise unauthenticated("There is to be one Authorization header: Bearer, and a key or a token.")
        credential = text[len(_BEARER) :].strip()
        if (key := keys.parse(credential)) is not None:
            return self._by_key(given[0], key)
        if self._tokens is None:
            raise unauthenticated("The credential is no API key, and tokens are not taken here.")
        try:
            principal = self._tokens.check(credential)
        except ValueError as error:
            raise unauthenticated(f"The credential is refused: {error}.") from None
        return self._by_user(principal) if principal.subject.startswith(_USER) else principal

    def _by_key(self, header: bytes, credential: Credential) -> Principal:
        key = self.find(credential.id)
        fits = credential.fits(key)
        principal = self.holder(key if fits else None)
        if key is not None and fits:
            self._recognised.keep(header, key, principal)
        return principal

    def find(self, key_id: str) -> ApiKey | None:
        own = self._admin_key
        return own if own is not None and own.id == key_id else self._book.keys.get(key_id)

    def holder(self, key: ApiKey | None) -> Principal:
        """Who has that key; None is one that is not known. Raises `Problem`, also for a key that is over."""
        if key is None:
            if not self._is_read():
                raise Problem("catalog_unavailable", "The keys are still being read; try again in a moment.")
            raise unauthenticated("The key is not known.")
        return self._good(key, key.principal)

    def _good(self, key: ApiKey, principal: Principal) -> Principal:
        """That one, unless its key is over."""
        at = now()
        if refusal := key.refusal(at):
            raise unauthenticated(f"The credential is refused: {refusal}.")
        self.used[key.id] = at
        return principal

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


class Admission(Protocol):
    """How a route finds out who asks."""

    on_refused: Callable[[HTTPConnection, str], None]

    async def admit_request(self, request: Request, needs: Scope) -> Principal:
        """Raises `Problem` unless who asks is known, and may do what needs that scope."""


class Guarded(Route):
    """A route that says what it needs: None is open to everybody."""

    def __init__(
        self,
        path: str,
        endpoint: Handler,
        method: str,
        needs: Scope | None,
        access: Admission,
        limits: Limits,
    ) -> None:
        self.needs = needs
        super().__init__(path, endpoint, methods=[method], name=path)
        # Starlette's own handles exceptions, as its middleware around all routes does once more.
        if needs is None:
            self.app = _open(endpoint)
        else:
            submits = needs is Scope.SUBMIT and method == "POST"
            self.app = _guarded(endpoint, needs, access, limits, submits=submits)


def _open(endpoint: Handler) -> ASGIApp:
    async def app(scope: Asgi, receive: Receive, send: Send) -> None:
        answer = await endpoint(Request(scope, receive, send))
        await answer(scope, receive, send)

    return app


def _guarded(endpoint: Handler, needs: Scope, access: Admission, limits: Limits, *, submits: bool) -> ASGIApp:
    async def app(scope: Asgi, receive: Receive, send: Send) -> None:
        request, admission, accepted = Request(scope, receive, send), None, False
        try:
            principal = await access.admit_request(request, needs)
            admission = limits.admit(scope, principal, submits=submits)
            answer = await endpoint(request)
            accepted = answer.status_code < HTTPStatus.MULTIPLE_CHOICES
        except Problem as problem:
            _note_refusal(request, access, problem)
            raise
        finally:
            if admission is not None:
                admission.close(accepted=accepted)
        await answer(scope, receive, send)

    return app


class GuardedSocket(WebSocketRoute):
    """The same for a WebSocket. Who is refused gets the problem in place of the handshake's answer."""

    def __init__(
        self, path: str, endpoint: SocketHandler, needs: Scope, access: Access, limits: Limits
    ) -> None:
        self.needs = needs

        async def guarded(socket: WebSocket) -> None:
            try:
                limits.admit(socket.scope, access.admit(socket.scope, needs), submits=False)
                await endpoint(socket)
            except Problem as problem:
                _note_refusal(socket, access, problem)
                raise

        super().__init__(path, guarded, name=path)


def _note_refusal(connection: HTTPConnection, access: Admission, problem: Problem) -> None:
    if problem.code in _REFUSALS:
        access.on_refused(connection, problem.detail)


def _offered(scope: Asgi) -> list[bytes]:
    """The credentials among the subprotocols, as the header would have them."""
    names = [name for name in scope["subprotocols"] if name.lower().startswith(_SUBPROTOCOL)]
    return [f"{_BEARER}{name[len(_SUBPROTOCOL) :]}".encode("latin-1", "replace") for name in names]


def principal_of(connection: HTTPConnection) -> Principal:
    """Who asks, on a route that needs a scope."""
    principal: Principal = connection.scope[_PRINCIPAL]
    return principal


def known_principal(connection: HTTPConnection) -> Principal | None:
    """Who asks, as far as that is known."""
    principal: Principal | None = connection.scope.get(_PRINCIPAL)
    return principal


def still_admitted(connection: HTTPConnection) -> bool:
    """Whether who asked would be let in now: a stream may go on for longer than a credential is good."""
    access, needs = connection.scope[_ADMITTED]
    try:
        access.admit(connection.scope, needs)
    except Problem:
        return False
    return True


def for_operators(handler: Handler) -> Handler:
    """What concerns every tenant: whoever else asks is refused."""

    async def guarded(request: Request) -> Response:
        if not principal_of(request).is_operator:
            raise Problem("forbidden", "This is for admins of the default tenant: it concerns every tenant.")
        return await handler(request)

    return guarded


def unauthenticated(detail: str) -> Problem:
    return Problem("unauthenticated", detail, headers={"www-authenticate": 'Bearer realm="mayfly"'})
