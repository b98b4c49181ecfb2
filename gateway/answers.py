"""Answers, as they go over the wire."""

from collections.abc import Awaitable, Generator, Iterable
from typing import Any, Final

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from gateway.errors import Problem

_CONTENT_LENGTH: Final = b"content-length"
_CONTROLS: Final = bytes({*range(32), 127} - {ord("\t")})
"""What no header may hold."""


class _Done:
    """What nobody has to wait for."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


_DONE: Final = _Done()


class Answer:
    """How a request is answered: as uvicorn does, but what comes whole is written in one piece. By itself
    uvicorn writes head and body one by one: each would be a call to the system, a packet, and a client that
    is woken up."""

    __slots__ = ("_as_ever", "_cycle", "_head")

    def __init__(self, cycle: RequestResponseCycle, as_ever: Send) -> None:
        self._cycle = cycle
        self._as_ever = as_ever
        self._head: Any = None
        """Of an answer that begins with its length, until the first piece of its body is there."""

    def send(self, message: Any) -> Awaitable[None]:
        head, self._head = self._head, None
        if head is not None:
            return _DONE if self._write_whole(head, message) else self._one_by_one(head, message)
        first = next(iter(message.get("headers", ())), None)
        if first is None or first[0] != _CONTENT_LENGTH:
            return self._as_ever(message)
        self._head = message
        return _DONE

    async def _one_by_one(self, head: Any, message: Any) -> None:
        await self._as_ever(head)
        await self._as_ever(message)

    def _write_whole(self, head: Any, message: Any) -> bool:
        """Unless there is more to it than to write it: whether it did."""
        cycle, headers, body = self._cycle, head["headers"], message.get("body", b"")
        if (
            message["type"] != "http.response.body"
            or message.get("more_body")
            or len(body) != int(headers[0][1])
            or not cycle.keep_alive
            or cycle.disconnected
            or cycle.flow.write_paused
            or cycle.scope["method"] == "HEAD"
        ):
            return False
        pairs = [*cycle.default_headers, *headers]
        raw = _raw_head(head["status"], pairs)
        ends = len(pairs) + 2
        if len(raw) - len(raw.translate(None, _CONTROLS)) != 2 * ends or b"\nconnection:" in raw:
            # A header with a line end in it, which uvicorn refuses; or one that has the connection closed.
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(raw + body)
        cycle.message_event.set()
        cycle.on_response()
        return True


def written(problem: Problem) -> bytes:
    """For where there is no request to answer by."""
    answer = problem.response()
    return _raw_head(answer.status_code, answer.raw_headers) + bytes(answer.body)


def _raw_head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [STATUS_LINE[status]]
    for name, value in headers:
        lines += name, b": ", value, b"\r\n"
    lines.append(b"\r\n")
    return b"".join(lines)
