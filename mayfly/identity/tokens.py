"""Bearer tokens: JWTs (RFC 7519), of our own making or of an identity provider's.

Which algorithms count is set here, never by a token: HS256 under a shared secret, RS256, ES256 and EdDSA
under the keys of a JWKS. `iss`, `aud`, `exp` and `sub` are needed.
"""

import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

import jwt

from mayfly.identity.principal import Principal, Scope, scopes_of
from mayfly.task import DEFAULT_TENANT, is_tenant

SHARED: Final = ("HS256",)
PUBLIC: Final = ("RS256", "ES256", "EdDSA")
LEEWAY_SECONDS: Final = 30
LONGEST_TOKEN: Final = 8192
SHORTEST_SECRET: Final = 32
"""Bytes: as many as the hash has (RFC 7518, 3.2)."""


class PublicKeys(Protocol):
    """The provider's keys, as they were read last."""

    def find(self, key_id: str | None) -> Any | None:
        """The key of that id, in a form that `jwt` takes; None where there is none."""


class Tokens:
    """Checks tokens, and issues them where there is a shared secret."""

    def __init__(self, *, issuer: str, audience: str, secret: str | None, public: PublicKeys | None) -> None:
        if secret is not None and len(secret.encode()) < SHORTEST_SECRET:
            raise ValueError(f"a secret for tokens has at least {SHORTEST_SECRET} bytes")
        self._issuer = issuer
        self._audience = audience
        self._secret = secret
        self._public = public

    @property
    def issues(self) -> bool:
        return self._secret is not None

    def issue(self, principal: Principal, seconds: int) -> str:
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": principal.subject,
            "iat": now,
            "exp": now + seconds,
            "tenant": principal.tenant,
            "scope": " ".join(sorted(principal.scopes)),
        }
        return jwt.encode(claims, self._secret or "", algorithm=SHARED[0])

    def check(self, token: str) -> Principal:
        """Raises `ValueError`, which says why the token is refused."""
        if len(token) > LONGEST_TOKEN:
            raise ValueError("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            key, algorithms = self._key(algorithm, header.get("kid"))
            ours = algorithms is SHARED
            claims = jwt.decode(
                token,
                key,
                algorithms=list(algorithms),
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["iss", "aud", "exp", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise ValueError("the token has expired") from None
        except jwt.PyJWTError as error:
            raise ValueError(f"the token is refused: {error}") from None
        except (TypeError, OverflowError, RecursionError):
            # Times that are none, and JSON in JSON without an end, which PyJWT does not look for.
            raise ValueError("the token is refused: it is malformed") from None
        return principal_of(claims, ours=ours)

    def _key(self, algorithm: object, key_id: object) -> tuple[Any, tuple[str, ...]]:
        """The key that the token has to be signed with, and by what: one of ours, whatever it says itself."""
        if algorithm in SHARED and self._secret is not None:
            return self._secret, SHARED
        if algorithm in PUBLIC and self._public is not None:
            key = self._public.find(key_id if isinstance(key_id, str) else None)
            if key is None:
                raise ValueError("the token's key is not among the provider's")
            return key, (str(algorithm),)
        raise ValueError(f"tokens signed by {str(algorithm)[:20]} are not taken")


def principal_of(claims: Mapping[str, Any], *, ours: bool) -> Principal:
    """By `sub`, `tenant` (the default one where it is missing), and `scope` (RFC 8693) or `scp`. A subject
    that stands for one of our users counts as such in a token of `ours` only.

    Raises `ValueError` for a claim that makes no sense. Scopes that are not ours are a provider's own.
    """
    subject, tenant = claims["sub"], claims.get("tenant", DEFAULT_TENANT)
    if not isinstance(subject, str) or not 0 < len(subject) <= 200:
        raise ValueError("the token's sub is no name")
    if not isinstance(tenant, str) or not is_tenant(tenant):
        raise ValueError("the token's tenant is no name of one")
    given = claims.get("scope", claims.get("scp", ""))
    names = given.split() if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the token's scope is no list of names")
    known = {scope.value for scope in Scope}
    who = subject if ours and subject.startswith("user:") else f"token:{subject}"
    scopes = scopes_of([name for name in names if name in known])
    return Principal(who, tenant, scopes, since=int(claims.get("iat", 0)))
