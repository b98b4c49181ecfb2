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
    """A task for each line of the file, whose payload it is. Prints their ids, in the lines' order."""
    numbers: list[int] = []
    made = refused = 0
    batches: list[str] = []
    shown: list[dict[str, Any]] = []
    submitted = client.submit_many(name, _payloads(file, numbers), chunk=CHUNK, **options)
    for index, one in enumerate(submitted):
        if one.batch_id and one.batch_id not in batches:
            batches.append(one.batch_id)
        made, refused = made + (one.error is None), refused + (one.error is not None)
        if as_json:
            shown.append(_plain(one, numbers[index]))
        elif one.task is not None:
            show(one.task.task_id)
        if one.error is not None:
            say(f"line {numbers[index]}: {one.error} ({one.error.code})")
    if as_json:
        show_json({"batches": batches, "tasks": shown})
    say(f"{made} accepted, {refused} refused")
    for one_batch in batches:
        say(f"`mayfly batch {one_batch}` tells how far they are")
    if refused:
        raise typer.Exit(FAILED)


def _plain(one: "Submitted", line: int) -> dict[str, Any]:
    if one.task is not None:
        return {"line": line, "taskId": one.task.task_id}
    assert one.error is not None
    return {"line": line, "code": one.error.code, "detail": one.error.detail}


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
