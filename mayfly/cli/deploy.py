"""Commands on functions: build, functions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.folders import FunctionsDir, engine, find_folder, in_folder
from mayfly.cli.options import Json, Url
from mayfly.cli.output import FAILED, say, show, show_json, show_table, spinner

if TYPE_CHECKING:
    from mayfly.function import Function


def build(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Functions; all of them unless named.")
    ] = None,
    functions: FunctionsDir = Path("functions"),
    json: Json = False,
) -> None:
    """Build functions' images. What has not changed is not built again.

    Exits with 1 if one cannot be built, having built the others.
    """
    folders = [find_folder(name, functions) for name in names or ()] or all_folders(functions)
    built, errors = _build(folders)
    if json:
        show_json({"functions": built, "errors": errors})
    else:
        for function in built:
            show(function.image)
    for error in errors.values():
        say(f"error: {error}")
    if errors:
        raise typer.Exit(FAILED)


def functions(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of them, with its schema.")] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """List the functions that the gateway takes tasks for."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.functions() if name is None else (client.function(name),)
    if json:
        show_json({"functions": found} if name is None else found[0])
    elif name is not None:
        show_json(found[0])
    else:
        rows = ((info.name, info.version, info.contract, info.network, info.description) for info in found)
        show_table(("FUNCTION", "VERSION", "CONTRACT", "NETWORK", "DESCRIPTION"), rows)


def all_folders(functions: Path) -> list[Path]:
    """Ends the command where there is none."""
    from mayfly.build import function_folders
    from mayfly.cli.output import USAGE, fail

    found = function_folders(functions)
    if not found:
        fail(f"there is no function in {functions}", hint="`mayfly new NAME` makes one", code=USAGE)
    return found


def _build(folders: list[Path]) -> "tuple[list[Function], dict[str, str]]":
    from mayfly.build import build as build_folder
    from mayfly.errors import FunctionError

    built, errors = [], {}
    client = engine()
    with spinner("building", total=len(folders)) as meanwhile:
        for folder in folders:
            try:
                built.append(build_folder(folder, client, on_progress=meanwhile.say))
            except FunctionError as error:
                errors[folder.name] = str(in_folder(error, folder))
            meanwhile.advance()
    return built, errors
