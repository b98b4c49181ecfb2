"""Commands on dead letters, which are tasks that failed for good: ls, show, redrive, purge."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from mayfly.cli.options import Json, TaskId, Url
from mayfly.cli.output import FAILED, USAGE, confirm, fail, say, show, show_json, show_table, spinner
from mayfly.cli.times import past, shown

if TYPE_CHECKING:
    from mayfly.client import Purge, Redrive, Selection, Task

Type = Annotated[str | None, typer.Option("--type", metavar="NAME", help="Only of this function.")]
Error = Annotated[
    str | None,
    typer.Option("--error", metavar="TYPE", help="Only with this failure, such as Function.Timeout."),
]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=past, metavar="1h|TIME", help="Only failed since then."),
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=past, metavar="1h|TIME", help="Only failed before then."),
]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="These tasks.")]
All = Annotated[bool, typer.Option("--all", help="All there are.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

app: Final = typer.Typer(
    name="dlq",
    help="Dead letters: tasks that failed for good. List them, look at one, submit them again, forget them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def ls(
    task_type: Type = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 20,
    json: Json = False,
    url: Url = None,
) -> None:
    """List dead letters, newest first."""
    from itertools import islice

    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.dead_letters(
            task_type=task_type, error_type=error, since=since, until=until, limit=min(limit, 100)
        )
        tasks = list(islice(found, limit))
    if json:
        show_json({"tasks": tasks})
    else:
        show_table(("TASK", "FUNCTION", "ERROR", "FAILED", "ATTEMPTS", "MESSAGE"), map(_row, tasks))


@app.command("show")
def show_one(task_id: TaskId, json: Json = False, url: Url = None) -> None:
    """Show a dead letter: attempts, error, log."""
    from mayfly.cli.description import describe
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        task = client.get(task_id)
        if task.status.value != "FAILED":
            fail(f"task {task_id} is {task.status.value}, and no dead letter", code=FAILED)
        log = client.logs(task_id) if task.logs_url else ""
    if json:
        show_json({"task": task, "logs": log})
        return
    describe(task)
    if log:
        show(f"log\n{log.rstrip()}")


@app.command()
def redrive(
    task_ids: Ids = None,
    task_type: Type = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    yes: Yes = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Submit dead letters again, as new tasks.

    Some by their ids, those that the options name, or --all. Prints the new ids. Exits with 1 if one of
    them cannot be.
    """
    from mayfly.cli.gateway import connect

    selection = _selection(task_ids, task_type, error, since, until, everything)
    if everything:
        confirm("Submit every dead letter again?", yes=yes)
    with connect(url) as client, spinner("submitting again"):
        done = client.redrive(**selection)
    if json:
        show_json(done)
    else:
        for task in done.redriven:
            show(task.new_task_id)
    _ended(done, f"{len(done.redriven)} submitted again")


@app.command()
def purge(
    task_ids: Ids = None,
    task_type: Type = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    yes: Yes = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Forget dead letters for good.

    Some by their ids, those that the options name, or --all.
    """
    from mayfly.cli.gateway import connect

    selection = _selection(task_ids, task_type, error, since, until, everything)
    which = f"{len(task_ids)} dead letters" if task_ids else "every dead letter"
    confirm(f"Forget {which}{_named(task_type, error, since, until)} for good?", yes=yes)
    with connect(url) as client, spinner("forgetting"):
        done = client.purge(**selection)
    if json:
        show_json(done)
    _ended(done, f"{len(done.purged)} forgotten")


def _ended(done: "Redrive | Purge", summary: str) -> None:
    for failure in done.failed:
        say(f"error: the dead letter of task {failure.task_id} stays: {failure.detail or failure.code}")
    say(f"{summary}, {done.remaining} left" if done.remaining else summary)
    if done.failed or done.remaining:
        raise typer.Exit(FAILED)


def _selection(
    task_ids: list[str] | None,
    task_type: str | None,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    everything: bool,
) -> "Selection":
    """Ends the command where the options do not say which dead letters, or say it in two ways."""
    filters: Selection = {"task_type": task_type, "error_type": error, "since": since, "until": until}
    filtered = any(value is not None for value in filters.values())
    match (bool(task_ids), filtered, everything):
        case (True, False, False):
            return {"task_ids": task_ids}
        case (False, True, False):
            return filters
        case (False, False, True):
            return {"all": True}
        case (False, False, False):
            _unclear("it is not said which dead letters are meant")
        case _:
            _unclear("which dead letters are meant is said in two ways")


def _unclear(message: str) -> NoReturn:
    fail(
        message,
        hint="name some by their ids, or by --type, --error, --since and --until, or --all",
        code=USAGE,
    )


def _named(task_type: str | None, error: str | None, since: datetime | None, until: datetime | None) -> str:
    """The filters in words, as a question has them."""
    return "".join(
        (
            f" of {task_type}" if task_type else "",
            f" with {error}" if error else "",
            f" since {shown(since)}" if since else "",
            f" until {shown(until)}" if until else "",
        )
    )


def _row(task: "Task") -> tuple[str, ...]:
    error = task.error
    return (
        task.task_id,
        task.task_type or "",
        error.type if error else "",
        shown(task.finished_at),
        str(task.attempt or ""),
        error.message if error else "",
    )
