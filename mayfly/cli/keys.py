"""Commands on API keys: generate, create, ls, revoke."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mayfly.cli.options import Json, Scopes, Tenant, Url
from mayfly.cli.output import say, show, show_json, show_table
from mayfly.cli.times import shown, span

if TYPE_CHECKING:
    from mayfly.client import Key

COLUMNS: Final = ("KEY", "NAME", "TENANT", "SCOPES", "CREATED", "BY", "LAST USED", "GOOD UNTIL")

app: Final = typer.Typer(
    name="keys",
    help="API keys, by which programs say who they are. Make one, list them, revoke one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def generate(json: Json = False) -> None:
    """Print a fresh key for MAYFLY_ADMIN_KEY. It needs no gateway, and is stored nowhere."""
    from mayfly.identity.keys import new_credential

    credential = str(new_credential())
    if json:
        show_json({"key": credential})
    else:
        show(credential)


@app.command()
def create(
    scope: Scopes,
    name: Annotated[str | None, typer.Option("--name", metavar="TEXT", help="A label for people.")] = None,
    expires: Annotated[
        timedelta | None,
        typer.Option("--expires", parser=span, metavar="30d", help="How long it is good for; for ever."),
    ] = None,
    tenant: Tenant = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Make a key and print it, this once.

    For example: mayfly keys create --scope submit --scope read --name mailer --expires 30d
    """
    from datetime import UTC, datetime

    from mayfly.cli.gateway import connect

    try:
        expires_at = None if expires is None else datetime.now(UTC) + expires
    except OverflowError:
        raise typer.BadParameter("--expires is too long") from None
    with connect(url) as client:
        made = client.create_key(scope, name=name, expires_at=expires_at, tenant=tenant)
    until = f" until {shown(made.expires_at)}" if made.expires_at else ""
    say(f"key {made.id} of {made.tenant}, good for {', '.join(made.scopes)}{until}; it is shown this once")
    if json:
        show_json(made)
    else:
        show(made.key)


@app.command()
def ls(json: Json = False, url: Url = None) -> None:
    """List the keys, without their secrets, the revoked ones too."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.keys()
    if json:
        show_json({"keys": found})
    else:
        show_table(COLUMNS, map(_row, found))


@app.command()
def revoke(
    key_id: Annotated[
        str, typer.Argument(metavar="ID", help="What stands between `mf_` and the point of the key.")
    ],
    json: Json = False,
    url: Url = None,
) -> None:
    """Revoke a key: within two seconds no gateway takes it any more."""
    from mayfly.cli.gateway import connect
    from mayfly.identity.keys import parse

    # Who gives the whole key means its id; the secret is not to get into a path, which is logged.
    whole = parse(key_id)
    with connect(url) as client:
        key = client.revoke_key(whole.id if whole else key_id.removeprefix("mf_"))
    say(f"key {key.id} is revoked")
    if json:
        show_json(key)


def _row(key: "Key") -> tuple[str, ...]:
    good = "revoked" if key.revoked_at else shown(key.expires_at)
    made, used = shown(key.created_at), shown(key.last_used_at)
    return key.id, key.name, key.tenant, " ".join(key.scopes), made, key.created_by, used, good
