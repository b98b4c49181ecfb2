"""The type hint on a handler's `event`: its JSON Schema, and events made to fit it.

Where the handler has imported Pydantic, Pydantic does both. Else this module knows what the standard
library offers: plain JSON types, `list`, `dict[str, ...]`, `tuple`, `Literal`, unions, `Enum`, `TypedDict`
and dataclasses. A hint beyond those takes any JSON.
"""

import dataclasses
import enum
import inspect
import io
import json
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
Convert = Callable[[Any, str], Any]
"""(value, its path for messages) -> what the handler gets. Raises `BadEvent`."""


class BadEvent(ValueError):
    """The payload does not fit the hint. The message names the place in it."""


class HintError(TypeError):
    """The hint cannot be read."""


class Converter(typing.Protocol):
    accepts_bytes: bool
    takes_stream: bool
    """Whether the payload it is given is a stream."""

    def schema(self) -> Schema | None: ...

    def event(self, payload: bytes, is_json: bool, content_type: str) -> Any: ...


def converter(handler: Callable[..., Any]) -> Converter | None:
    """None for a handler whose hint says nothing about JSON. Raises `HintError`."""
    hint = _event_hint(handler)
    if hint in (inspect.Parameter.empty, Any, object, dict, None):
        return None
    if hint is bytes:
        return BytesConverter()
    if hint in STREAMS or _is_path(hint):
        return FileConverter(as_path=hint not in STREAMS)
    if "pydantic" in sys.modules:
        return PydanticConverter(hint)
    return PlainConverter(hint)


def _event_hint(handler: Callable[..., Any]) -> Any:
    function = inspect.unwrap(handler)
    if not inspect.isroutine(function):
        function = type(function).__call__
    try:
        parameters = list(inspect.signature(handler).parameters.values())
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise HintError(f"the type hint on `event` cannot be read: {error}") from error
    except (TypeError, ValueError):
        return None
    return hints.get(parameters[0].name) if parameters else None


STREAMS: tuple[Any, ...] = (
    typing.BinaryIO,
    typing.IO[bytes],
    io.BufferedReader,
    io.BufferedIOBase,
    io.RawIOBase,
)


def _is_path(hint: Any) -> bool:
    # Whoever has the hint has imported it.
    pathlib = sys.modules.get("pathlib")
    return pathlib is not None and hint in (pathlib.Path, pathlib.PurePath)


class FileConverter:
    """`event: Path`: the payload in a file; `event: BinaryIO`: as a stream, of which nothing is in memory but
    what is read. JSON or not."""

    accepts_bytes = True
    takes_stream = True

    def __init__(self, *, as_path: bool) -> None:
        self._as_path = as_path

    def schema(self) -> None:
        return None

    def event(self, payload: Any, is_json: bool, content_type: str) -> Any:
        import mayfly_files

        if self._as_path:
            return mayfly_files.saved(payload, content_type)
        return io.BufferedReader(payload, mayfly_files.CHUNK)


class BytesConverter:
    """`event: bytes`: the payload as it came, JSON or not."""

    accepts_bytes = True
    takes_stream = False

    def schema(self) -> None:
        return None

    def event(self, payload: bytes, is_json: bool, content_type: str) -> bytes:
        return payload


class PydanticConverter:
    accepts_bytes = False
    takes_stream = False

    def __init__(self, hint: Any) -> None:
        from pydantic import TypeAdapter

        self._adapter: Any = TypeAdapter(hint)

    def schema(self) -> Schema:
        return self._adapter.json_schema(mode="validation")  # type: ignore[no-any-return]

    def event(self, payload: bytes, is_json: bool, content_type: str) -> Any:
        _want_json(is_json, content_type)
        return self._adapter.validate_json(payload or b"null")


class PlainConverter:
    accepts_bytes = False
    takes_stream = False

    def __init__(self, hint: Any) -> None:
        self._schema, self._convert = plain(hint, ())

    def schema(self) -> Schema:
        return self._schema

    def event(self, payload: bytes, is_json: bool, content_type: str) -> Any:
        _want_json(is_json, content_type)
        return self._convert(json.loads(payload) if payload else None, "event")


def _want_json(is_json: bool, content_type: str) -> None:
    if not is_json:
        raise BadEvent(f"the function takes JSON, and this task carries {content_type}")


SCALARS: dict[Any, tuple[str, Any]] = {
    type(None): ("null", type(None)),
    bool: ("boolean", bool),
    int: ("integer", int),
    float: ("number", int | float),
    str: ("string", str),
}


def plain(hint: Any, inside: tuple[Any, ...]) -> tuple[Schema, Convert]:
    """The schema of a hint and what converts to it. `inside` are the dataclasses around it: one that holds
    itself takes any JSON there."""
    hint = None.__class__ if hint is None else hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Annotated, typing.Required, typing.NotRequired):
        return plain(arguments[0], inside)
    if hint in SCALARS:
        return _scalar(hint)
    if origin is typing.Literal:
        return _one_of(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, inside)
    if hint in (list, tuple) or origin in (list, tuple):
        return _array(origin or hint, arguments, inside)
    if hint is dict or origin is dict:
        return _mapping(arguments, inside)
    if hint in inside or not isinstance(hint, type):
        return {}, _anything
    if issubclass(hint, enum.Enum):
        return _enum(hint)
    if typing.is_typeddict(hint) or dataclasses.is_dataclass(hint):
        return _object(hint, (*inside, hint))
    return {}, _anything


