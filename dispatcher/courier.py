"""Posts to callbacks, and to nowhere else: a URL of a stranger's must not lead into our own network.

The host is looked up once, each address is judged, and the connection is made to one of those that were: what
the name means a moment later does not matter. The certificate is the host name's. Redirects are not followed,
no proxy is asked, nothing is kept open, and of an answer no more is read than its head.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Final, NamedTuple

import certifi
import httpcore

from mayfly.webhooks.addresses import Address, address_of
from mayfly.webhooks.callback import Callback, Policy

TIMEOUT_SECONDS: Final = 10.0
"""From the look-up to the answer's head."""
MOST_ADDRESSES: Final = 4
"""Of a host, that are tried one after the other."""
LOOKUPS: Final = 8
"""Names that are looked up at once. Each takes a thread, for as long as its server lets it wait."""

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name. Raises `OSError`."""


class Undelivered(Exception):
    """There was no answer: the message says why, in words that may be shown to the task's owner."""


class Answer(NamedTuple):
    status: int
    retry_after: float | None = None
    """Seconds that the receiver asks to wait."""


class Courier:
    """`lookup` and `network` are what tests have in place of the resolver and the sockets."""

    def __init__(
        self,
        policy: Policy,
        *,
        lookup: Lookup | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        timeout: float = TIMEOUT_SECONDS,
        now: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._resolver = Resolver()
        self._lookup = lookup or self._resolver.lookup
        self._network = network or httpcore.AnyIOBackend()
        self._timeout = timeout
        self._now = now

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        """Mozilla's roots, or those of SSL_CERT_FILE: read when they are needed."""
        return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Raises `Undelivered`."""
        try:
            callback = self._policy.check(url)
        except ValueError as error:
            raise Undelivered(f"refused: the URL {error}") from None
        try:
            async with asyncio.timeout(self._timeout):
                addresses = await self._addresses(callback)
                return await self._send(callback, addresses, headers, body)
        except TimeoutError:
            raise Undelivered(f"no answer within {self._timeout:g} s") from None
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
            raise Undelivered(f"no connection: {_reason(error)}") from error
        except (httpcore.ProtocolError, ValueError) as error:
            raise Undelivered("the answer is not HTTP") from error

    async def _addresses(self, callback: Callback) -> list[Address]:
        """All of the host's, each of which may be connected to."""
        if (literal := callback.address) is not None:
            # The policy has judged it.
            return [literal]
        try:
            found = await self._lookup(callback.host, callback.port)
        except (OSError, UnicodeError) as error:
            raise Undelivered(f"the host {callback.host} cannot be found: {_reason(error)}") from error
        addresses = [address_of(text) for text in dict.fromkeys(found)]
        # One that is not public condemns them all: who mixes them is after the one.
        if not addresses or not all(one and self._policy.admits(callback, one) for one in addresses):
            raise Undelivered(f"refused: the host {callback.host} has an address that is not public")
        return [one for one in addresses if one is not None]

    async def _send(
        self, callback: Callback, addresses: list[Address], headers: Mapping[str, str], body: bytes
    ) -> Answer:
        url = httpcore.URL(
            scheme=callback.scheme.encode(),
            host=callback.host.encode(),
            port=callback.port,
            target=callback.target.encode(),
        )
        given = {"host": callback.authority, "content-length": str(len(body)), "connection": "close"}
        head = [(name.encode(), value.encode()) for name, value in {**given, **headers}.items()]
        network = _Pinned(self._network, addresses)
        trust = self._trust if callback.scheme == "https" else None
        async with (
            httpcore.AsyncConnectionPool(ssl_context=trust, network_backend=network) as pool,
            pool.stream("POST", url, headers=head, content=body) as response,
        ):
            return Answer(response.status, self._retry_after(response.headers))

    def _retry_after(self, headers: Iterable[tuple[bytes, bytes]]) -> float | None:
        given = (value for name, value in headers if name.lower() == b"retry-after")
        text = next(given, b"").decode("latin-1")
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - self._now())
        except (ValueError, TypeError, IndexError, OverflowError):
            return None

    def close(self) -> None:
        self._resolver.close()


class Resolver:
    """The system's, in threads of its own: a name server that does not answer holds up nobody else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="mayfly-lookup")

    async def lookup(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _getaddrinfo, host, port)
        return [str(entry[4][0]) for entry in found]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _getaddrinfo(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to these addresses, whatever host is asked for."""

    def __init__(self, network: httpcore.AsyncNetworkBackend, addresses: Sequence[Address]) -> None:
        self._network = network
        self._addresses = addresses[:MOST_ADDRESSES]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("there is no address")
        for address in self._addresses:
            try:
                # Each has its part of the time, so that one that is dead leaves some for the next.
                part = TIMEOUT_SECONDS / 2 / len(self._addresses)
                return await self._network.connect_tcp(str(address), port, timeout=part)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


def _reason(error: Exception) -> str:
    """The error itself, not where it came from."""
    return str(error)[:200] or type(error).__name__
