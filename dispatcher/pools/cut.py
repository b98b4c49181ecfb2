"""What one task has of the streams of a process that may go on to the next one: up to its own end."""

from collections.abc import Callable

from dispatcher.pools.marks import AnswerEnd, LogEnd
from dispatcher.runtimes.streams import Readable


class Answer(Readable):
    """A stdout up to the end of the answer, after which `on_end` gets what else had come. `first` is read
    before what the process writes."""

    def __init__(
        self, stdout: Readable, on_end: Callable[[bytes], None] = lambda rest: None, *, first: bytes = b""
    ) -> None:
        self._stdout = stdout
        self._on_end = on_end
        self._first = first
        self._end = AnswerEnd()

    @property
    def ended(self) -> bool:
        """By an answer."""
        return self._end.found

    def poll(self) -> bytes | None:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._end.found:
            return b""
        chunk = self._stdout.poll()
        if not chunk or (size := self._end.feed(chunk)) is None:
            return chunk
        self._on_end(chunk[size:])
        return chunk[:size]

    def then(self, call: Callable[[], None] | None) -> None:
        self._stdout.then(call)


class MarkedLog(Readable):
    """A stderr up to its mark. `rest` is what had come behind it."""

    def __init__(self, stderr: Readable, mark: bytes) -> None:
        self._stderr = stderr
        self._end = LogEnd(mark)

    @property
    def ended(self) -> bool:
        """By its mark."""
        return self._end.found

    @property
    def rest(self) -> bytes:
        return self._end.rest

    def poll(self) -> bytes | None:
        while not self._end.found:
            chunk = self._stderr.poll()
            if chunk is None:
                return None
            certain = self._end.feed(chunk) if chunk else self._end.end()
            if certain:
                return certain
            if not chunk:
                break
        return b""

    def then(self, call: Callable[[], None] | None) -> None:
        self._stderr.then(call)