def _anything(value: Any, path: str) -> Any:
    return value


def _scalar(hint: Any) -> tuple[Schema, Convert]:
    name, accepted = SCALARS[hint]

    def convert(value: Any, path: str) -> Any:
        if hint is int and isinstance(value, float) and value.is_integer():
            return int(value)  # JSON Schema's integer includes 1.0
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            raise BadEvent(f"{path} is no {name}: {_show(value)}")
        return float(value) if hint is float else value

    return {"type": name}, convert


def _one_of(values: tuple[Any, ...]) -> tuple[Schema, Convert]:
    def convert(value: Any, path: str) -> Any:
        if not any(value == choice and type(value) is type(choice) for choice in values):
            raise BadEvent(f"{path} is none of {', '.join(map(repr, values))}: {_show(value)}")
        return value

    return {"enum": list(values)}, convert


def _enum(hint: type[enum.Enum]) -> tuple[Schema, Convert]:
    schema, check = _one_of(tuple(member.value for member in hint))
    return schema, lambda value, path: hint(check(value, path))


def _union(arguments: tuple[Any, ...], inside: tuple[Any, ...]) -> tuple[Schema, Convert]:
    options = [plain(argument, inside) for argument in arguments]

    def convert(value: Any, path: str) -> Any:
        problems = []
        for _, option in options:
            try:
                return option(value, path)
            except BadEvent as error:
                problems.append(str(error))
        raise BadEvent("; ".join(problems))

    return {"anyOf": [schema for schema, _ in options]}, convert


def _array(kind: type, arguments: tuple[Any, ...], inside: tuple[Any, ...]) -> tuple[Schema, Convert]:
    if kind is tuple and arguments and arguments[-1] is not ...:
        return _fixed_array([plain(argument, inside) for argument in arguments])
    schema, item = plain(arguments[0], inside) if arguments else ({}, _anything)

    def convert(value: Any, path: str) -> Any:
        _check_type(value, list, "array", path)
        return kind(item(element, f"{path}[{index}]") for index, element in enumerate(value))

    return {"type": "array", "items": schema} if schema else {"type": "array"}, convert


def _fixed_array(items: list[tuple[Schema, Convert]]) -> tuple[Schema, Convert]:
    size = len(items)

    def convert(value: Any, path: str) -> Any:
        _check_type(value, list, "array", path)
        if len(value) != size:
            raise BadEvent(f"{path} has {len(value)} items where {size} are due")
        return tuple(item(value[index], f"{path}[{index}]") for index, (_, item) in enumerate(items))

    schemas = [schema for schema, _ in items]
    return {"type": "array", "prefixItems": schemas, "minItems": size, "maxItems": size}, convert


def _mapping(arguments: tuple[Any, ...], inside: tuple[Any, ...]) -> tuple[Schema, Convert]:
    schema, item = plain(arguments[1], inside) if arguments else ({}, _anything)

    def convert(value: Any, path: str) -> Any:
        _check_type(value, dict, "object", path)
        return {key: item(element, f"{path}.{key}") for key, element in value.items()}

    return {"type": "object", "additionalProperties": schema} if schema else {"type": "object"}, convert


def _object(hint: Any, inside: tuple[Any, ...]) -> tuple[Schema, Convert]:
    """A dataclass or a TypedDict. Only the dataclass refuses what it has no field for."""
    hints = typing.get_type_hints(hint, include_extras=True)
    if dataclasses.is_dataclass(hint):
        fields = [field for field in dataclasses.fields(hint) if field.init]
        defaults = {field.name: field.default for field in fields if _has_default(field)}
        names = [field.name for field in fields]
        required = [name for name in names if name not in defaults]
        make: Callable[..., Any] = hint
        closed = True
    else:
        names, defaults, make, closed = list(hints), {}, dict, False
        required = [name for name in names if name in hint.__required_keys__]
    parts = {name: plain(hints[name], inside) for name in names}

    def convert(value: Any, path: str) -> Any:
        _check_type(value, dict, "object", path)
        if missing := [name for name in required if name not in value]:
            raise BadEvent(f"{path}.{missing[0]} is missing")
        if closed and (unknown := [name for name in value if name not in parts]):
            raise BadEvent(f"{path}.{unknown[0]} is unknown; there are: {', '.join(names)}")
        return make(
            **{
                name: parts[name][1](item, f"{path}.{name}") if name in parts else item
                for name, item in value.items()
            }
        )

    schema: Schema = {
        "type": "object",
        "title": hint.__name__,
        "properties": {name: _with_default(part[0], defaults.get(name)) for name, part in parts.items()},
    }
    if required:
        schema["required"] = required
    if closed:
        schema["additionalProperties"] = False
    return schema, convert


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _with_default(schema: Schema, default: Any) -> Schema:
    shown = isinstance(default, str | int | float) and not isinstance(default, enum.Enum)
    return schema | {"default": default} if shown else schema


def _check_type(value: Any, wanted: type, name: str, path: str) -> None:
    if not isinstance(value, wanted):
        raise BadEvent(f"{path} is no {name}: {_show(value)}")


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
