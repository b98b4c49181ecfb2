"""The lines to the children of one container, over its own stdin and stdout.

The other end, and the frames' meaning, is `images/python/mayfly_relay.py`.
"""

import asyncio
import struct
from collections.abc import Callable
from signal import Signals
from typing import Final, NamedTuple

from dispatcher.runtimes.base import Exit
from dispatcher.runtimes.streams import Stream
from mayfly.errors import SandboxLost

WINDOW: Final = 256 * 1024
"""Bytes of a line, in each direction, that the other side has given no credit for yet."""
CHUNK: Final = 64 * 1024
"""The longest body of a frame."""
HEADER: Final = struct.Struct("!cII")
U32: Final = struct.Struct("!I")
KINDS: Final = frozenset((b"U", b"F", b"R", b"O", b"E", b"C", b"X", b"L"))


class LineFrame(NamedTuple):
    kind: bytes
    line: int
    body: bytes


class BrokenRelay(Exception):
    """What came is no frame of a relay."""


def line_frame(kind: bytes, line: int, body: bytes = b"") -> bytes:
    return HEADER.pack(kind, line, len(body)) + body


class LineParser:
    """Cuts bytes into a relay's frames, however they come."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[LineFrame]:
        """Raises `BrokenRelay` for what is no frame, with a body over the cap or of another kind."""
        if self._held:
            data = self._held + data
        found: list[LineFrame] = []
        at, size = 0, len(data)
        while size - at >= HEADER.size:
            kind, line, length = HEADER.unpack_from(data, at)
            if kind not in KINDS or length > CHUNK:
                raise BrokenRelay(f"a frame {kind!r} of {length} bytes")
            end = at + HEADER.size + length
            if end > size:
                break
            found.append(LineFrame(kind, line, data[at + HEADER.size : end]))
            at = end
        self._held = data[at:]
        return found


class Line:
    """One child, as a `Sandbox`. `say` sends a frame to its relay."""

    def __init__(self, number: int, say: Callable[[bytes, int, bytes], None], name: str = "") -> None:
        self.number = number
        self.name = name
        self.over = False
        self.stdout = Stream(self.took)
        self.stderr = Stream(self.took)
        self._say = say
        self._exit: Exit | None = None
        self._lost = ""
        self._removed = False
        self._taken = 0
        self._credit = WINDOW
        self._changed: list[asyncio.Future[None]] = []

    # --- the sandbox

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.over:
            size = min(len(view), self._credit, CHUNK)
            if size:
                self._say(b"I", self.number, bytes(view[:size]))
                self._credit -= size
                view = view[size:]
            else:
                await self._change()

    async def close_stdin(self) -> None:
        if not self.over:
            self._say(b"Z", self.number, b"")

    async def kill(self, signal: str = "SIGKILL") -> None:
        if not self.over:
            self._say(b"K", self.number, U32.pack(Signals[signal]))

    async def wait(self) -> Exit:
        while not self.over:
            await self._change()
        if self._exit is None:
            raise SandboxLost(self._lost)
        return self._exit

    async def remove(self) -> None:
        if not self.over and not self._removed:
            self._removed = True
            self._say(b"D", self.number, b"")

    # --- its streams, and the relay

    def took(self, size: int) -> None:
        """A reader took so many bytes. A short task's never become a frame."""
        self._taken += size
        if self._taken >= WINDOW // 2 and not self.over:
            self._say(b"C", self.number, U32.pack(self._taken))
            self._taken = 0

    def hear(self, kind: bytes, body: bytes) -> None:
        """Raises `BrokenRelay`."""
        if kind == b"O":
            self.stdout.put(body)
        elif kind == b"E":
            self.stderr.put(body)
        elif kind == b"C" and len(body) == U32.size:
            self._credit += U32.unpack(body)[0]
            self._wake()
        elif kind == b"X" and len(body) == 2:
            self.end(Exit(body[0], oom_killed=bool(body[1])))
        elif kind == b"L":
            self.lose(body.decode(errors="replace"))
        else:
            raise BrokenRelay(f"a frame {kind!r} of {len(body)} bytes")

    def end(self, exit: Exit) -> None:
        self._exit = exit
        self._finish()

    def lose(self, why: str) -> None:
        self._lost = why
        self._finish()

    def _finish(self) -> None:
        self.over = True
        self.stdout.end()
        self.stderr.end()
        self._wake()

    async def _change(self) -> None:
        change = asyncio.get_running_loop().create_future()
        self._changed.append(change)
        await change

    def _wake(self) -> None:
        for change in self._changed:
            if not change.done():
                change.set_result(None)
        self._changed.clear()
