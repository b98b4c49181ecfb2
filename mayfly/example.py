"""`examples/*.json`: an input of a function, and what it gives.

{
  "description": "A text's words, counted",     optional
  "input": {"text": "a b a"},                   any JSON; or, instead of it:
  "inputFile": "photo.jpg",                     bytes of a file beside the example
  "contentType": "image/jpeg",                  of inputFile; else told by its name
  "expect": {                                   optional; every check that is named must hold
    "equals": {"a": 2, "b": 1},                 the result is this JSON
    "schema": {"required": ["a"]},              the result fits this JSON Schema
    "text": ["<svg", "</html>"],                each of these occurs in the result
    "contentType": "image/jpeg",                the result's, parameters aside
    "image": {"width": 320, "height": 240}      the result is a PNG or JPEG of that size, in pixels
  }
}
"""

import mimetypes
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import msgspec

from mayfly.errors import FunctionError
from mayfly.manifest import read_json
from mayfly.typed import known

JSON: Final = "application/json"


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """In pixels; what is not given may be any."""

    width: int | None = None
    height: int | None = None


class Expect(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The checks of an example."""

    equals: Any = msgspec.UNSET
    schema: dict[str, Any] | None = None
    text: tuple[str, ...] = ()
    content_type: str | None = None
    image: Size | None = None


class _File(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    description: str = ""
    input: Any = msgspec.UNSET
    input_file: str | None = None
    content_type: str | None = None
    expect: Expect = Expect()


@dataclass(frozen=True)
class Example:
    """An input as it is posted, and the checks of what comes back."""

    name: str
    """Of the file, without `.json`."""
    description: str
    payload: bytes
    content_type: str
    expect: Expect

    @property
    def is_json(self) -> bool:
        return self.content_type == JSON

    def problems(self, content_type: str, body: bytes) -> list[str]:
        """What about a result is not as expected: a sentence each; none where it is."""
        return list(_problems(self.expect, content_type.partition(";")[0].strip().lower(), body))


def read_examples(folder: Path, files: Sequence[Path] | None = None) -> tuple[Example, ...]:
    """A function's examples, by name. Raises `FunctionError`."""
    if files is None:
        files = sorted((folder / "examples").glob("*.json"))
    return tuple(_read(path, f"examples/{path.name}") for path in files)


def _read(path: Path, name: str) -> Example:
    try:
        file = msgspec.convert(read_json(path, name), known(_File))
    except msgspec.ValidationError as error:
        raise FunctionError(f"no example: {error}", file=name) from error
    if (file.input is msgspec.UNSET) == (file.input_file is None):
        raise FunctionError("an example has either input or inputFile", file=name)
    if file.expect.schema is not None:
        try:
            jsonschema_rs.Draft202012Validator(file.expect.schema)
        except (jsonschema_rs.ValidationError, ValueError) as error:
            raise FunctionError(f"expect.schema is no JSON Schema: {error}", file=name) from error
    if file.input_file is None:
        payload, content_type = msgspec.json.encode(file.input), JSON
    else:
        payload, content_type = _read_input(path.parent / file.input_file, name, file.content_type)
    return Example(path.stem, file.description, payload, content_type, file.expect)


def _read_input(path: Path, name: str, content_type: str | None) -> tuple[bytes, str]:
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise FunctionError(f'inputFile "{path.name}" cannot be read: {error.strerror}', file=name) from error
    return payload, content_type or mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def _problems(expect: Expect, content_type: str, body: bytes) -> Iterator[str]:
    if expect.content_type is not None and content_type != expect.content_type:
        yield f"the content type is {content_type}, not {expect.content_type}"
    for text in expect.text:
        if text.encode() not in body:
            yield f"the result does not hold {text!r}"
    if expect.image is not None:
        yield from _image_problems(expect.image, body)
    if expect.equals is msgspec.UNSET and expect.schema is None:
        return
    try:
        result = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        yield f"the result is not JSON: {body[:80]!r}"
        return
    if expect.equals is not msgspec.UNSET and result != expect.equals:
        yield f"the result is {_show(result)}, not {_show(expect.equals)}"
    if expect.schema is not None:
        for error in jsonschema_rs.Draft202012Validator(expect.schema).iter_errors(result):
            where = "".join(f"[{step!r}]" for step in error.instance_path)
            yield f"result{where}: {error.message}"


def _image_problems(wanted: Size, body: bytes) -> Iterator[str]:
    size = image_size(body)
    if size is None:
        yield "the result is neither a PNG nor a JPEG"
        return
    for name, due, found in (("width", wanted.width, size[0]), ("height", wanted.height, size[1])):
        if due is not None and due != found:
            yield f"the picture's {name} is {found}, not {due}"


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG (its IHDR chunk) or a JPEG (its SOF segment), or None."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        # C4, C8 and CC lie among the SOF markers and are none.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _show(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else text[:197] + "..."
