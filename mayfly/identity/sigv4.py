"""AWS Signature Version 4, verified: what AWS's own clients send in place of a bearer token.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SKEW_SECONDS: Final = 300
"""How far its time may be from ours, as at AWS: for so long what was overheard can be sent again."""

_AUTHORIZATION: Final = re.compile(
    rf"{ALGORITHM} Credential=([^/,\s]+)/(\d{{8}})/([^/,\s]+)/([^/,\s]+)/aws4_request,\s*"
    r"SignedHeaders=([a-z0-9;_-]+),\s*Signature=([0-9a-f]{64})"
)
_TIME: Final = "%Y%m%dT%H%M%SZ"
Headers = Sequence[tuple[str, str]]
"""Names in lower case, as often as they were sent."""


class Signature(NamedTuple):
    """What an Authorization header says. `scope` is date, region and service."""

    access_key_id: str
    scope: tuple[str, str, str]
    headers: tuple[str, ...]
    signature: str


class Signed(NamedTuple):
    """A request as it came: path and query as they were sent, with their escapes."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes


def parse(authorization: str) -> Signature:
    """Raises `ValueError`."""
    found = _AUTHORIZATION.fullmatch(authorization.strip())
    if found is None:
        raise ValueError("the Authorization header is no signature by SigV4")
    key, date, region, service, headers, signature = found.groups()
    return Signature(key, (date, region, service), tuple(headers.split(";")), signature)


def check_time(signature: Signature, headers: Headers, now: float, service: str) -> None:
    """Whether it is for this service, and of now (seconds since 1970). Raises `ValueError`."""
    date, _, named = signature.scope
    if named != service:
        raise ValueError(f"the signature is for {named[:40]}, and not for {service}")
    text = _only(headers, "x-amz-date")
    try:
        at = datetime.strptime(text, _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ValueError("X-Amz-Date is no time such as 20261124T120000Z") from None
    if date != text[:8]:
        raise ValueError("X-Amz-Date is of another day than the signature's scope")
    if abs(at - now) > SKEW_SECONDS:
        here = datetime.fromtimestamp(now, UTC).strftime(_TIME)
        raise ValueError(f"the signature is of {text}, and here it is {here}: it is old, or a clock is wrong")


def check(signature: Signature, secret: str, request: Signed) -> None:
    """Whether who has that secret access key has signed this very request. Raises `ValueError`."""
    present = {name for name, _ in request.headers}
    needed = {"host", "x-amz-date", *(name for name in present if name.startswith("x-amz-"))}
    if missing := sorted(needed - set(signature.headers)):
        raise ValueError(f"the header {missing[0]} is not among those that are signed")
    body_sha256 = hashlib.sha256(request.body).hexdigest()
    if "x-amz-content-sha256" in present and _only(request.headers, "x-amz-content-sha256") != body_sha256:
        raise ValueError("X-Amz-Content-SHA256 is not the body's")
    wanted = sign(signature.scope, signature.headers, secret, request)
    if not hmac.compare_digest(wanted, signature.signature):
        raise ValueError("the signature is not that of this request and this key")


def sign(scope: tuple[str, str, str], headers: Iterable[str], secret: str, request: Signed) -> str:
    """The signature in hex."""
    names = list(headers)
    canonical = "\n".join(
        (
            request.method,
            # Escaped once more than it was sent: so it is for every service but S3.
            quote(request.path or "/", safe="/~"),
            _query(request.query),
            *(f"{name}:{_value(request.headers, name)}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    where = "/".join((*scope, "aws4_request"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join((ALGORITHM, _value(request.headers, "x-amz-date"), where, digest))
    key = b"AWS4" + secret.encode()
    for part in (*scope, "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


def _only(headers: Headers, name: str) -> str:
    values = [value for named, value in headers if named == name]
    if len(values) != 1:
        raise ValueError(f"there is to be one header {name}")
    return values[0]


def _value(headers: Headers, name: str) -> str:
    return ",".join(" ".join(value.split()) for named, value in headers if named == name)


def _query(text: str) -> str:
    pairs = (pair.partition("=")[::2] for pair in text.split("&") if pair)
    escaped = sorted((_escaped(name), _escaped(value)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in escaped)


def _escaped(text: str) -> str:
    return quote(unquote(text), safe="-_.~")
