"""What a handler returned, as bytes with a content type.

Bytes are `application/octet-stream`, and a file, open or by its `Path`, what its name says; a pair of either
and a content type is what that says; anything else is JSON. Pydantic models and dataclasses are dumped, at
any depth.
"""

import math
import sys

import mayfly_json

JSON = "application/json"
BYTES = "application/octet-stream"


class BadResult(Exception):
    """The handler returned what cannot be sent. The message names the place in it."""


def encode(value):
    """(content type, body: bytes or a `mayfly_files.File`). Raises `BadResult`, or whatever a model's own
    serializer raises."""
    if isinstance(value, bytes | bytearray | memoryview):
        return BYTES, bytes(value)
    if type(value) is tuple and len(value) == 2:
        if isinstance(value[0], bytes | bytearray | memoryview):
            return _content_type(value[1]), bytes(value[0])
        if _is_file(value[0]):
            return _content_type(value[1]), _content(value[0], "result[0]")
    if _is_file(value):
        import mayfly_files

        return mayfly_files.content_type(value) or BYTES, _content(value, "result")
    try:
        return JSON, mayfly_json.dumps(value, _plain, ascii=False).encode()
    except RecursionError as error:
        raise BadResult("result is nested too deeply") from error
    except (TypeError, ValueError) as error:
        raise BadResult(_explain(value) or f"the result is not JSON: {error}") from error


def _is_file(value: object) -> bool:
    """Without an import of what could be one."""
    return hasattr(value, "__fspath__") or (hasattr(value, "read") and hasattr(value, "fileno"))


def _content(value, place: str):
    import mayfly_files

    try:
        return mayfly_files.content(value)
    except mayfly_files.Unreadable as error:
        raise BadResult(f"{place}: {error}") from error


def _explain(value: object) -> str | None:
    """Where the fault is: only a result that has one pays for finding out."""
    try:
        return _find(value, "result", ())
    except RecursionError:
        return None


def _content_type(value: object) -> str:
    if isinstance(value, str) and "/" in value and value.isascii() and value.isprintable():
        return value
    raise BadResult(f'result[1] is {value!r}: beside bytes, a content type like "image/png" is due')


class _NotPlain(TypeError):
    pass


def _plain(value: object) -> object:
    """A model as a dict."""
    if isinstance(value, type):
        raise _NotPlain
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    dataclasses = sys.modules.get("dataclasses")
    if dataclasses is not None and dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise _NotPlain


def _find(value: object, path: str, inside: tuple[int, ...]) -> str | None:
    """What is wrong with the first value that JSON cannot hold, or None."""
    if value is None or isinstance(value, bool | int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value}, which JSON cannot hold"
    if isinstance(value, str):
        return _find_surrogate(value, path)
    if id(value) in inside:
        return f"{path} contains itself"
    inside = (*inside, id(value))
    if isinstance(value, dict):
        return _find_in_dict(value, path, inside)
    if isinstance(value, list | tuple):
        found = (_find(item, f"{path}[{index}]", inside) for index, item in enumerate(value))
        return next(filter(None, found), None)
    try:
        return _find(_plain(value), path, inside)
    except _NotPlain:
        kind = type(value).__name__
        article = "an" if kind[0] in "aeiouAEIOU" else "a"
        hint = "; return bytes alone, or as (bytes, content type)" if isinstance(value, bytes) else ""
        return f"{path} is {article} {kind}, which JSON cannot hold{hint}"


def _find_in_dict(value: dict[object, object], path: str, inside: tuple[int, ...]) -> str | None:
    for key, item in value.items():
        if not (key is None or isinstance(key, str | int | float)):
            return f"{path} has a key of type {type(key).__name__}: JSON's keys are strings"
        if isinstance(key, float) and not math.isfinite(key):
            return f"{path} has the key {key}, which JSON cannot hold"
        if isinstance(key, str) and (wrong := _find_surrogate(key, f"a key of {path}")):
            return wrong
        step = f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"
        if wrong := _find(item, path + step, inside):
            return wrong
    return None


def _find_surrogate(text: str, path: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{path} holds half a surrogate pair at character {error.start}, which UTF-8 cannot hold"
    return None
