"""Following a task: its progress and its log as they come, from the stream of events or by polling."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from mayfly.cli.output import printable, say

if TYPE_CHECKING:
    from mayfly.client import Client, Task

POLL_SECONDS: Final = 1.0
"""How long one look waits for the end, where there is no stream: as often the log is read."""


class Watcher(Protocol):
    """Who is told what happens to a task."""

    def status(self, task: "Task") -> None:
        """The task, whenever something of it has changed."""

    def log(self, text: str) -> None:
        """What the function wrote, in pieces that need not be lines."""


def follow(client: "Client", task_id: str, watcher: Watcher) -> "Task":
    """Tells `watcher` what happens to the task, and returns it at its end.

    Raises `ApiError` if there is no such task, and what the client raises if the gateway is gone.
    """
    from mayfly.client import ApiError, ClientError, LogEvent

    tail = Tail(watcher.log)
    try:
        for event in client.events(task_id):
            if isinstance(event, LogEvent):
                tail.went_on(event.text)
                continue
            tail.status(event.task)
            watcher.status(event.task)
            if event.task.ended:
                if event.task.logs_url and not tail.began:
                    # Of a task that ended long ago, the log is only in the store.
                    tail.catch_up(client, event.task)
                return event.task
    except ClientError as error:
        if isinstance(error, ApiError) and error.code == "unknown_task":
            raise
    return _poll(client, task_id, watcher, tail)


class Tail:
    """How much was told of each attempt's log, so that whoever reads the whole of it tells only the rest."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: dict[int, int] = {}
        """Characters, by attempt."""
        self._attempt = 1

    @property
    def began(self) -> bool:
        return bool(self._told)

    def status(self, task: "Task") -> None:
        if task.attempt:
            # A log can be ahead of the status: what comes after a failed attempt is the next one's.
            self._attempt = task.attempt + (task.status.value == "RETRYING")

    def went_on(self, text: str, attempt: int | None = None) -> None:
        number = attempt or self._attempt
        self._told[number] = self._told.get(number, 0) + len(text)
        self._tell(text)

    def catch_up(self, client: "Client", task: "Task") -> None:
        """Tells what is stored of the last attempt's log and has not been told."""
        from mayfly.client import ApiError

        if not task.attempt:
            return
        try:
            whole = client.logs(task.task_id)
        except ApiError:
            # A log that is away, or not there yet, is no reason to stop waiting.
            return
        if rest := whole[self._told.get(task.attempt, 0) :]:
            self.went_on(rest, task.attempt)


def _poll(client: "Client", task_id: str, watcher: Watcher, tail: Tail) -> "Task":
    from mayfly.client import WaitTimeout

    while True:
        try:
            task = client.wait(task_id, POLL_SECONDS)
        except WaitTimeout as late:
            task = late.task
        tail.status(task)
        tail.catch_up(client, task)
        watcher.status(task)
        if task.ended:
            return task


class Lines:
    """A log in whole lines: a bar below it is drawn again after each of them."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = ""

    def add(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._tell(line)

    def end(self) -> None:
        if self._rest:
            self._tell(self._rest)
        self._rest = ""


class Retelling:
    """Says on stderr what happens: log lines, and attempts that failed while more are due."""

    def __init__(self, tell: Callable[[str], None], draw: Callable[["Task"], None] | None = None) -> None:
        self._tell = tell
        self._draw = draw
        self._lines = Lines(tell)
        self._failed = 0

    def status(self, task: "Task") -> None:
        if task.status.value == "RETRYING" and task.attempt != self._failed:
            self._lines.end()
            self._tell(failed_attempt(task))
            self._failed = task.attempt or 0
        if self._draw:
            self._draw(task)

    def log(self, text: str) -> None:
        self._lines.add(text)

    def end(self) -> None:
        self._lines.end()


def failed_attempt(task: "Task") -> str:
    from mayfly.cli.times import shown

    why = f": {task.error.type}: {task.error.message}" if task.error else ""
    due = f"; the next is due at {shown(task.due_at)}" if task.due_at else ""
    return f"attempt {task.attempt or 1} failed{why}{due}"


@contextmanager
def retelling() -> Iterator[Watcher]:
    """A watcher that says on stderr what happens, above a bar where stderr is a terminal."""
    import sys

    if not sys.stderr.isatty():
        plain = Retelling(say)
        try:
            yield plain
        finally:
            plain.end()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    # What a function says of its progress is no markup.
    text = TextColumn("{task.description}", markup=False)
    columns = SpinnerColumn(), text, BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("waiting", total=None)

        def tell(line: str) -> None:
            progress.console.print(Text(printable(line, True)))

        def draw(task: "Task") -> None:
            how_far = task.progress.fraction if task.progress else None
            total = None if how_far is None else 1.0
            said = printable(doing(task), True)
            progress.update(bar, description=said, total=total, completed=how_far or 0, refresh=True)

        live = Retelling(tell, draw)
        try:
            yield live
        finally:
            live.end()


def doing(task: "Task") -> str:
    """What a task does, in a few words."""
    from mayfly.cli.times import shown

    said = [task.status.value]
    if task.progress:
        said.append(
            f"{task.progress.fraction:.0%} {' '.join((task.progress.message or '').split())}".rstrip()
        )
    elif task.due_at and not task.ended:
        said.append(f"due at {shown(task.due_at)}")
    return " ".join(said)
