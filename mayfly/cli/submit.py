"""Commands that make tasks: submit, invoke, rerun."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mayfly.cli.batches import submit_lines
from mayfly.cli.ending import blame, finish
from mayfly.cli.options import Json, OutputFile, TaskId, Url
from mayfly.cli.output import USAGE, fail, is_text, save, say, show, show_json, size
from mayfly.cli.payload import ContentType, Data, File, read_payload
from mayfly.cli.times import moment, span

if TYPE_CHECKING:
    from mayfly.client import Bytes, Client, Task, TaskOptions

Wait = Annotated[
    bool,
    typer.Option("--wait", "-w", help="Wait for the end, with progress and log, and print the result."),
]


def submit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The function.")],
    data: Data = None,
    file: File = None,
    content_type: ContentType = None,
    upload: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file of any size as the payload: it goes to the store by itself."
        ),
    ] = None,
    wait: Wait = False,
    output: OutputFile = None,
    task_name: Annotated[str | None, typer.Option("--name", help="A name for the task.")] = None,
    priority: Annotated[Literal["high", "normal", "low"] | None, typer.Option(help="Its lane.")] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="QUEUE", help="The queue; the function's unless given.")
    ] = None,
    delay: Annotated[
        timedelta | None, typer.Option(parser=span, metavar="10m", help="Not before so long from now.")
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=moment, metavar="TIME", help="Not before then, such as 2026-12-01T09:00:00+01:00."
        ),
    ] = None,
    ttl: Annotated[
        timedelta | None,
        typer.Option(parser=span, metavar="1h", help="Fail it if it has not begun so long after it was due."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="What the function may take.")
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Attempts in all; as the function says unless given."),
    ] = None,
    no_redeliver: Annotated[
        bool,
        typer.Option("--no-redeliver", help="Fail it if its sandbox is lost, instead of running it again."),
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Idempotency-Key: a second task with it is the first one again."),
    ] = None,
    concurrency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Tasks with the same key do not run at once.")
    ] = None,
    callback: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Post the task there when it has ended."),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag to find it by; may be given again.")] = None,
    batch: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A task for each line of JSON in a file, - for stdin."),
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Submit a task: prints its id, or with --wait its result.

    For example: mayfly submit echo -d '{"text": "hello"}' --wait
    or, with bytes: mayfly submit thumbnail -f photo.jpg -o small.jpg
    or, with many of them: mayfly submit transcode --upload film.mp4
    or, for later: mayfly submit report --delay 10m --key report-of-today
    or, many: mayfly submit echo --batch payloads.ndjson
    """
    from mayfly.cli.gateway import connect

    if delay is not None and at is not None:
        fail("--delay and --at are both given; a task is due once", code=USAGE)
    options: TaskOptions = {
        "name": task_name,
        "priority": priority,
        "timeout": timeout,
        "tags": tag or (),
        "delay": delay,
        "run_at": at,
        "ttl": ttl,
        "retry": max_attempts,
        "queue": queue,
        "redeliver": False if no_redeliver else None,
        "concurrency_key": concurrency_key,
        "callback_url": callback,
        "idempotency_key": key,
    }
    if batch is not None:
        if data is not None or file is not None or upload is not None or wait or output is not None:
            hint = "leave out -d, -f, --upload, -w and -o"
            fail(f"--batch has the payloads, and waits for nothing: {hint}", code=USAGE)
        with connect(url) as client:
            submit_lines(client, name, batch, options, as_json=json)
        return
    if upload is not None:
        if data is not None or file is not None:
            fail("--upload is the payload: leave out -d and -f", code=USAGE)
        with connect(url) as client:
            options |= {"upload": _uploaded(client, upload, content_type)}
            task = client.submit(name, **options)
            _submitted(client, task, wait, output, as_json=json)
        return
    payload = read_payload(data, file, content_type)
    with connect(url) as client:
        options |= {"data": payload.data, "content_type": payload.content_type}
        task = client.submit(name, payload.value, **options)
        _submitted(client, task, wait, output, as_json=json)


def invoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The function.")],
    data: Data = None,
    file: File = None,
    content_type: ContentType = None,
    output: OutputFile = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="What the function may take.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="How long to wait; unless given, to its end."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Idempotency-Key: a second call with it is the first one again."),
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Call a function, wait for its result and print it.

    For example: mayfly invoke echo -d '{"text": "hello"}'
    """
    from mayfly.cli.gateway import connect
    from mayfly.client import TaskFailed

    payload = read_payload(data, file, content_type)
    with connect(url) as client:
        try:
            result = client.invoke_bytes(
                name,
                payload.value,
                data=payload.data,
                content_type=payload.content_type,
                timeout=timeout,
                wait=wait,
                idempotency_key=key,
            )
        except TaskFailed as error:
            blame(error)
    if output is not None:
        save(result.body, result.content_type, output)
    else:
        _show_result(result, as_json=json)


def _show_result(result: "Bytes", *, as_json: bool) -> None:
    from mayfly.client.calls import value_of

    value = value_of(result)
    if as_json:
        show_json({"contentType": result.content_type, "result": value})
    elif not isinstance(value, bytes):
        show_json(value)
    elif is_text(result.content_type):
        show(value.decode(errors="replace").removesuffix("\n"))
    else:
        say(f"the result is {size(len(value))} of {result.content_type}; to save it: -o FILE")


def rerun(
    task_id: TaskId,
    latest: Annotated[
        bool, typer.Option("--latest", help="On the function's newest image, not the one that it ran on.")
    ] = False,
    wait: Wait = False,
    output: OutputFile = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Run a task's input once more, as a new task.

    Prints its id, or with --wait its result.
    """
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        _submitted(client, client.rerun(task_id, latest=latest), wait, output, as_json=json)


def _uploaded(client: "Client", file: Path, content_type: str | None) -> str:
    try:
        return client.upload(file, content_type)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", code=USAGE)


def _submitted(client: "Client", task: "Task", wait: bool, output: Path | None, *, as_json: bool) -> None:
    if wait or output is not None:
        say(f"task {task.task_id} is {task.status.value}")
        finish(client, _end(client, task.task_id), output, as_json=as_json)
    elif as_json:
        show_json(task)
    else:
        show(task.task_id)


def _end(client: "Client", task_id: str) -> "Task":
    from mayfly.cli.follow import follow, retelling

    try:
        with retelling() as watcher:
            return follow(client, task_id, watcher)
    except KeyboardInterrupt:
        say(f"task {task_id} goes on; `mayfly cancel {task_id}` ends it")
        raise
