"""A callback's URL: what it may look like, and what is connected to. Pure.

It is taken apart here and nowhere else, so that what is checked is what is connected to. What one parser
reads in another way than the next is refused: an address in decimal, octal or hex, a name with a final point
or in other letters than ASCII, a user name, a backslash.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from mayfly.errors import SettingsError
from mayfly.settings import Settings
from mayfly.webhooks.addresses import Address, address_of, is_public

MAX_URL_CHARS: Final = 2048
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^\x00-\x20\x7f-\U0010ffff#\\?]*)?(?P<query>\?[^\x00-\x20\x7f-\U0010ffff#\\]*)?",
    re.IGNORECASE | re.ASCII,
)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""A host whose last label looks like this is an address, by the URL standard, in one of many forms."""
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_FORM: Final = (
    "must be an absolute URL in ASCII, https://host[:port][/path][?query], without a user name, a fragment "
    "or blanks"
)


class Callback(NamedTuple):
    """A URL, taken apart. `host` is in lower case, an IPv6 address without its brackets."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query, as they were given."""

    @property
    def address(self) -> Address | None:
        """Where the host is an address itself."""
        return address_of(self.host)

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str) -> Callback:
    """Raises `ValueError` for what is no URL of that form: its message goes on after "callbackUrl"."""
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"has {len(url)} characters; {MAX_URL_CHARS} is the most")
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(_FORM)
    scheme = found["scheme"].lower()
    port = int(found["port"]) if found["port"] else _DEFAULT_PORTS[scheme]
    if not 0 < port < 65536:
        raise ValueError(f"names the port {port}, which is none")
    target = (found["path"] or "/") + (found["query"] or "")
    return Callback(scheme, _host(found["host"].lower()), port, target)


def _host(text: str) -> str:
    if text.startswith("["):
        address = address_of(text[1:-1])
        if not isinstance(address, IPv6Address):
            raise ValueError(f"has the host {text}, which is no IPv6 address")
        return str(address)
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        if not isinstance(address_of(text), IPv4Address):
            raise ValueError(f"has the host {text}, which is no IPv4 address in its usual form")
    elif len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"has the host {text[:80]}, which is no host's name")
    return text


class Policy:
    """What callbacks may lead to. `allow` are the `host:port` pairs that may be private."""

    def __init__(self, *, allow_http: bool = False, allow: Sequence[str] = ()) -> None:
        """Raises `SettingsError`."""
        self._allow_http = allow_http
        self._allow = frozenset(_pair(text) for text in allow)

    @classmethod
    def of(cls, settings: Settings) -> "Policy":
        """Raises `SettingsError`."""
        return cls(allow_http=settings.webhook_allow_http, allow=settings.webhook_allow)

    def check(self, url: str) -> Callback:
        """What can be said of the URL by itself, without a look-up. Raises `ValueError`, as `parse` does."""
        callback = parse(url)
        if callback.scheme != "https" and not self._allow_http:
            raise ValueError("must be an https URL")
        if self._is_listed(callback.host, callback.port):
            return callback
        if callback.port < 1024 and callback.port != _DEFAULT_PORTS[callback.scheme]:
            usual = _DEFAULT_PORTS[callback.scheme]
            raise ValueError(f"names the port {callback.port}; it is to be {usual}, or 1024 and above")
        if (address := callback.address) is not None and not self.admits(callback, address):
            raise ValueError(f"leads to {address}, which is no public address")
        return callback

    def admits(self, callback: Callback, address: Address) -> bool:
        """Whether a connection for the callback may be made to that address."""
        port = callback.port
        return (
            is_public(address) or self._is_listed(callback.host, port) or self._is_listed(str(address), port)
        )

    def _is_listed(self, host: str, port: int) -> bool:
        return (host, port) in self._allow


def _pair(text: str) -> tuple[str, int]:
    host, colon, port = text.strip().lower().rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(f"MAYFLY_WEBHOOK_ALLOW: {text!r} is no host:port pair, such as 10.0.0.5:8443")
    bare = host.removeprefix("[").removesuffix("]")
    address = address_of(bare)
    return str(address) if address else bare, int(port)
