"""What `-d` and `-f` give: a payload as JSON, or as bytes with a content type."""

import mimetypes
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from mayfly.cli.output import USAGE, fail

JSON = "application/json"
OCTETS = "application/octet-stream"
FORM_TYPES = ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded")
"""Refused by the gateway, because any web page can send them."""

Data = Annotated[
    str | None,
    typer.Option(
        "-d",
        "--data",
        metavar="JSON|@FILE|-",
        help="The payload: JSON, @ and a file of JSON, or - for stdin.",
    ),
]
File = Annotated[
    Path | None,
    typer.Option("-f", "--file", metavar="FILE", help="A payload of bytes: the file's, as they are."),
]
ContentType = Annotated[
    str | None,
    typer.Option("--content-type", metavar="TYPE", help="What the file is; guessed from its name."),
]


class Payload(NamedTuple):
    """`data` is None for JSON; `value` is then what it says."""

    value: Any = None
    data: bytes | None = None
    content_type: str = JSON


def read_payload(data: str | None, file: Path | None, content_type: str | None) -> Payload:
    """Ends the command where the options make no payload."""
    if data is not None and file is not None:
        fail("-d and -f are both given; a task has one payload", code=USAGE)
    if content_type is not None and file is None:
        fail("--content-type says what -f is; with -d the payload is JSON", code=USAGE)
    if file is not None:
        return _bytes(file, content_type)
    return Payload() if data is None else Payload(_json(data))


def _json(data: str) -> Any:
    from mayfly.strictjson import StrictJSONError, loads

    try:
        return loads(_read(data))
    except StrictJSONError as error:
        hint = None
        if data.startswith("@"):
            hint = f"to send it as bytes: -f {data[1:]}"
        elif Path(data).is_file():
            hint = f"to send the file: -d @{data}"
        named = data[1:] if data.startswith("@") else {"-": "stdin"}.get(data, "what -d gives")
        fail(f"{named} is not JSON: {error}", hint=hint, code=USAGE)


def _read(data: str) -> bytes:
    if data == "-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        return _file(Path(data[1:]))
    return data.encode(errors="surrogateescape")


def _bytes(file: Path, content_type: str | None) -> Payload:
    guess = mimetypes.guess_type(file.name)[0]
    kind = content_type or (OCTETS if guess in FORM_TYPES or guess is None else guess)
    # The gateway reads a body of JSON as the whole request, so such a file goes as the payload in one.
    return Payload(_json(f"@{file}")) if kind == JSON else Payload(None, _file(file), kind)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}", code=USAGE)
