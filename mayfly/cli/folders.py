"""Functions' folders, the stack's directory, and building the one for the other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.output import USAGE, fail, spinner

if TYPE_CHECKING:
    from docker import DockerClient

    from mayfly.errors import FunctionError
    from mayfly.function import Function

HOME = ".mayfly"
BUILD_SECONDS = 900
"""How long the engine may be silent during a build."""

FunctionsDir = Annotated[
    Path, typer.Option("--functions", metavar="DIR", help="The folder of the functions' folders.")
]


def nearest_home() -> Path | None:
    """The stack's directory of this folder, or of the nearest above it that has one."""
    here = Path.cwd()
    return next((place / HOME for place in (here, *here.parents) if (place / HOME).is_dir()), None)


def stack_environment() -> dict[str, str]:
    """What the stack of this folder tells a process, if there is one; where the engine is in any case."""
    import os

    from mayfly.stack import environment
    from mayfly.stack.engine import address
    from mayfly.stack.home import Home

    home = nearest_home() or Path(HOME)
    Home(home).make()
    told = environment(home)
    return {
        **told,
        "MAYFLY_DOCKER_HOST": address({**told, **os.environ}),
        "MAYFLY_STATE_DIR": str(home.resolve()),
    }


def find_folder(name: str, functions: Path) -> Path:
    """The folder of a function that is named, or that is a path."""
    path = Path(name)
    if len(path.parts) > 1 or name in (".", ".."):
        path = path.resolve()
    elif (functions / name).is_dir() or not path.is_dir():
        path = functions / name
    if path.is_dir():
        return path
    from mayfly.build import function_folders

    names = ", ".join(folder.name for folder in function_folders(functions))
    there = f"those there are: {names}" if names else f"`mayfly new {path.name}` makes one"
    fail(f"there is no folder {path}", hint=there, code=USAGE)


def build_one(folder: Path) -> "Function":
    """The function, built if it has changed. Raises `FunctionError` with the folder in its place."""
    from mayfly.build import build
    from mayfly.errors import FunctionError

    with spinner(f"building {folder.name}") as meanwhile:
        try:
            return build(folder, engine(), on_progress=meanwhile.say)
        except FunctionError as error:
            raise in_folder(error, folder) from error


def in_folder(error: "FunctionError", folder: Path) -> "FunctionError":
    """The error with its file as seen from here, not from the folder."""
    from mayfly.errors import FunctionError

    return FunctionError(str(error.args[0]), file=str(folder / (error.file or "")), line=error.line)


def engine() -> "DockerClient":
    """The engine that the stack would use. Raises `StackError`."""
    import docker

    from mayfly.stack.engine import ping

    host = stack_environment()["MAYFLY_DOCKER_HOST"]
    ping(host)
    return docker.DockerClient(base_url=host, timeout=BUILD_SECONDS)
