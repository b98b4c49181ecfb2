"""Commands on the local stack: up, down, status, workers, dispatcher."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.folders import HOME, FunctionsDir, nearest_home
from mayfly.cli.options import Json, Url
from mayfly.cli.output import FAILED, UNREACHABLE, fail, say, show, show_json, show_table, spinner

if TYPE_CHECKING:
    from mayfly.client import Client, Worker
    from mayfly.stack import PartState

Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="The stack's directory; else .mayfly here, or in a folder above."
    ),
]
WORKER_COLUMNS = ("WORKER", "QUEUE", "RUNNING", "SLOTS", "ADDRESS", "LAST SEEN")


def up(
    functions: FunctionsDir = Path("functions"),
    dispatchers: Annotated[int, typer.Option(min=1, max=64, help="How many dispatchers.")] = 1,
    mail: Annotated[bool, typer.Option("--mail", help="Start a mail server for the email example.")] = False,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Keep clear of the usual ports.")] = False,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where data and logs are kept.")
    ] = Path(HOME),
    json: Json = False,
) -> None:
    """Start the local stack and keep it up.

    It stays until Ctrl-C or `mayfly down`.

    Kafka, Redis, S3 and Docker are taken from the environment, else from what runs here, else started.
    Folders under --functions are deployed as they come and change.
    """
    import asyncio

    from mayfly.stack.serve import serve
    from mayfly.stack.stack import Stack

    with spinner("starting") as meanwhile:
        stack = Stack(
            directory,
            functions=functions,
            dispatchers=dispatchers,
            mail=mail,
            usual_ports=not free_ports,
            say=meanwhile.say,
        )

        async def ready() -> bool:
            meanwhile.stop()
            say(f"the gateway is at {stack.gateway}; Ctrl-C stops everything")
            if json:
                show_json({"gateway": stack.gateway, "parts": [_plain(part) for part in await stack.parts()]})
            return True

        asyncio.run(serve(stack, ready))


def down(directory: Directory = None, json: Json = False) -> None:
    """Stop the local stack, and what a killed one left. Its data stays."""
    import asyncio

    from mayfly.stack.serve import down as stop_stack

    home = directory or nearest_home()
    with spinner("stopping"):
        stopped = home is not None and asyncio.run(stop_stack(home))
    say("stopped" if stopped else "no stack is up here")
    if json:
        show_json({"stopped": stopped})


def status(directory: Directory = None, json: Json = False, url: Url = None) -> None:
    """Show the parts of the stack, the gateway and the dispatchers.

    Exits with 1 if one of them is not ready, with 3 if no gateway answers.
    """
    from mayfly.cli.gateway import connect, is_named

    parts = [] if is_named(url) else _states(directory)
    if not parts and not is_named(url):
        say("no stack is up here; `mayfly up` starts one")
    with connect(url, directory) as client:
        address = client.url
        needs, alive = _answers(client)
    ready = set(needs.values()) <= {"ready"} and all(part.ready for part in parts)
    if json:
        gateway = {"address": address, "needs": needs}
        plain = [_plain(part) for part in parts]
        show_json({"ready": ready, "gateway": gateway, "parts": plain, "workers": alive})
    else:
        show_table(("PART", "ADDRESS", "PID", "HEALTH"), _part_rows(parts, address, needs))
        show("")
        show_table(WORKER_COLUMNS, map(_worker_row, alive))
    if not ready:
        raise typer.Exit(UNREACHABLE if "gateway" in needs else FAILED)


def workers(json: Json = False, url: Url = None) -> None:
    """List the dispatchers that are alive."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.workers()
    if json:
        show_json({"workers": found})
    else:
        show_table(WORKER_COLUMNS, map(_worker_row, found))


def dispatcher(
    queue: Annotated[
        str, typer.Option("--queue", metavar="QUEUE", help="The queue that it serves.")
    ] = "default",
    slots: Annotated[int | None, typer.Option(min=1, metavar="N", help="Tasks that it runs at once.")] = None,
    json: Json = False,
) -> None:
    """Start one more dispatcher, for any queue.

    It runs on what the stack of this folder runs on, or, without one, on what the environment names. It
    stays until Ctrl-C, and then lets running tasks finish.
    """
    import os
    import sys

    from mayfly.cli.folders import stack_environment
    from mayfly.stack import running

    home = nearest_home()
    if "MAYFLY_KAFKA" not in os.environ and (home is None or running(home) is None):
        fail(
            "no stack is up here, and MAYFLY_KAFKA names no Kafka", hint="`mayfly up` starts one", code=FAILED
        )
    environment = {**stack_environment(), **os.environ}
    if slots is not None:
        environment["MAYFLY_SLOTS"] = str(slots)
    say(f"a dispatcher for the queue {queue}; Ctrl-C ends it")
    if json:
        show_json({"queue": queue, "pid": os.getpid()})
    # The command becomes the dispatcher, so that every signal reaches it. -P: a module in this folder must
    # not stand in for one of the dispatcher's.
    command = [sys.executable, "-P", "-m", "dispatcher", "--queue", queue]
    sys.stderr.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606


def _answers(client: "Client") -> "tuple[Mapping[str, str], Sequence[Worker]]":
    """What the gateway needs, and the dispatchers, as far as who asks may see them."""
    from mayfly.client import ClientError, Forbidden, Unauthenticated

    try:
        needs = client.readiness()
        return needs, client.workers()
    except (Unauthenticated, Forbidden) as error:
        say(f"the dispatchers are not shown: {error}")
        return needs, ()
    except ClientError as error:
        return {"gateway": str(error)}, ()


def _states(directory: Path | None) -> "list[PartState]":
    import asyncio

    from mayfly.stack.status import states

    home = directory or nearest_home()
    return list(asyncio.run(states(home))) if home else []


def _plain(part: "PartState") -> dict[str, object]:
    return {
        "name": part.name,
        "address": part.address,
        "pid": part.pid,
        "health": part.health,
        "startedBy": part.started_by,
        "data": part.data,
        "log": part.log,
    }


def _part_rows(
    parts: "Sequence[PartState]", address: str, needs: Mapping[str, str]
) -> Iterator[tuple[str, ...]]:
    """The stack's parts; without one, what the gateway says of those that it needs."""
    for part in parts:
        yield part.name, part.address, str(part.pid or ""), part.health
    if not parts:
        yield "gateway", address, "", needs.get("gateway", "answers")
        for name in sorted(needs.keys() - {"gateway"}):
            yield name, "", "", needs[name]


def _worker_row(worker: "Worker") -> tuple[str, ...]:
    seen = worker.last_heartbeat.astimezone().strftime("%H:%M:%S") if worker.last_heartbeat else ""
    return (worker.id, worker.queue, str(worker.running), str(worker.slots), worker.address or "", seen)
