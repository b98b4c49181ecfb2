"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Url = Annotated[
    str | None,
    # Not read from the variable here: a profile that is named counts before it.
    typer.Option("--url", metavar="URL", help="The gateway.  [env var: MAYFLY_URL]"),
]
Scopes = Annotated[
    list[str],
    typer.Option("--scope", metavar="SCOPE", help="submit, read, cancel or admin; may be given again."),
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", metavar="TENANT", help="Whose; for operators, else one's own.")
]
Status = Annotated[
    Literal["QUEUED", "SCHEDULED", "IN_PROGRESS", "RETRYING", "COMPLETED", "FAILED", "CANCELLED"] | None,
    typer.Option("--status", case_sensitive=False, help="Only tasks with this status."),
]
TaskType = Annotated[str | None, typer.Option("--type", metavar="NAME", help="Only of this function.")]
Tag = Annotated[str | None, typer.Option("--tag", help="Only with this tag.")]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task.")]
OutputFile = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write the result's bytes to a file; - is stdout."),
]
