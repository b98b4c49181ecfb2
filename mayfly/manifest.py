"""`function.toml`: what a function asks for. Every key is optional."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import jsonschema_rs
import msgspec

from mayfly import fargate
from mayfly.errors import FunctionError
from mayfly.retry import DEFAULTS
from mayfly.task import MAX_ATTEMPTS, FailureType, RetryPolicy
from mayfly.typed import known
from mayfly.webhooks import callback

FILE: Final = "function.toml"
HANDLER: Final = "handler.handler"

QueueName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
HandlerName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_]\w*([./][A-Za-z_]\w*)*\.[A-Za-z_]\w*$")]
EnvName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Retries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `retries`, as `mayfly.task.RetryPolicy` has it."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=MAX_ATTEMPTS)] | None = None
    initial_delay: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    max_delay: Annotated[float, msgspec.Meta(ge=0, le=604_800)] | None = None
    retry_on: tuple[FailureType, ...] | None = None
    never_on: tuple[FailureType, ...] | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of `function.toml`; `EXPECTED` says what each must be."""

    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    handler: HandlerName = HANDLER
    """What a Python function's tasks call: a module of the folder, a point, and a name in it."""
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
    isolation: Literal["container", "fork", "warm"] = "container"
    warm_pool: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    """Sandboxes that each dispatcher keeps ready; unset: as the function's use asks for."""
    network: Literal["none", "egress"] = "none"
    runtime: Literal["ecs"] | None = None
    """What runs its tasks; unset: what the dispatcher runs tasks with."""
    queue: QueueName = "default"
    retries: Annotated[int, msgspec.Meta(ge=0, lt=MAX_ATTEMPTS)] | Retries | None = None
    """How often a failed attempt is tried again, or a table that says it in full. 0 is a policy: a function
    that asks for another attempt gets none. Unset is none: it gets some."""
    redeliver: bool = True
    """Whether a task whose sandbox was lost runs again."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    """Tasks that run at once, over all dispatchers; of each `concurrencyKey`, where tasks have one."""
    contract: Literal["python", "unix"] | None = None
    """Unset: `unix` where the folder has a Dockerfile, else `python`."""
    env: dict[EnvName, str] = {}
    secrets: tuple[EnvName, ...] = ()
    schema: dict[str, Any] | str | None = None
    """JSON Schema (2020-12) of the payload, or the name of a file that holds one; unset: read from the
    handler's type hint."""

    callback_url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)] | None = None
    """Where the ends of its tasks are posted to, of those that do not say it themselves."""

    @property
    def entry(self) -> str:
        """The handler with points only: AWS Lambda takes a module's path as well."""
        return self.handler.replace("/", ".")

    @property
    def module(self) -> str:
        """The file of the handler's module, in the folder."""
        return self.entry.rpartition(".")[0].replace(".", "/") + ".py"

    @property
    def policy(self) -> RetryPolicy:
        if isinstance(self.retries, Retries):
            return RetryPolicy(**msgspec.structs.asdict(self.retries))
        return RetryPolicy(max_attempts=None if self.retries is None else self.retries + 1)


