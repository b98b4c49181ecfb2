"""The command `doctor`."""

import typer

from mayfly.cli.options import Json
from mayfly.cli.output import FAILED, show, show_json


def doctor(json: Json = False) -> None:
    """Check this machine for what is missing, old or unsafe.

    Each finding comes with what mends it. Exits with 1 if something is missing that Mayfly cannot do without.
    """
    from mayfly.cli.checks import Check, Level, examine

    checks: list[Check] = []
    for check in examine():
        checks.append(check)
        if not json:
            show(f"{check.level:<8} {check.name:<13} {check.found}")
            if check.mend and check.level is not Level.OK:
                show(f"{'':<22} -> {check.mend}")
    missing = [check.name for check in checks if check.level is Level.MISSING]
    if json:
        show_json({"ok": not missing, "checks": checks})
    if missing:
        raise typer.Exit(FAILED)
