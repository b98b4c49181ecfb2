"""Traffic: which version of a function its tasks run on."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.options import Json, Url
from mayfly.cli.output import USAGE, fail, show_json, show_table

if TYPE_CHECKING:
    from mayfly.client import VersionShare


def traffic(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The function.")],
    shares: Annotated[
        list[str] | None,
        typer.Argument(metavar="VERSION=SHARE...", help="Such as v2=10%; the others keep what is left."),
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Show a function's versions and how many of its tasks run on each, or share them anew.

    A task runs on one version. One that has not begun follows the shares; one that is tried again stays on
    its version for as long as that one gets tasks.
    """
    from mayfly.cli.gateway import connect

    wanted = dict(map(_share, shares or ()))
    with connect(url) as client:
        found = client.set_traffic(name, wanted) if wanted else client.traffic(name)
    if json:
        show_json(found)
    else:
        show_table(("VERSION", "SHARE", "IMAGE", "DEPLOYED"), map(_row, found.versions))


def _share(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(v[1-9][0-9]{0,8})=([0-9]{1,3})%?", text)
    if found is None or int(found[2]) > 100:
        hint = "a version and whole percent, such as v2=10%; `mayfly traffic NAME` shows the versions"
        fail(f"{text!r} is no share", hint=hint, code=USAGE)
    return found[1], int(found[2])


def _row(one: "VersionShare") -> tuple[str, ...]:
    return one.version, f"{one.share}%", one.image, f"{one.deployed_at:%Y-%m-%d %H:%M:%S}"
