"""The command on webhooks: renew."""

from typing import Final

import typer

from mayfly.cli.options import Json, Url
from mayfly.cli.output import say, show, show_json
from mayfly.cli.times import shown

app: Final = typer.Typer(
    name="webhooks",
    help="Webhooks, which tell of a task's end. Make the secret that they are signed with.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def webhooks() -> None:
    # With a single command and no callback that command would be the group.
    pass


@app.command()
def renew(json: Json = False, url: Url = None) -> None:
    """Make a new secret to sign with and print it, this once. The one before signs beside it for a day."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        made = client.renew_webhook_secret()
    until = made.former_signs_until
    beside = f", and the one before beside it until {shown(until)}" if until else ""
    say(f"it signs the webhooks of {made.tenant}{beside}; it is shown this once")
    if json:
        show_json(made)
    else:
        show(made.secret)
