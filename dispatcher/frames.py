"""The frames that a sandbox sends on its result channel.

A frame is a header of 5 bytes (kind, one ASCII letter; length of the body as u32, big-endian) and its body.
What comes from a sandbox may be anything: garbage is answered with a `Violation`, never with an exception.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

HEADER: Final = 5


class Frame(NamedTuple):
    kind: str
    body: bytes


class Violation(NamedTuple):
    """A header that is none, or whose frame would be over its kind's cap; nothing after it is read."""

    kind: str
    length: int
    cap: int | None
    """None for a kind that there is not."""


class FrameParser:
    """Cuts bytes into frames, however they come. `caps` holds each kind and its longest body."""

    def __init__(self, caps: Mapping[str, int]) -> None:
        self._caps = caps
        self._header = bytearray()
        self._kind = ""
        self._length = 0
        self._body = bytearray()
        self._broken = False

    def feed(self, data: bytes) -> list[Frame | Violation]:
        """The frames that these bytes complete. A body over its cap is refused at its header, unread."""
        found: list[Frame | Violation] = []
        at = 0
        while not self._broken:
            if not self._kind:
                part = data[at : at + HEADER - len(self._header)]
                self._header += part
                at += len(part)
                if len(self._header) < HEADER:
                    break
                violation = self._open()
                if violation is not None:
                    self._broken = True
                    found.append(violation)
                    break
            part = data[at : at + self._length - len(self._body)]
            self._body += part
            at += len(part)
            if len(self._body) < self._length:
                break
            found.append(Frame(self._kind, bytes(self._body)))
            self._kind = ""
            self._body = bytearray()
        return found

    def _open(self) -> Violation | None:
        kind = chr(self._header[0])
        length = int.from_bytes(self._header[1:], "big")
        self._header.clear()
        cap = self._caps.get(kind)
        if cap is None or length > cap:
            return Violation(kind, length, cap)
        self._kind, self._length = kind, length
        return None


def frame(kind: str, body: bytes) -> bytes:
    return kind.encode() + len(body).to_bytes(4, "big") + body
