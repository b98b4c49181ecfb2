"""Events as they happen, a task's or those of all tasks: server-sent events (the HTML standard, section 9.2).
Without any I/O."""

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from mayfly.client.errors import ClientError, UnexpectedAnswer
from mayfly.client.models import Task, TaskChange
from mayfly.client.wire import (
    LATER,
    LONGEST_PAUSE,
    NO_GATEWAY,
    Answer,
    Pause,
    Request,
    decode,
    given,
    media_type,
    params,
    problem,
    task_path,
)

T = TypeVar("T")

SILENCE_SECONDS: Final = 60.0
"""A stream that says nothing for so long is asked for again: its other end may be gone."""
AGAIN_PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try of a stream that broke, until one brings anything: about as long as a
gateway takes to be there again."""
EVENT_STREAM: Final = "text/event-stream"


@dataclass(frozen=True)
class StatusEvent:
    """The task has changed: its status, its attempt, its progress. The first event of every stream is one."""

    task: Task


@dataclass(frozen=True)
class LogEvent:
    """The function wrote to its log; what it wrote need not end with a line."""

    text: str


Event = StatusEvent | LogEvent


@dataclass(frozen=True)
class ChangeEvent:
    """One of the tasks has changed."""

    change: TaskChange
    id: str
    """Where a stream goes on that was told of it."""


@dataclass(frozen=True)
class ResetEvent:
    """Some changes may not have been told: who keeps a list of tasks makes it anew."""

    id: str


Change = ChangeEvent | ResetEvent


class Message(NamedTuple):
    event: str
    data: str
    id: str | None


class Messages:
    """Takes a stream apart. A message's id is also that of those after it, until one has another."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None
        self.place: str | None = None
        """The id of the last message that is whole, or of a heartbeat since."""

    def feed(self, chunk: bytes) -> Iterator[Message]:
        self._rest += self._decoder.decode(chunk)
        *lines, self._rest = self._rest.split("\n")
        for line in lines:
            if message := self._line(line.removesuffix("\r")):
                yield message

    def _line(self, line: str) -> Message | None:
        if not line:
            self.place = self._id
            message = Message(self._event or "message", "\n".join(self._data), self._id)
            worth = bool(self._data)
            self._event, self._data = "", []
            return message if worth else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id":
                self._id = value
        return None


class _LogData(msgspec.Struct):
    text: str


class Resumed(Generic[T]):
    """What is asked, and what comes of it, over as many connections as it takes.

    Drive it until it has `ended`: send the `request`; where the answer `opens` a stream, hand its body to
    `feed`, else the whole of it to `refused`; and take the `Pause` of `broken` when the connection ends.
    """

    def __init__(
        self, path: str, query: tuple[tuple[str, str], ...] = (), last_id: str | None = None
    ) -> None:
        self._path = path
        self._query = query
        self._messages = Messages()
        self._last_id = last_id
        self._open = False
        self._failures = 0

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        raise NotImplementedError

    def _events(self, message: Message) -> Iterator[T]:
        raise NotImplementedError

    def request(self) -> Request:
        self._messages, self._open = Messages(), False
        headers = {"accept": EVENT_STREAM}
        if self._last_id is not None:
            headers["last-event-id"] = self._last_id
        return Request("GET", self._path, self._query, headers=headers, silence=SILENCE_SECONDS)

    def opens(self, status: int, headers: Mapping[str, str]) -> bool:
        self._open = status == 200 and media_type(headers.get("content-type", "")) == EVENT_STREAM
        return self._open

    def refused(self, answer: Answer) -> Pause:
        """Raises `ApiError` or `UnexpectedAnswer`, unless the gateway can do it later."""
        if answer.status == 200:
            raise UnexpectedAnswer(f"the answer is no stream of events: {NO_GATEWAY}")
        error = problem(answer)
        if error.status not in LATER or (error.retry_after or 0) > LONGEST_PAUSE:
            raise error
        return Pause(max(self.broken(error).seconds, error.retry_after or 0))

    def feed(self, chunk: bytes) -> Iterator[T]:
        """The events that are whole by now."""
        self._failures = 0
        for message in self._messages.feed(chunk):
            self._last_id = message.id if message.id is not None else self._last_id
            yield from self._events(message)
        self._last_id = self._last_id if self._messages.place is None else self._messages.place

    def broken(self, error: ClientError, *, silent: bool = False) -> Pause:
        """How long to wait before the stream is asked for again. Raises `error` if it broke too often.

        A stream that was open and fell `silent` for too long is nobody's failure.
        """
        if silent and self._open:
            return Pause(0)
        if self._failures == len(AGAIN_PAUSES):
            raise error
        self._failures += 1
        return Pause(AGAIN_PAUSES[self._failures - 1])


class EventStream(Resumed[Event]):
    """A task's events. What a stream repeats after it broke is passed over."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_path(task_id, "events"))
        self._last: Task | None = None

    @property
    def ended(self) -> bool:
        return self._last is not None and self._last.ended

    def _events(self, message: Message) -> Iterator[Event]:
        if message.event == "log":
            yield LogEvent(decode(message.data, _LogData).text)
        elif message.event == "status":
            task = decode(message.data, Task)
            if task != self._last:
                self._last = task
                yield StatusEvent(task)


class ChangeStream(Resumed[Change]):
    """The changes of all tasks that the filters let through; without an end."""

    ended = False

    def __init__(
        self, task_type: str | None, status: str | None, tag: str | None, last_event_id: str | None
    ) -> None:
        query = given(taskType=task_type, status=status, tag=tag)
        super().__init__("/events", params(query), last_event_id)

    def _events(self, message: Message) -> Iterator[Change]:
        if message.event == "status":
            yield ChangeEvent(decode(message.data, TaskChange), message.id or "")
        elif message.event == "reset":
            yield ResetEvent(message.id or "")
