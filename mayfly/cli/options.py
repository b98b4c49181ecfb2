"""Options that several commands have."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="MAYFLY_URL", metavar="URL", help="The gateway.", show_envvar=True),
]
