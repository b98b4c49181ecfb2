"""The Docker Engine's HTTP, as far as a sandbox's way needs it: requests on the event loop, each on a
connection that the next one has after it.

Only what an engine sends is read: answers with a length or in chunks, and a connection that is handed over.
Whatever else comes is an error, and ends the connection.
"""

import asyncio
import re
from typing import Any, Final, NamedTuple, cast

HEAD_BYTES: Final = 64 * 1024
BODY_BYTES: Final = 4 * 1024 * 1024
"""Of an answer, at most: a container's description has some kilobytes."""
IDLE: Final = 16
"""Connections that are kept for the next request."""
BODILESS: Final = (204, 304)
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: .*)?")
_LENGTH: Final = re.compile(rb"[0-9]{1,10}")
_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,8})(?:;.*)?")


class Answer(NamedTuple):
    status: int
    body: bytes
    keeps: bool = True
    """Whether the connection may be used again."""
    rest: bytes = b""
    """What came after it, where the connection was handed over."""


class Reader:
    """Reads one answer, however its bytes were cut."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._answer: Answer | None = None
        """What is known of it once its head has been read."""
        self._length: int | None = None
        """Of its body, or of the chunk that is read; None: a chunk's begin is."""
        self._chunked = False
        self._body = bytearray()

    def feed(self, data: bytes) -> Answer | None:
        """The answer, once it is whole. Raises ValueError for what no engine says."""
        self._held += data
        if self._answer is None:
            head, found, _ = self._held.partition(b"\r\n\r\n")
            if len(head) > HEAD_BYTES:
                raise ValueError("the engine's answer has too long a head")
            if not found:
                return None
            del self._held[: len(head) + 4]
            self._answer = self._open(bytes(head))
        if self._answer.status == 101:
            return self._answer._replace(rest=bytes(self._held))
        whole = self._chunks() if self._chunked else self._take(self._length or 0)
        if not whole:
            return None
        if self._held:
            raise ValueError("the engine said more than one answer")
        return self._answer._replace(body=bytes(self._body))

    def _open(self, head: bytes) -> Answer:
        first, *lines = head.split(b"\r\n")
        status = _STATUS.fullmatch(first)
        if status is None:
            raise ValueError(f"no HTTP: {first[:80]!r}")
        headers: dict[bytes, bytes] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            name = name.lower()
            if not colon or (name in headers and name in (b"content-length", b"transfer-encoding")):
                raise ValueError(f"no header of an answer: {line[:80]!r}")
            headers[name] = value.strip()
        answer = Answer(int(status[2]), b"", status[1] == b"1" and headers.get(b"connection") != b"close")
        if answer.status == 101 or answer.status in BODILESS:
            return answer
        length = headers.get(b"content-length", b"")
        self._chunked = headers.get(b"transfer-encoding", b"").lower() == b"chunked"
        if self._chunked:
            return answer
        if b"transfer-encoding" in headers or answer.status < 200 or not _LENGTH.fullmatch(length):
            raise ValueError(f"an answer without an end: {head[:200]!r}")
        self._length = int(length)
        return answer

    def _take(self, length: int) -> bool:
        if len(self._body) + length > BODY_BYTES:
            raise ValueError("the engine's answer is too long")
        if len(self._held) < length:
            return False
        self._body += self._held[:length]
        del self._held[:length]
        return True

    def _chunks(self) -> bool:
        """Whether the last one has come."""
        while True:
            if self._length is None:
                line, found, _ = self._held.partition(b"\r\n")
                if len(line) > HEAD_BYTES:
                    raise ValueError("a chunk has too long a head")
                if not found:
                    return False
                size = _CHUNK.fullmatch(line)
                if size is None:
                    raise ValueError(f"no chunk: {bytes(line[:80])!r}")
                del self._held[: len(line) + 2]
                self._length = int(size[1], 16)
            # Each ends with an empty line; after the last one no engine sends trailers.
            if not self._take(self._length + 2):
                return False
            if self._body[-2:] != b"\r\n":
                raise ValueError("a chunk is longer than it says")
            del self._body[-2:]
            if self._length == 0:
                return True
            self._length = None


class _Connection(asyncio.Protocol):
    """One request at a time. An engine that speaks without being asked is not asked again."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._asked: asyncio.Future[Answer] | None = None
        self._reader = Reader()
        self._heir: asyncio.Protocol | None = None
        self.heard = False
        """Whether the engine has begun to answer."""

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, heir: asyncio.Protocol | None) -> Answer:
        assert self._transport is not None
        self._asked = asyncio.get_running_loop().create_future()
        self._reader, self._heir, self.heard = Reader(), heir, False
        self._transport.write(request)
        return await self._asked

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if self._asked is None or self._asked.done():
            self.close()
            return
        self.heard = True
        try:
            answer = self._reader.feed(data)
            if answer is not None and answer.status == 101:
                self._hand_over(answer)
        except ValueError as error:
            self._asked.set_exception(error)
            self.close()
            return
        if answer is not None:
            self._asked.set_result(answer)

    def _hand_over(self, answer: Answer) -> None:
        """At once: what comes next is the heir's."""
        if self._heir is None:
            raise ValueError("the engine handed over a connection that nobody asked for")
        assert self._transport is not None
        self._transport.set_protocol(self._heir)
        self._heir.connection_made(self._transport)
        if answer.rest:
            self._heir.data_received(answer.rest)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(
                ConnectionError(f"the engine ended the connection: {error or 'closed'}")
            )


class EngineHttp:
    """`address` is a Unix socket's path, or a host and a port; `version` that of the engine's API."""

    def __init__(self, address: str | tuple[str, int], version: str, seconds: float) -> None:
        self._address = address
        self._seconds = seconds
        host = "localhost" if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self._start = f"/v{version}"
        self._headers = f" HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        self._idle: list[_Connection] = []

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        heir: asyncio.Protocol | None = None,
        anew: bool = False,
    ) -> Answer:
        """The engine's answer, whatever its status is. With an `heir`, the connection is to become its.

        `anew` is on none of the connections that there are: one that is being stopped still answers on those.

        Raises OSError where there is no engine, or none that answers in time; ValueError where it is none.
        """
        upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if heir is not None else ""
        head = f"{method} {self._start}{path}{self._headers}{upgrade}Content-Length: {len(body)}\r\n\r\n"
        request = head.encode() + body
        try:
            async with asyncio.timeout(self._seconds):
                return await self._exchange(request, heir, anew)
        except TimeoutError as error:
            raise TimeoutError(f"the engine has not answered within {self._seconds:g} s") from error

    async def _exchange(self, request: bytes, heir: asyncio.Protocol | None, anew: bool) -> Answer:
        while True:
            kept = None if anew else self._kept()
            connection = kept or await self._connect()
            try:
                answer = await connection.ask(request, heir)
            except ConnectionError:
                connection.close()
                # It was closed while it was idle, and nobody has read the request.
                if kept is None or connection.heard:
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                self._keep(connection, answer)
                return answer

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def _keep(self, connection: _Connection, answer: Answer) -> None:
        if answer.status == 101:
            return
        if answer.keeps and len(self._idle) < IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        made: tuple[Any, _Connection]
        if isinstance(self._address, str):
            made = await loop.create_unix_connection(_Connection, self._address)
        else:
            made = await loop.create_connection(_Connection, *self._address)
        return made[1]

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
