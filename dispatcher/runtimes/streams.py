"""What a sandbox writes, as bounded streams of bytes, whatever it comes through."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

BUFFERED: Final = 512 * 1024
"""Bytes held of both streams together before their source is no longer read."""


class Stream:
    """One direction's chunks, to be read by one reader."""

    def __init__(self, streams: "Streams") -> None:
        self._streams = streams
        self._chunks: deque[bytes] = deque()
        self._ready = asyncio.Event()
        self._ended = False

    def put(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._ready.set()
        self._streams.held(len(chunk))

    def end(self) -> None:
        self._ended = True
        self._ready.set()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        chunk = self._chunks.popleft()
        self._streams.taken(len(chunk))
        return chunk


class Streams:
    """Both of a sandbox's streams. `pause` is called when too much of them is held, `resume` when half of it
    has been taken."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self.stdout = Stream(self)
        self.stderr = Stream(self)
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
