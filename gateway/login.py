"""Logging in: a name and a password for a token that is good for a while."""

import asyncio
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway import audit
from gateway.errors import Problem
from gateway.models_identity import LoginRequest
from gateway.parameters import parameters
from gateway.ports import Book
from gateway.responses import json_response
from gateway.submissions import checked, json_body
from mayfly.identity import users
from mayfly.identity.tokens import Tokens

FREE_FAILURES: Final = 5
"""So many wrong passwords in a row cost nothing; each further one doubles the wait."""
LONGEST_WAIT_SECONDS: Final = 900.0
REMEMBERED: Final = 10_000
"""Names and addresses whose failures are known: the oldest is forgotten first."""
MOST_WAITING: Final = 16
"""Passwords that wait to be checked: each takes some 50 ms of a core."""


@dataclass
class _Failures:
    count: int = 0
    until: float = 0.0


class Throttle:
    """Failures by name and by address, so that neither one name nor many can be guessed at from one place."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait(self, *sources: str) -> float:
        """Seconds until the next try from there is heard."""
        now = time.monotonic()
        known = [self._failures[source] for source in sources if source in self._failures]
        return max((failures.until - now for failures in known), default=0.0)

    def failed(self, *sources: str) -> None:
        for source in sources:
            failures = self._failures.pop(source, _Failures())
            failures.count += 1
            if failures.count >= FREE_FAILURES:
                pause = min(LONGEST_WAIT_SECONDS, 2.0 ** (failures.count - FREE_FAILURES))
                failures.until = time.monotonic() + pause
            self._failures[source] = failures
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, *sources: str) -> None:
        for source in sources:
            self._failures.pop(source, None)


class Login:
    """The handler of /login. Without a shared secret for tokens there is none to be had."""

    def __init__(self, book: Book, tokens: Tokens | None, *, seconds: int) -> None:
        self._book = book
        self._tokens = tokens if tokens is not None and tokens.issues else None
        self._seconds = seconds
        self._throttle = Throttle()
        self._checking = asyncio.Semaphore(1)
        self._waiting = 0

    async def post(self, request: Request) -> Response:
        parameters(request)
        wanted = checked(LoginRequest, await json_body(request), "invalid_body")
        if self._tokens is None:
            raise Problem("no_login", "MAYFLY_JWT_SECRET is not set, so this gateway issues no tokens.")
        sources = f"name:{wanted.username}", f"address:{request.client.host if request.client else ''}"
        # A password that was typed in the wrong place is no name, and is not kept.
        name = wanted.username if users.USER_NAME.fullmatch(wanted.username) else ""
        if (wait := self._throttle.wait(*sources)) > 0:
            audit.refused(request, "too many wrong passwords", action="login", target=name)
            raise _too_many(wait)
        user = self._book.users.get(wanted.username)
        if not await self._fits(user, wanted.password) or user is None:
            self._throttle.failed(*sources)
            audit.refused(request, "a wrong name or password", action="login", target=name)
            raise Problem("wrong_password", "The name or the password is wrong.")
        await audit.record(request, "login", user.name, by=user.principal)
        self._throttle.succeeded(sources[0])
        token = self._tokens.issue(user.principal, self._seconds)
        answer = {"token": token, "tokenType": "Bearer", "expiresInSeconds": self._seconds}
        return json_response(answer, headers={"cache-control": "no-store"})

    async def _fits(self, user: users.User | None, password: str) -> bool:
        if self._waiting >= MOST_WAITING:
            raise _too_many(1.0)
        self._waiting += 1
        try:
            async with self._checking:
                return await asyncio.to_thread(users.fits, user, password)
        finally:
            self._waiting -= 1


def _too_many(seconds: float) -> Problem:
    after = str(math.ceil(seconds))
    return Problem("too_many_requests", f"Try again in {after} s.", headers={"retry-after": after})
