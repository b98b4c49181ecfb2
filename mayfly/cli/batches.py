"""Many tasks out of a file, and the command `batch`, which tells how far they are."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mayfly.cli.options import Json, Url
from mayfly.cli.output import FAILED, USAGE, fail, say, show, show_json, show_table

if TYPE_CHECKING:
    from mayfly.client import Client, Submitted, TaskOptions

CHUNK: Final = 10_000
"""Lines of one batch: as many as the gateway takes."""


def batch(
    batch_id: Annotated[str, typer.Argument(metavar="ID", help="The batch.")],
    json: Json = False,
    url: Url = None,
) -> None:
    """Show how many of a batch's tasks have come to what."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.batch(batch_id)
    if json:
        show_json(found)
        return
    rows = [(status.value, str(count)) for status, count in found.statuses.items() if count]
    show_table(("STATUS", "TASKS"), [*rows, ("ended", f"{found.ended} of {found.tasks}")])


def submit_lines(client: "Client", name: str, file: Path, options: "TaskOptions", *, as_json: bool) -> None:
    """A task for each line of the file, whose payload it is. Prints their ids, in the lines' order, and what
    became of each line that was answered for, also where the rest could not be sent."""
    from mayfly.client import ClientError

    told = _Told(as_json)
    numbers: list[int] = []
    try:
        submitted = client.submit_many(name, _payloads(file, numbers), chunk=CHUNK, **options)
        for index, one in enumerate(submitted):
            told.tell(one, numbers[index])
    except ClientError as error:
        if told.break_off(error.idempotency_key):
            error.idempotency_key = None  # that of one batch, which the lines so far are not of
        raise
    except typer.Exit:
        told.break_off()
        raise
    except KeyboardInterrupt:
        told.end()
        say("more lines than those may have been accepted")
        raise
    told.end()
    if told.failed:
        raise typer.Exit(FAILED)


class _Told:
    """What became of the lines so far."""

    def __init__(self, as_json: bool) -> None:
        self._last = 0
        """The last line that was answered for."""
        self._as_json = as_json
        self._made = self._refused = self._doubtful = 0
        self._batches: list[str] = []
        self._shown: list[dict[str, Any]] = []

    @property
    def failed(self) -> bool:
        return bool(self._refused or self._doubtful)

    def tell(self, one: "Submitted", line: int) -> None:
        self._last = line
        if one.batch_id and one.batch_id not in self._batches:
            self._batches.append(one.batch_id)
        if one.task is not None:
            self._made += 1
            self._show(line, one.task.task_id)
            return
        assert one.error is not None
        error, doubt = one.error, ""
        if error.idempotency_key is None:
            self._refused += 1
        else:
            self._doubtful += 1
            which = f"task {error.task_id}" if error.task_id else "its task"
            doubt = f"; {which} may have been accepted"
        self._show(line, error.task_id, code=error.code, detail=error.detail)
        say(f"line {line}: {error} ({error.code}){doubt}")

    def _show(self, line: int, task_id: str | None, **problem: str) -> None:
        if self._as_json:
            self._shown.append({"line": line, **({"taskId": task_id} if task_id else {}), **problem})
        elif task_id is not None and not problem:
            show(task_id)

    def break_off(self, key: str | None = None) -> bool:
        """What ended it is not about the lines so far, if there are any. With the key the next ones may have
        been sent."""
        if not self._last:
            return False
        self.end()
        once = f" with --key {key}, which makes none of them twice" if key else ""
        say(f"the lines after line {self._last} were not answered for: submit them again{once}")
        return True

    def end(self) -> None:
        if self._as_json:
            show_json({"batches": self._batches, "tasks": self._shown})
        doubtful = f", {self._doubtful} in doubt" if self._doubtful else ""
        say(f"{self._made} accepted, {self._refused} refused{doubtful}")
        for one_batch in self._batches:
            say(f"`mayfly batch {one_batch}` tells how far they are")


def _payloads(file: Path, numbers: list[int]) -> Iterator[Any]:
    """What the lines say; the number of each is left in `numbers`."""
    from mayfly.strictjson import StrictJSONError, loads

    try:
        stream = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", code=USAGE)
    with stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                value = loads(line)
            except StrictJSONError as error:
                fail(f"line {number} of {file} is not JSON: {error}", code=USAGE)
            numbers.append(number)
            yield value
