"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="MAYFLY_URL", metavar="URL", help="The gateway.", show_envvar=True),
]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task.")]
OutputFile = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write the result's bytes to a file; - is stdout."),
]