EXPECTED: Final[Mapping[str, str]] = {
    "description": "a text of at most 1000 characters",
    "handler": 'a module and a name in it, such as "lambda_function.lambda_handler"',
    "timeout": "a number of seconds, over 0 and at most 86400",
    "memory": "a whole number of MiB, from 16 to 1048576",
    "cpu": "a number of cores, from 0.01 to 1024",
    "pids": "a whole number of processes, from 4 to 32768",
    "open_files": "a whole number, from 512 to 1048576",
    "tmp": "a whole number of MiB, from 1 to 65536",
    "isolation": '"container", "fork" or "warm"',
    "warm_pool": "a whole number of sandboxes, from 0 to 1000",
    "network": '"none" or "egress"',
    "runtime": '"ecs", or left out for what the dispatcher runs tasks with',
    "queue": "lower-case letters, digits and hyphens, with a letter first",
    "retries": "a whole number from 0 to 99, or a table",
    "redeliver": "true or false",
    "concurrency": "a whole number of tasks at once, at least 1",
    "contract": '"python" or "unix"',
    "env": "a table of texts, each named like a variable",
    "secrets": "a list of names, each like a variable's",
    "schema": "a table that holds a JSON Schema, or the name of a file that does",
    "callback_url": "an absolute URL of at most 2048 characters",
}
RETRYABLE: Final = DEFAULTS.retry_on or ()
"""What a policy decides on; all else that befalls a task is not the function's doing."""
_FAILURES: Final = f"a list of failures, of {', '.join(RETRYABLE)}"
EXPECTED_OF_RETRIES: Final[Mapping[str, str]] = {
    "max_attempts": "a whole number of attempts in all, from 1 to 100",
    "initial_delay": "a number of seconds, from 0 to 86400",
    "max_delay": "a number of seconds, from 0 to 604800",
    "retry_on": _FAILURES,
    "never_on": _FAILURES,
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
        _check_known(key, EXPECTED, line_of(text, key))
    if isinstance(table := values.get("retries"), dict):
        _check_retries(table, text)
    for key, value in values.items():
        _check_value(key, value, Manifest, EXPECTED, line_of(text, key))
    manifest = msgspec.convert(values, known(Manifest))
    _check_names(manifest, text)
    _check_runtime(manifest, text)
    _check_callback(manifest, text)
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


def _check_known(key: str, known: Mapping[str, str], line: int | None, table: str = "") -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {table}{near[0]}?" if near else f"known are: {', '.join(known)}"
    raise FunctionError(f"unknown key {table}{key}: {hint}", file=FILE, line=line)


def _check_value(
    key: str, value: Any, kind: type, expected: Mapping[str, str], line: int | None, table: str = ""
) -> None:
    try:
        msgspec.convert({key: value}, known(kind))
    except msgspec.ValidationError as error:
        message = f"{table}{key} is {_show(value)}: it must be {expected[key]}"
        raise FunctionError(message, file=FILE, line=line) from error


def _check_retries(table: dict[str, Any], text: str) -> None:
    """Each key of its own, so that the one that is wrong is named."""
    for key, value in table.items():
        line = _line_in("retries", key, text)
        _check_known(key, EXPECTED_OF_RETRIES, line, "retries.")
        _check_value(key, value, Retries, EXPECTED_OF_RETRIES, line, "retries.")
        if key in ("retry_on", "never_on") and not set(value) <= set(RETRYABLE):
            message = f"retries.{key} is {_show(value)}: it must be {EXPECTED_OF_RETRIES[key]}"
            raise FunctionError(message, file=FILE, line=line)


def _line_in(table: str, key: str, text: str) -> int | None:
    """The line of a table's key: under its header, or dotted; else, where it is inline, the table's."""
    start = line_of(text, table) or 1
    rest = text.split("\n", start - 1)[-1]
    found = line_of(rest, f"{table}.{key}") or line_of(rest, key)
    return start + (found or 1) - 1


def _check_callback(manifest: Manifest, text: str) -> None:
    """Its form only: where callbacks may lead is for the services' settings to say."""
    if manifest.callback_url is None:
        return
    try:
        callback.parse(manifest.callback_url)
    except ValueError as error:
        line = line_of(text, "callback_url")
        raise FunctionError(f"callback_url {error}", file=FILE, line=line) from error


def _check_runtime(manifest: Manifest, text: str) -> None:
    """What a task of ECS cannot be, or cannot do without."""
    if manifest.runtime is None:
        return
    faults = fargate.refusals(
        isolation=manifest.isolation,
        warm_pool=manifest.warm_pool,
        network=manifest.network,
        cpu=manifest.cpu,
        memory=manifest.memory,
    )
    for key, fault in faults:
        line = line_of(text, key) or line_of(text, "runtime")
        raise FunctionError(fault, file=FILE, line=line)


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
