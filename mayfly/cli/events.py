"""The command events: what happens to all tasks, line by line."""

from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.options import Json, Status, Tag, TaskType, Url
from mayfly.cli.output import say, show, show_json_line

if TYPE_CHECKING:
    from mayfly.client import TaskChange


def events(
    task_type: TaskType = None,
    status: Status = None,
    tag: Tag = None,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on behind the event with this id, of --json.")
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Print what happens to tasks as it happens, until Ctrl-C.

    A line is a change: when, the status, the function, the task. With --json it is an object, with the id
    that --after takes.
    """
    from mayfly.cli.gateway import connect
    from mayfly.client import ChangeEvent

    with connect(url) as client:
        for event in client.stream(task_type=task_type, status=status, tag=tag, last_event_id=after):
            if isinstance(event, ChangeEvent):
                if json:
                    show_json_line({"id": event.id, "event": "status", "data": event.change})
                else:
                    show(_line(event.change))
            elif json:
                show_json_line({"id": event.id, "event": "reset", "data": {}})
            else:
                say("some changes may have been missed: `mayfly ls` lists the tasks as they are")


def _line(change: "TaskChange") -> str:
    import sys

    from mayfly.cli.times import shown

    attempt = f"attempt {change.attempt}" if change.attempt else ""
    said = shown(change.at), change.status.value, change.task_type, change.task_id, attempt
    cells = (*said, change.error_type or "")
    if not sys.stdout.isatty():
        return "\t".join(cells)
    # Nobody knows how wide what comes will be.
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, (19, 11, 12, 36, 9, 0), strict=True))
