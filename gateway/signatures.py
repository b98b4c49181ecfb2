"""Who calls in AWS's way: by a signature (SigV4), which carries no secret, or like everybody else.

The access key id is an API key's id, and the secret access key the SHA-256 of that key's secret, in hex: what
is stored of it. docs/security.md says what that means.
"""

import time
from typing import Final

from starlette.requests import Request

from gateway.access import Access, unauthenticated
from gateway.aws_errors import AwsProblem
from gateway.bodies import read_body
from gateway.limits.limits import admission_of
from mayfly.identity import sigv4
from mayfly.identity.principal import Principal, Scope
from mayfly.identity.sigv4 import Signed
from mayfly.settings import MIB

SERVICE: Final = "lambda"
BODY_BYTES: Final = 6 * MIB
"""AWS's own limit for a call that is waited for."""
_BODY: Final = "mayfly.signed_body"


class Signatures:
    """`Access`, for routes of AWS's API."""

    def __init__(self, access: Access) -> None:
        self.on_refused = access.on_refused
        self._access = access

    async def admit_request(self, request: Request, needs: Scope) -> Principal:
        """Raises `Problem` unless who asks is known, and may do what needs that scope."""
        given = request.headers.getlist("authorization")
        signed = len(given) == 1 and given[0].startswith(sigv4.ALGORITHM)
        if not self._access.required or not signed:
            return await self._access.admit_request(request, needs)
        return self._access.permitted(request.scope, await self._principal(request, given[0]), needs)

    async def _principal(self, request: Request, authorization: str) -> Principal:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        try:
            signature = sigv4.parse(authorization)
            sigv4.check_time(signature, headers, time.time(), SERVICE)
        except ValueError as error:
            raise _unsigned(error) from None
        key = self._access.find(signature.access_key_id)
        if key is None:
            # An id is no secret; and who has none does not make us read a body.
            return self._access.holder(None)
        signed = Signed(
            request.method,
            request.scope["raw_path"].decode("latin-1"),
            request.scope["query_string"].decode("latin-1"),
            headers,
            await _signed_body(request),
        )
        try:
            sigv4.check(signature, key.sha256, signed)
        except ValueError as error:
            raise _unsigned(error) from None
        return self._access.holder(key)


async def _signed_body(request: Request) -> bytes:
    body = request.scope[_BODY] = await read_body(request, BODY_BYTES)
    return body


async def body_of(request: Request) -> bytes:
    """The body, which a signature needed before it was known whose limits hold for it. Raises `Problem`."""
    body: bytes | None = request.scope.pop(_BODY, None)
    if body is None:
        return await read_body(request, BODY_BYTES)
    if (admission := admission_of(request)) is not None:
        admission.came(len(body))
    return body


def _unsigned(error: ValueError) -> AwsProblem:
    return AwsProblem(unauthenticated(f"The signature is refused: {error}."), "InvalidSignatureException")
