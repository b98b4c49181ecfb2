"""`function.toml`: what a function asks for. Every key is optional."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import jsonschema_rs
import msgspec

from mayfly.errors import FunctionError

FILE: Final = "function.toml"

EnvName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of `function.toml`; `EXPECTED` says what each must be."""

    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 60.0
    """Seconds, from the moment the function has its input."""
    memory: Annotated[int, msgspec.Meta(ge=16, le=1048576)] = 256
    """MiB."""
    cpu: Annotated[float, msgspec.Meta(ge=0.01, le=1024)] = 1.0
    """Cores."""
    pids: Annotated[int, msgspec.Meta(ge=4, le=32768)] = 128
    """Processes and threads at once."""
    # The bootstrap keeps its streams on descriptors above 500.
    open_files: Annotated[int, msgspec.Meta(ge=512, le=1048576)] = 1024
    tmp: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 64
    """MiB of /tmp, the one place that a function can write to. They count as memory."""
    isolation: Literal["container"] = "container"
    network: Literal["none", "egress"] = "none"
    queue: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,62}$")] = "default"
    contract: Literal["python", "unix"] | None = None
    """Unset: `unix` where the folder has a Dockerfile, else `python`."""
    env: dict[EnvName, str] = {}
    secrets: tuple[EnvName, ...] = ()
    schema: dict[str, Any] | str | None = None
    """JSON Schema (2020-12) of the payload, or the name of a file that holds one; unset: read from the
    handler's type hint."""


EXPECTED: Final[Mapping[str, str]] = {
    "description": "a text of at most 1000 characters",
    "timeout": "a number of seconds, over 0 and at most 86400",
    "memory": "a whole number of MiB, from 16 to 1048576",
    "cpu": "a number of cores, from 0.01 to 1024",
    "pids": "a whole number of processes, from 4 to 32768",
    "open_files": "a whole number, from 512 to 1048576",
    "tmp": "a whole number of MiB, from 1 to 65536",
    "isolation": '"container"',
    "network": '"none" or "egress"',
    "queue": "lower-case letters, digits and hyphens, with a letter first",
    "contract": '"python" or "unix"',
    "env": "a table of texts, each named like a variable",
    "secrets": "a list of names, each like a variable's",
    "schema": "a table that holds a JSON Schema, or the name of a file that does",
}


def read_manifest(folder: Path) -> Manifest:
    """The folder's `function.toml`, or the defaults. Raises `FunctionError`."""
    path = folder / FILE
    if not path.exists():
        return Manifest()
    text = read_text(path, FILE)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = split_toml_error(str(error), text)
        raise FunctionError(f"not TOML: {message}", file=FILE, line=line) from error
    for key in values:
        _check_known(key, text)
    for key, value in values.items():
        try:
            msgspec.convert({key: value}, Manifest)
        except msgspec.ValidationError as error:
            raise FunctionError(
                f"{key} is {_show(value)}: it must be {EXPECTED[key]}", file=FILE, line=line_of(text, key)
            ) from error
    manifest = msgspec.convert(values, Manifest)
    _check_names(manifest, text)
    return manifest


def read_schema(folder: Path, manifest: Manifest) -> dict[str, Any] | None:
    """The schema that `function.toml` holds or names, checked to be one. Raises `FunctionError`."""
    if manifest.schema is None:
        return None
    line = line_of(read_text(folder / FILE, FILE), "schema")
    if isinstance(manifest.schema, dict):
        return _check_schema(manifest.schema, FILE, line)
    name = manifest.schema
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FunctionError(f'schema = "{name}" leads out of the folder', file=FILE, line=line)
    if not path.is_file():
        raise FunctionError(f'schema = "{name}": there is no such file', file=FILE, line=line)
    return _check_schema(read_json(path, name), name, None)


def read_text(path: Path, name: str) -> str:
    """A file of a function as text. Raises `FunctionError`, which calls it `name`."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        raise FunctionError("not UTF-8", file=name, line=before.count(b"\n") + 1) from error
    except OSError as error:
        raise FunctionError(f"cannot be read: {error.strerror}", file=name) from error


def read_json(path: Path, name: str) -> Any:
    """A file of a function as JSON. Raises `FunctionError`, which calls it `name`."""
    text = read_text(path, name)
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        position = re.search(r"\(byte (\d+)\)", str(error))
        line = text.encode()[: int(position[1])].count(b"\n") + 1 if position else None
        message = re.sub(r"^JSON is malformed: | \(byte \d+\)$", "", str(error))
        raise FunctionError(f"not JSON: {message}", file=name, line=line) from error


def line_of(text: str, key: str) -> int | None:
    """The line of a TOML text where `key` gets its value."""
    name = re.escape(key)
    found = re.search(rf"""^\s*(?:\[\s*)?["']?{name}["']?\s*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.end()) + 1 if found else None


def split_toml_error(message: str, text: str) -> tuple[str, int | None]:
    """tomllib puts the place into its message."""
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if not place:
        return message, None
    last = text.rstrip("\n").count("\n") + 1
    return message[: place.start()], int(place[1]) if place[1] else last


def _check_known(key: str, text: str) -> None:
    if key in EXPECTED:
        return
    near = difflib.get_close_matches(key, EXPECTED, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(EXPECTED)}"
    raise FunctionError(f"unknown key {key}: {hint}", file=FILE, line=line_of(text, key))


def _check_names(manifest: Manifest, text: str) -> None:
    for name in (*manifest.env, *manifest.secrets):
        if name.startswith("MAYFLY_"):
            raise FunctionError(
                f"{name}: names that start with MAYFLY_ are Mayfly's own", file=FILE, line=line_of(text, name)
            )
    for name in manifest.secrets:
        line = line_of(text, "secrets")
        if name in manifest.env:
            raise FunctionError(f"{name} is in both env and secrets", file=FILE, line=line)
        if manifest.secrets.count(name) > 1:
            raise FunctionError(f"{name} is in secrets twice", file=FILE, line=line)
    for name, value in manifest.env.items():
        if "\0" in value:
            raise FunctionError(f"env.{name} holds a NUL character", file=FILE, line=line_of(text, name))


def _check_schema(schema: Any, file: str, line: int | None) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise FunctionError("a JSON Schema is an object", file=file, line=line)
    try:
        jsonschema_rs.Draft202012Validator(schema)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        reason = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
        where = "".join(f".{step}" for step in getattr(error, "instance_path", ()))
        raise FunctionError(f"schema{where} is no JSON Schema: {reason}", file=file, line=line) from error
    return schema


def _show(value: Any) -> str:
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= 60 else text[:57] + "..."
