"""Where one task's output ends in the streams of a process that goes on to the next one. No I/O."""

import secrets
from typing import Final

from dispatcher.frames import HEADER

LAST: Final = b"BE"
"""The kinds of frame that end an answer: a result's body, a failure."""


def new_mark() -> bytes:
    """What is to end a task's log: nothing that a function writes by chance."""
    return b"\0" + secrets.token_hex(16).encode() + b"\n"


class AnswerEnd:
    """Finds the end of an answer in its frames, without looking into them."""

    def __init__(self) -> None:
        self.found = False
        self._header = bytearray()
        self._left = 0
        self._kind = 0

    def feed(self, data: bytes) -> int | None:
        """How many of these bytes belong to the answer, where it ends in them."""
        at = 0
        while at < len(data):
            if len(self._header) < HEADER:
                part = data[at : at + HEADER - len(self._header)]
                self._header += part
                at += len(part)
                if len(self._header) < HEADER:
                    return None
                self._left = int.from_bytes(self._header[1:], "big")
            step = min(self._left, len(data) - at)
            self._left -= step
            at += step
            if self._left == 0:
                self.found = self._header[0] in LAST
                if self.found:
                    return at
                self._header.clear()
        return None


class LogEnd:
    """Cuts a log at its mark, however the bytes come."""

    def __init__(self, mark: bytes) -> None:
        self.found = False
        self.rest = b""
        """What came after the mark: it is the next task's."""
        self._mark = mark
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What of the log is certain by now. Held is only what may be the mark's beginning."""
        data = self._held + data
        self._held = b""
        end = data.find(self._mark)
        if end >= 0:
            self.found = True
            self.rest = data[end + len(self._mark) :]
            return data[:end]
        start = data.find(self._mark[:1], max(0, len(data) - len(self._mark) + 1))
        while start >= 0:
            if self._mark.startswith(data[start:]):
                self._held = data[start:]
                return data[:start]
            start = data.find(self._mark[:1], start + 1)
        return data

    def end(self) -> bytes:
        """What is held, once nothing more comes."""
        held, self._held = self._held, b""
        return held
