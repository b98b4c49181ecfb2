"""What a sandbox of a test writes."""

import asyncio
from collections.abc import AsyncIterator, Callable

from dispatcher.runtimes.streams import Readable, Stream


def stream() -> Stream:
    """One to be put to."""
    return Stream(lambda size: None)


class Iterated(Readable):
    """Whatever an iterator gives, a chunk at a time."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._room = asyncio.Event()
        self._stream = Stream(lambda size: self._room.set())
        self._reading = asyncio.create_task(self._read())

    def poll(self) -> bytes | None:
        return self._stream.poll()

    def then(self, call: Callable[[], None] | None) -> None:
        self._stream.then(call)

    async def _read(self) -> None:
        async for chunk in self._chunks:
            self._room.clear()
            self._stream.put(chunk)
            if chunk:
                await self._room.wait()
        self._stream.end()
