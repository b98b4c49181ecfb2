"""Commands on users: create, ls, disable, passwd."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from mayfly.cli.options import Json, Scopes, Tenant, Url
from mayfly.cli.output import say, show_json, show_table
from mayfly.cli.times import shown

if TYPE_CHECKING:
    from mayfly.client import User

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user.")]

app: Final = typer.Typer(
    name="users",
    help="Users: people, who log in by name and password. Make one, list them, disable one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def create(name: Name, scope: Scopes, tenant: Tenant = None, json: Json = False, url: Url = None) -> None:
    """Make a user, who can then `mayfly login`.

    The password is asked for, or is the first line of stdin.
    """
    from mayfly.cli.gateway import connect
    from mayfly.cli.password import read_password

    with connect(url) as client:
        made = client.create_user(name, read_password(f"password of {name}", new=True), scope, tenant=tenant)
    say(f"user {made.name} of {made.tenant}, who may {', '.join(made.scopes)}")
    if json:
        show_json(made)


@app.command()
def ls(json: Json = False, url: Url = None) -> None:
    """List the users, the disabled ones too."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.users()
    if json:
        show_json({"users": found})
    else:
        show_table(("USER", "TENANT", "SCOPES", "CREATED", "BY", "DISABLED"), map(_row, found))


@app.command()
def disable(name: Name, json: Json = False, url: Url = None) -> None:
    """Let a user log in no more, and end its tokens. The name is not given again."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        user = client.disable_user(name)
    say(f"user {user.name} is disabled, and its tokens are refused")
    if json:
        show_json(user)


@app.command()
def passwd(name: Name, json: Json = False, url: Url = None) -> None:
    """Give a user another password, and end the tokens of the one before.

    The password is asked for, or is the first line of stdin.
    """
    from mayfly.cli.gateway import connect
    from mayfly.cli.password import read_password

    with connect(url) as client:
        user = client.set_password(name, read_password(f"new password of {name}", new=True))
    say(f"user {user.name} has another password" + (", and is disabled" if user.disabled_at else ""))
    if json:
        show_json(user)


def _row(user: "User") -> tuple[str, ...]:
    scopes = " ".join(user.scopes)
    return user.name, user.tenant, scopes, shown(user.created_at), user.created_by, shown(user.disabled_at)
