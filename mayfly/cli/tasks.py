"""Commands on tasks: submit, get, logs, ls."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mayfly.cli.options import Json, Url
from mayfly.cli.output import FAILED, fail, is_text, save, say, show, show_json, show_table, size
from mayfly.cli.payload import ContentType, Data, File, read_payload

if TYPE_CHECKING:
    from mayfly.client import Client, Task, TaskFailed

TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task.")]
OutputFile = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write the result's bytes to a file; - is stdout."),
]


def submit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The function.")],
    data: Data = None,
    file: File = None,
    content_type: ContentType = None,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait for the end and print the result.")
    ] = False,
    output: OutputFile = None,
    task_name: Annotated[str | None, typer.Option("--name", help="A name for the task.")] = None,
    priority: Annotated[Literal["high", "normal", "low"] | None, typer.Option(help="Its lane.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="What the function may take.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag to find it by; may be given again.")] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Submit a task: prints its id, or with --wait its result.

    For example: mayfly submit echo -d '{"text": "hello"}' --wait
    or, with bytes: mayfly submit thumbnail -f photo.jpg -o small.jpg
    """
    from mayfly.cli.gateway import connect

    payload = read_payload(data, file, content_type)
    with connect(url) as client:
        task = client.submit(
            name,
            payload.value,
            data=payload.data,
            content_type=payload.content_type,
            name=task_name,
            priority=priority,
            timeout=timeout,
            tags=tag or (),
        )
        if wait or output is not None:
            say(f"task {task.task_id} is {task.status.value}")
            _finish(client, _wait(client, task.task_id), output, as_json=json)
        elif json:
            show_json(task)
        else:
            show(task.task_id)


def get(
    task_id: TaskId,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end.")] = False,
    output: OutputFile = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show a task: status, times, result or error. Exits with 1 if it failed."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        task = _wait(client, task_id) if wait else client.get(task_id)
        if output is not None:
            if not task.ended:
                fail(f"task {task_id} is {task.status.value}", hint="--wait waits for its end", code=FAILED)
            _finish(client, task, output, as_json=json)
            return
        show_json(task) if json else _describe(task)
        if task.ended and not task.succeeded:
            raise typer.Exit(FAILED)


def logs(task_id: TaskId, json: Json = False, url: Url = None) -> None:
    """Print what the function wrote to its log."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        text = client.logs(task_id)
    if json:
        show_json({"taskId": task_id, "logs": text})
    elif text:
        show(text.removesuffix("\n"))


def ls(
    status: Annotated[
        Literal["QUEUED", "SCHEDULED", "IN_PROGRESS", "RETRYING", "COMPLETED", "FAILED", "CANCELLED"] | None,
        typer.Option(case_sensitive=False, help="Only tasks with this status."),
    ] = None,
    task_type: Annotated[
        str | None, typer.Option("--type", metavar="NAME", help="Only of this function.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
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
    rows = (
        (task.task_id, task.task_type or "", task.status.value, _time(task.created_at), _took(task))
        for task in tasks
    )
    show_table(("TASK", "FUNCTION", "STATUS", "CREATED", "TOOK"), rows)


def _wait(client: "Client", task_id: str) -> "Task":
    import sys

    if not sys.stderr.isatty():
        return client.wait(task_id)
    from rich.console import Console

    with Console(stderr=True).status(f"waiting for {task_id}"):
        return client.wait(task_id)


def _finish(client: "Client", task: "Task", output: Path | None, *, as_json: bool) -> None:
    """What is printed of a task that has ended, and the exit code."""
    from mayfly.client import TaskFailed

    if as_json:
        show_json(task)
    if not task.succeeded:
        _blame(TaskFailed(task))
    if output is not None:
        save(*client.result_bytes(task.task_id), output)
    elif not as_json:
        _show_result(client, task)


def _blame(failed: "TaskFailed") -> None:
    if failed.traceback:
        say(failed.traceback.rstrip())
    fail(str(failed), hint=f"its log: mayfly logs {failed.task.task_id}", code=FAILED)


def _show_result(client: "Client", task: "Task") -> None:
    from msgspec import UNSET

    kind = task.result_content_type or "application/json"
    if task.result is not UNSET:
        show_json(task.result)
    elif is_text(kind):
        show(client.result_bytes(task.task_id).body.decode(errors="replace").removesuffix("\n"))
    else:
        say(_elsewhere(task, kind))


def _elsewhere(task: "Task", kind: str) -> str:
    much = f"{size(task.result_size)} of {kind}" if task.result_size is not None else kind
    return f"the result is {much}; to save it: mayfly get {task.task_id} -o FILE"


def _describe(task: "Task") -> None:
    import json

    from msgspec import UNSET

    rows = {
        "task": task.task_id,
        "name": task.name,
        "function": task.task_type,
        "status": task.status.value,
        "progress": task.progress and f"{task.progress.fraction:.0%} {task.progress.message or ''}",
        "attempt": task.attempt and str(task.attempt),
        "queue": task.queue and f"{task.queue}, {task.priority or 'normal'} priority",
        "tags": ", ".join(task.tags),
        "created": _time(task.created_at),
        "started": _time(task.started_at),
        "finished": _time(task.finished_at),
        "took": _took(task),
        "worker": task.dispatcher,
        "image": task.image,
    }
    for key, value in rows.items():
        if value:
            show(f"{key:<9} {value}")
    if task.error:
        raised = f"{task.error.error_class}: " if task.error.error_class else ""
        show(f"error     {task.error.type}: {raised}{task.error.message}")
        if task.error.traceback:
            show(task.error.traceback.rstrip())
    if task.result is not UNSET:
        show("result    " + json.dumps(task.result, indent=2, ensure_ascii=False))
    elif task.succeeded:
        say(_elsewhere(task, task.result_content_type or "of an unknown type"))


def _time(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def _took(task: "Task") -> str:
    if task.started_at is None or task.finished_at is None:
        return ""
    return f"{(task.finished_at - task.started_at).total_seconds():.3f} s"
