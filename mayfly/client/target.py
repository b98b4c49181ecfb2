"""Which gateway a client talks to, and by what it says who asks."""

import ipaddress
import os
import re
from dataclasses import dataclass, field
from typing import Final

import httpx

from mayfly.client import profiles
from mayfly.client.errors import ClientError

DEFAULT_URL: Final = "http://127.0.0.1:8080"
_CREDENTIAL: Final = re.compile(r"[!-~]{1,8192}")
"""What a header can carry: a key, or a JWT."""
_YES: Final = ("true", "1", "yes", "on")


@dataclass(frozen=True)
class Target:
    """A gateway, and the credential for it, which is never shown."""

    url: httpx.URL
    credential: str | None = field(default=None, repr=False)


def target(
    url: str | None = None,
    *,
    api_key: str | None = None,
    token: str | None = None,
    profile: str | None = None,
) -> Target:
    """The URL: what is given; else the profile's that is given; else `MAYFLY_URL`; else the URL of the
    profile in `MAYFLY_PROFILE`, or of the one that is named `default`; else this machine's usual one.

    The credential: what is given; else the profile's that is given; else `MAYFLY_API_KEY`; else that of the
    profile in `MAYFLY_PROFILE` or of `default`. A profile that has a URL is asked only where that is the
    one: its credential goes nowhere else.

    Raises `ClientError`, and `ValueError` for a key and a token.
    """
    if api_key is not None and token is not None:
        raise ValueError("give an api_key or a token, not both")
    given = api_key if api_key is not None else token
    named = profiles.load(profile) if profile else None
    said = url or (named.url if named else None) or os.environ.get("MAYFLY_URL")
    key = os.environ.get("MAYFLY_API_KEY") or None
    # A file that is wrong is in nobody's way who needs none.
    needed = named is None and not (said and (given is not None or key))
    usual = profiles.load(profiles.chosen()) if needed else None
    address = parsed(said or (usual.url if usual else None) or DEFAULT_URL)
    credential = (
        _checked(given, "the credential that was given")
        or _of(named, address)
        or _checked(key, "MAYFLY_API_KEY")
        or _of(usual, address)
    )
    if credential is not None:
        require_private(address)
    return Target(address, credential)


def parsed(text: str) -> httpx.URL:
    """Raises `ClientError`."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ClientError(f"{text!r} is no URL: {error}") from error
    if url.userinfo:
        raise ClientError(f"the gateway's URL holds a password; a credential for {url.host} goes elsewhere")
    if url.scheme not in ("http", "https") or not url.host:
        raise ClientError(f"{text!r} is no gateway's URL; one looks like {DEFAULT_URL}")
    return url


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_private(url: httpx.URL) -> None:
    """Raises `ClientError` where others could read a credential on its way."""
    if url.scheme == "https" or is_loopback(url.host):
        return
    if os.environ.get("MAYFLY_ALLOW_HTTP", "").lower() in _YES:
        return
    raise ClientError(
        f"no credential is sent to {url} over plain http, where others could read it: use https, or set "
        "MAYFLY_ALLOW_HTTP=true if the network is to be trusted"
    )


def _of(profile: profiles.Profile | None, url: httpx.URL) -> str | None:
    if profile is None or (profile.url and not same_gateway(profile.url, str(url))):
        return None
    return _checked(profile.credential, "the profile's credential")


def same_gateway(one: str, other: str) -> bool:
    """Whether both are at one place, so that a credential for the one may go to the other. Raises
    `ClientError`."""
    return _origin(parsed(one)) == _origin(parsed(other))


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _checked(credential: str | None, what: str) -> str | None:
    """Without the line's end that a file may have left. Raises `ClientError`, which does not show it."""
    if credential is None:
        return None
    trimmed = credential.strip()
    if not _CREDENTIAL.fullmatch(trimmed):
        raise ClientError(f"{what} is no API key and no token")
    return trimmed
