"""Commands on secrets: set, ls, rm, rotate, generate-key. A value is never an argument, and never shown."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mayfly.cli.options import Json, Url
from mayfly.cli.output import FAILED, USAGE, fail, say, show, show_json, show_table, spinner
from mayfly.cli.times import shown

if TYPE_CHECKING:
    from mayfly.client import Secret

Name = Annotated[str, typer.Argument(metavar="NAME", help="As a function names it in function.toml.")]

app: Final = typer.Typer(
    name="secrets",
    help="Secrets that functions name: set one, list them, remove one. Their values are never shown.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("set")
def set_one(
    name: Name,
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", metavar="FILE", help="Take the value from a file, as it is."),
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Set a secret: its value is asked for, or read from stdin or a file.

    A line end at the end of stdin is not part of it. Functions get it with their next task.
    """
    from mayfly.cli.gateway import connect
    from mayfly.identity.vault import MOST_BYTES

    if "=" in name:
        hint = "give the name alone: the value is asked for, or read from stdin or a file"
        fail(
            "a value is no argument: the shell's history and every `ps` would have it", hint=hint, code=USAGE
        )
    value = _value(name, file)
    if not value:
        fail("the value is empty", hint=f"`mayfly secrets rm {name}` takes a secret away", code=USAGE)
    if len(value) > MOST_BYTES:
        fail(f"the value has {len(value)} bytes, and may have {MOST_BYTES}", code=USAGE)
    with connect(url) as client:
        done = client.set_secret(name, value)
    if json:
        show_json(done)
    else:
        say(f"{name} is set")


@app.command()
def ls(json: Json = False, url: Url = None) -> None:
    """List the secrets: names, when and by whom they were set."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.secrets()
    if json:
        show_json({"secrets": found})
    else:
        show_table(("NAME", "SET", "BY", "KEY"), map(_row, found))


@app.command()
def rm(name: Name, json: Json = False, url: Url = None) -> None:
    """Remove a secret. Tasks of functions that name it then fail."""
    from mayfly.cli.gateway import connect

    with connect(url) as client:
        done = client.remove_secret(name)
    if json:
        show_json(done)
    else:
        say(f"{name} is gone")


@app.command()
def rotate(json: Json = False, url: Url = None) -> None:
    """Encrypt every secret anew under the key that is set now, so that the old one can go."""
    from mayfly.cli.gateway import connect

    with connect(url) as client, spinner("encrypting anew"):
        done = client.rotate_secrets()
    if json:
        show_json(done)
    for failure in done.failed:
        say(f"error: {failure.name} of {failure.tenant} stays under its old key: {failure.detail}")
    say(f"{done.rotated} encrypted anew")
    if done.failed:
        raise typer.Exit(FAILED)


@app.command("generate-key")
def generate_key(json: Json = False) -> None:
    """Print a new key for MAYFLY_SECRETS_KEY."""
    from mayfly.identity.vault import new_key

    if json:
        show_json({"key": new_key()})
    else:
        show(new_key())


def _value(name: str, file: Path | None) -> bytes:
    if file is not None:
        return file.read_bytes()
    if sys.stdin.isatty():
        from getpass import getpass

        # On the terminal itself: stdout is for results.
        return getpass(f"Value of {name}: ").encode()
    value = sys.stdin.buffer.read()
    return value.removesuffix(b"\n").removesuffix(b"\r") if value.endswith(b"\n") else value


def _row(secret: "Secret") -> tuple[str, ...]:
    return secret.name, shown(secret.updated_at), secret.updated_by, secret.key_id
