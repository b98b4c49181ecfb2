"""The command that has the read model written anew."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from mayfly.cli.options import Json, Url
from mayfly.cli.output import FAILED, fail, say, show_json, spinner

if TYPE_CHECKING:
    from mayfly.client import Client, Rebuild

LOOK_SECONDS: Final = 0.25


def rebuild(
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long to wait for its end.")
    ] = 120,
    json: Json = False,
    url: Url = None,
) -> None:
    """Write what Redis knows of tasks anew, from the log.

    The dispatchers of each queue do it. Until it is done, reading tasks is answered with 503.
    """
    from mayfly.cli.gateway import connect

    with connect(url) as client, spinner("rebuilding from the log"):
        state = _until_complete(client, client.rebuild(), timeout)
    if json:
        show_json(state)
    if not state.complete:
        queues = ", ".join(state.queues)
        fail(
            f"not complete within {timeout:g} s: something is missing still of queue {queues}",
            hint="a dispatcher of each queue named must run; `mayfly workers` lists those that do, and "
            "the rebuild goes on",
            code=FAILED,
        )
    if not json:
        say("complete: Redis has all that the log has")


def _until_complete(client: "Client", state: "Rebuild", timeout: float) -> "Rebuild":
    import time

    deadline = time.monotonic() + timeout
    while not state.complete and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(LOOK_SECONDS, left))
        state = client.rebuild_state()
    return state
