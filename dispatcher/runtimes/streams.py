"""What a sandbox writes, as bounded streams of bytes, whatever it comes through."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Self

BUFFERED: Final = 512 * 1024
"""Bytes held of both streams together before their source is no longer read."""


class Readable(ABC):
    """Bytes for one reader, which asks for what has come, and can have itself called when there is more. It
    can also be iterated over, chunk by chunk.

    That nobody has to wait for it in a task of its own is what it is for: a short task of a user's was mostly
    tasks of the event loop.
    """

    @abstractmethod
    def poll(self) -> bytes | None:
        """The next chunk, if it has come; none (`b""`) at the end, from then on; None before."""

    @abstractmethod
    def then(self, call: Callable[[], None] | None) -> None:
        """Call this, once, when something has come since `poll` gave None. It takes the place of what was to
        be called; None takes that back."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while (chunk := self.poll()) is None:
            waiting = asyncio.get_running_loop().create_future()
            # Of a reader that is cancelled this stays: another one's takes its place, and it does nothing.
            self.then(partial(_wake, waiting))
            await waiting
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def drained(stream: Readable) -> bool:
    """Read away what has come; whether that was all."""
    while chunk := stream.poll():
        pass
    return chunk is not None


class Stream(Readable):
    """One direction's chunks, as they are put. `took` is called with how many bytes the reader has taken."""

    def __init__(self, took: Callable[[int], None]) -> None:
        self._took = took
        self._chunks: deque[bytes] = deque()
        self._call: Callable[[], None] | None = None
        self._ended = False

    def put(self, chunk: bytes) -> None:
        if chunk:
            self._chunks.append(chunk)
            self._tell()

    def end(self) -> None:
        self._ended = True
        self._tell()

    def poll(self) -> bytes | None:
        if not self._chunks:
            return b"" if self._ended else None
        chunk = self._chunks.popleft()
        self._took(len(chunk))
        return chunk

    def then(self, call: Callable[[], None] | None) -> None:
        self._call = call

    def _tell(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class Streams:
    """Both of a sandbox's streams. `pause` is called when too much of them is held, `resume` when half of it
    has been taken."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self.stdout: Stream = _Bounded(self)
        self.stderr: Stream = _Bounded(self)
        self._pause = pause
        self._resume = resume
        self._held = 0
        self._paused = False

    def end(self) -> None:
        self.stdout.end()
        self.stderr.end()

    def held(self, size: int) -> None:
        self._held += size
        if self._held > BUFFERED and not self._paused:
            self._paused = True
            self._pause()

    def taken(self, size: int) -> None:
        self._held -= size
        if self._paused and self._held <= BUFFERED // 2:
            self._paused = False
            self._resume()


class _Bounded(Stream):
    def __init__(self, streams: Streams) -> None:
        super().__init__(streams.taken)
        self._streams = streams

    def put(self, chunk: bytes) -> None:
        # First: its reader may take it at once.
        self._streams.held(len(chunk))
        super().put(chunk)
