"""A container's attached streams: Docker's multiplexed connection, as bounded streams of bytes.

Format: "Stream format" under ContainerAttach in the Docker Engine API reference.
"""

import asyncio
from typing import Final, cast

from dispatcher.runtimes.streams import Stream, Streams
from mayfly.errors import SandboxLost

HEADER: Final = 8
STDOUT: Final = 1
STDERR: Final = 2


class Demultiplexer:
    """Splits the connection's bytes into (stream, bytes) pairs, however they were cut.

    Each message is a header of 8 bytes (stream number, three zeros, length as u32 big-endian) and a body;
    bodies are passed on as they come, so that no message's length decides how much is held.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Raises ValueError for bytes that are no such connection."""
        chunks: list[tuple[int, bytes]] = []
        at = 0
        while at < len(data):
            if self._left:
                body = data[at : at + self._left]
                chunks.append((self._stream, body))
                self._left -= len(body)
                at += len(body)
                continue
            part = data[at : at + HEADER - len(self._header)]
            self._header += part
            at += len(part)
            if len(self._header) == HEADER:
                self._open()
        return chunks

    def _open(self) -> None:
        if self._header[0] not in (STDOUT, STDERR) or any(self._header[1:4]):
            raise ValueError(f"no header of a Docker stream: {self._header.hex()}")
        self._stream = self._header[0]
        self._left = int.from_bytes(self._header[4:], "big")
        self._header.clear()


class Attachment(asyncio.Protocol):
    """The connection of one attached container, made before its start so that no byte is missed."""

    def __init__(self) -> None:
        self._streams = Streams(self._pause, self._resume)
        self.error: Exception | None = None
        """Why the connection broke, where it did not simply end."""
        self._demultiplexer = Demultiplexer()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._ended = asyncio.Event()

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            for number, chunk in self._demultiplexer.feed(data):
                (self.stdout if number == STDOUT else self.stderr).put(chunk)
        except ValueError as error:
            self._end(error)
            self.close()

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(error)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # --- called by the sandbox

    @property
    def stdout(self) -> Stream:
        return self._streams.stdout

    @property
    def stderr(self) -> Stream:
        return self._streams.stderr

    async def write(self, data: bytes) -> None:
        """Waits until the engine has taken the bytes, or the connection has ended."""
        if self._transport is None or self._ended.is_set():
            return
        self._transport.write(data)
        await self._writable.wait()

    def write_eof(self) -> None:
        """Half-closes the connection: the engine then closes the container's stdin."""
        if self._transport is None or self._ended.is_set():
            return
        try:
            self._transport.write_eof()
        except OSError as error:
            raise SandboxLost(f"the container's stdin could not be closed: {error}") from error

    async def ended(self) -> None:
        """Waits for the end of both streams: the process is gone, or the connection is."""
        await self._ended.wait()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: Exception | None) -> None:
        self.error = self.error or error
        self._streams.end()
        self._ended.set()
        self._writable.set()

    def _pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
