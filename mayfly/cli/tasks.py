"""Commands on tasks: get, logs, ls, cancel."""

from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.description import describe, took
from mayfly.cli.ending import finish
from mayfly.cli.options import Json, OutputFile, Status, Tag, TaskId, TaskType, Url
from mayfly.cli.output import FAILED, USAGE, fail, say, show, show_json, show_piece, show_table
from mayfly.cli.times import shown

if TYPE_CHECKING:
    from mayfly.client import Client, Task

WAITING = ("SCHEDULED", "RETRYING")
"""Of these it is of interest when they are due."""


def get(
    task_id: TaskId,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end.")] = False,
    output: OutputFile = None,
    result_url: Annotated[
        bool,
        typer.Option("--result-url", help="Print a URL at which anybody gets the result, for a while."),
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show a task: status, times, result or error. Exits with 1 if it failed."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        task = _wait(client, task_id) if wait else client.get(task_id)
        if result_url:
            where = client.result_url(task_id)
            show_json(where) if json else show(where.url)
            return
        if output is not None:
            if not task.ended:
                fail(f"task {task_id} is {task.status.value}", hint="--wait waits for its end", code=FAILED)
            finish(client, task, output, as_json=json)
            return
        show_json(task) if json else describe(task)
        if task.ended and not task.succeeded:
            raise typer.Exit(FAILED)


def logs(
    task_id: TaskId,
    attempt: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="That attempt's; the last one's unless given.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task ends.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Print what the function wrote to its log.

    Of a task that runs, what it wrote so far; with -f, all that it writes until its end.
    """
    from mayfly.cli.gateway import connect

    if follow and attempt is not None:
        fail("-f follows the attempt that runs; --attempt names one", code=USAGE)
    with connect(url) as client:
        if follow and not json:
            _follow_log(client, task_id)
            return
        if follow:
            client.wait(task_id)
        text = client.logs(task_id, attempt)
    if json:
        show_json({"taskId": task_id, "logs": text})
    elif text:
        show(text.removesuffix("\n"))


def ls(
    status: Status = None,
    task_type: TaskType = None,
    tag: Tag = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 20,
    json: Json = False,
    url: Url = None,
) -> None:
    """List tasks, newest first."""
    from itertools import islice

    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.list(status=status, task_type=task_type, tag=tag, limit=min(limit, 100))
        tasks = list(islice(found, limit))
    if json:
        show_json({"tasks": tasks})
        return
    waiting = status in WAITING
    columns = ("TASK", "FUNCTION", "STATUS", "CREATED", "DUE" if waiting else "TOOK")
    rows = (
        (
            task.task_id,
            task.task_type or "",
            task.status.value,
            shown(task.created_at),
            shown(task.due_at or task.run_at) if waiting else took(task),
        )
        for task in tasks
    )
    show_table(columns, rows)


def cancel(
    task_ids: Annotated[list[str], typer.Argument(metavar="ID", help="The tasks.")],
    json: Json = False,
    url: Url = None,
) -> None:
    """Cancel tasks.

    One that waits never runs, one that runs is ended. Exits with 1 if one of them has ended otherwise.
    """
    from mayfly.cli.gateway import connect
    from mayfly.client import ApiError

    cancelled, failed = [], []
    with connect(url) as client:
        for task_id in task_ids:
            try:
                task = client.cancel(task_id)
            except ApiError as error:
                # What is not available for one is not for the next either.
                if error.status == 503:
                    raise
                failed.append({"taskId": task_id, "code": error.code, "detail": error.detail})
                say(f"error: task {task_id} is not cancelled: {error.detail}")
            else:
                cancelled.append(task)
                say(f"task {task_id} " + ("is cancelled" if task.ended else "is being cancelled"))
    if json:
        show_json({"tasks": cancelled, "failed": failed})
    if failed:
        raise typer.Exit(FAILED)


def _follow_log(client: "Client", task_id: str) -> None:
    from mayfly.cli.follow import failed_attempt, follow

    class Printing:
        """The log on stdout as it comes; what is said about it on stderr."""

        at_line_start = True
        failed = 0

        def status(self, task: "Task") -> None:
            if task.status.value == "RETRYING" and task.attempt != self.failed:
                self.failed = task.attempt or 0
                self.end()
                say(failed_attempt(task))

        def log(self, text: str) -> None:
            show_piece(text)
            self.at_line_start = text.endswith("\n")

        def end(self) -> None:
            if not self.at_line_start:
                self.log("\n")

    printing = Printing()
    follow(client, task_id, printing)
    printing.end()


def _wait(client: "Client", task_id: str) -> "Task":
    import sys

    if not sys.stderr.isatty():
        return client.wait(task_id)
    from rich.console import Console

    with Console(stderr=True).status(f"waiting for {task_id}"):
        return client.wait(task_id)
