"""A sandbox's three pipes, on the event loop."""

import asyncio
import os
from functools import partial

import uvloop

from dispatcher.runtimes.streams import Stream, Streams


class Pipes:
    """Ours are the end of stdin that is written and those of stdout and stderr that are read; `theirs` are
    what the sandbox gets, until `started` closes them here."""

    def __init__(self) -> None:
        self._streams = Streams(self._pause, self._resume)
        self._readers: list[asyncio.ReadTransport] = []
        self._writer: asyncio.WriteTransport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._open: list[int] = []
        """Descriptors that no transport owns yet."""
        # In this order: the sandbox's 0, 1 and 2.
        stdin, self._stdin = self._pipe()
        self._stdout, stdout = self._pipe()
        self._stderr, stderr = self._pipe()
        self.theirs = (stdin, stdout, stderr)

    @property
    def stdout(self) -> Stream:
        return self._streams.stdout

    @property
    def stderr(self) -> Stream:
        return self._streams.stderr

    def _pipe(self) -> tuple[int, int]:
        try:
            ends = os.pipe()
        except OSError:
            self.close()
            raise
        self._open += ends
        return ends

    def given(self) -> None:
        """The sandbox has its ends: ours end when it does."""
        for descriptor in self.theirs:
            self._open.remove(descriptor)
            os.close(descriptor)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        # uvloop closes a descriptor, and then the file that it was given, which would close it once more: by
        # then it may be another thread's, a connection to S3 say, and soon another sandbox's.
        closes = not isinstance(loop, uvloop.Loop)
        writer = os.fdopen(self._stdin, "wb", buffering=0, closefd=closes)
        self._open.remove(self._stdin)
        self._writer, _ = await loop.connect_write_pipe(lambda: _Writer(self), writer)
        for descriptor, stream in ((self._stdout, self.stdout), (self._stderr, self.stderr)):
            reader = os.fdopen(descriptor, "rb", buffering=0, closefd=closes)
            self._open.remove(descriptor)
            transport, _ = await loop.connect_read_pipe(partial(_Reader, stream), reader)
            self._readers.append(transport)

    async def write(self, data: bytes) -> None:
        """Waits until the pipe has taken the bytes, or nobody reads it any more."""
        if self._writer is None or self._writer.is_closing():
            return
        self._writer.write(data)
        await self._writable.wait()

    def write_eof(self) -> None:
        """Closes stdin, once what was written has been read."""
        if self._writer is not None:
            self._writer.close()

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
        self._streams.end()
        self._writable.set()

    # --- called by the event loop

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def writing_ended(self) -> None:
        self._writer = None
        self._writable.set()

    def _pause(self) -> None:
        for reader in self._readers:
            if not reader.is_closing():
                reader.pause_reading()

    def _resume(self) -> None:
        for reader in self._readers:
            if not reader.is_closing():
                reader.resume_reading()


class _Reader(asyncio.Protocol):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def data_received(self, data: bytes) -> None:
        self._stream.put(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._stream.end()


class _Writer(asyncio.BaseProtocol):
    """Waits for nothing but room in the pipe."""

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes

    def pause_writing(self) -> None:
        self._pipes.pause_writing()

    def resume_writing(self) -> None:
        self._pipes.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        # Whoever read it is gone: what it left unread is no error.
        self._pipes.writing_ended()
