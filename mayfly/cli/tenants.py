"""Commands on tenants: ls, set."""

import math
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mayfly.cli.options import Json, Url
from mayfly.cli.output import say, show_json, show_table

if TYPE_CHECKING:
    from mayfly.client import Allowance

COLUMNS: Final = ("TENANT", "REQUESTS PER SECOND", "WAITING TASKS", "RUNNING TASKS", "PAYLOAD BYTES PER DAY")
OTHERS: Final = "(all others)"

app: Final = typer.Typer(
    name="tenants",
    help="Tenants: list and set what each may ask for. For operators.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def ls(json: Json = False, url: Url = None) -> None:
    """List what was set for tenants, and what holds for all others. Where nothing is shown there is none."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.tenants()
    if json:
        show_json(found)
    else:
        rows = [(one.tenant, *_cells(one.allowance)) for one in found.tenants]
        show_table(COLUMNS, [*rows, (OTHERS, *_cells(found.defaults))])


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not (math.isfinite(rate) and rate > 0):
        raise typer.BadParameter(f"{text!r} is no number above 0")
    return rate


@app.command("set")
def set_one(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The tenant.")],
    requests_per_second: Annotated[
        float | None,
        typer.Option(
            "--requests-per-second",
            metavar="N",
            parser=_rate,
            help="On average; 5 s' worth may come at once.",
        ),
    ] = None,
    waiting_tasks: Annotated[
        int | None, typer.Option("--waiting-tasks", metavar="N", min=0, help="Tasks that wait to run.")
    ] = None,
    running_tasks: Annotated[
        int | None,
        typer.Option("--running-tasks", metavar="N", min=0, help="Tasks that run while another is posted."),
    ] = None,
    payload_bytes_per_day: Annotated[
        int | None,
        typer.Option("--payload-bytes-per-day", metavar="N", min=0, help="Of the bodies that bring tasks."),
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Set what a tenant may ask for, in place of all that was set for it before.

    Of what is not given, that holds which holds for all.
    """
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        done = client.set_tenant(
            name,
            requests_per_second=requests_per_second,
            waiting_tasks=waiting_tasks,
            running_tasks=running_tasks,
            payload_bytes_per_day=payload_bytes_per_day,
        )
    if json:
        show_json(done)
    else:
        cells = zip(COLUMNS[1:], _cells(done.allowance), strict=True)
        own = ", ".join(f"{column.lower()} {cell}" for column, cell in cells if cell)
        say(f"{done.tenant} may have: {own}" if own else f"what holds for all holds for {done.tenant}")


def _cells(allowance: "Allowance") -> tuple[str, ...]:
    rate = allowance.requests_per_second
    counts = allowance.waiting_tasks, allowance.running_tasks, allowance.payload_bytes_per_day
    return "" if rate is None else f"{rate:g}", *("" if one is None else str(one) for one in counts)
