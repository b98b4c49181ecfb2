"""Examples of functions: what a file may say, and what a result must be to pass."""

import struct
from pathlib import Path
from typing import Any

import orjson
import pytest

from mayfly.data import functions_dir
from mayfly.errors import FunctionError
from mayfly.example import Example, image_size, read_examples

JPEG = (functions_dir() / "thumbnail/examples/photo.jpg").read_bytes()
PNG = (functions_dir() / "thumbnail/examples/badge.png").read_bytes()


def read(tmp_path: Path, example: Any, **files: bytes) -> Example:
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / "one.json").write_bytes(example if isinstance(example, bytes) else orjson.dumps(example))
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    [found] = read_examples(tmp_path)
    return found


def test_an_input_is_posted_as_json(tmp_path: Path) -> None:
    example = read(tmp_path, {"input": {"a": None}})
    assert (example.name, example.payload, example.content_type) == ("one", b'{"a":null}', "application/json")


def test_a_null_is_an_input(tmp_path: Path) -> None:
    assert read(tmp_path, {"input": None}).payload == b"null"


def test_an_input_file_is_posted_as_the_bytes_it_is(tmp_path: Path) -> None:
    example = read(tmp_path, {"inputFile": "a.jpg"}, a_jpg=JPEG)
    assert (example.payload, example.content_type) == (JPEG, "image/jpeg")


def test_an_input_file_may_be_given_another_content_type(tmp_path: Path) -> None:
    assert read(tmp_path, {"inputFile": "a.b", "contentType": "text/x"}, a_b=b"").content_type == "text/x"


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({}, "examples/one.json: an example has either input or inputFile"),
        ({"input": 1, "inputFile": "a"}, "examples/one.json: an example has either input or inputFile"),
        (
            {"inputFile": "a.csv"},
            'examples/one.json: inputFile "a.csv" cannot be read: No such file or directory',
        ),
        (
            {"input": 1, "expects": 1},
            "examples/one.json: no example: Object contains unknown field `expects`",
        ),
        (
            {"input": 1, "expect": {"text": "a"}},
            "examples/one.json: no example: Expected `array`, got `str` - at `$.expect.text`",
        ),
        (b'{\n"input": }', "examples/one.json:2: not JSON: invalid character"),
    ],
)
def test_an_example_that_is_wrong_is_refused(tmp_path: Path, example: Any, message: str) -> None:
    with pytest.raises(FunctionError) as caught:
        read(tmp_path, example)
    assert str(caught.value) == message


CHECKS = [
    ({"equals": {"a": 1}}, "application/json", b'{"a":1}', []),
    ({"equals": None}, "application/json", b"null", []),
    ({"equals": [1]}, "application/json", b"[2]", ["the result is [2], not [1]"]),
    ({"equals": 1}, "text/plain", b"one", ["the result is not JSON: b'one'"]),
    ({"schema": {"properties": {"a": {"type": "string"}}}}, "application/json", b'{"a":1}',
     ["result['a']: 1 is not of type \"string\""]),
    ({"text": ["a", "z"]}, "text/plain", b"abc", ["the result does not hold 'z'"]),
    ({"contentType": "text/html"}, "Text/HTML; charset=utf-8", b"", []),
    ({"contentType": "text/html"}, "text/plain", b"", ["the content type is text/plain, not text/html"]),
    ({"image": {"width": 1280, "height": 853}}, "image/jpeg", JPEG, []),
    ({"image": {"width": 640}}, "image/png", PNG, []),
    ({"image": {"width": 1, "height": 640}}, "image/png", PNG, ["the picture's width is 640, not 1"]),
    ({"image": {}}, "image/png", b"GIF89a", ["the result is neither a PNG nor a JPEG"]),
    ({}, "text/plain", b"anything", []),
]  # fmt: skip


@pytest.mark.parametrize(("expect", "content_type", "body", "problems"), CHECKS)
def test_a_result_is_checked(
    tmp_path: Path, expect: dict[str, Any], content_type: str, body: bytes, problems: list[str]
) -> None:
    example = read(tmp_path, {"input": 1, "expect": expect})
    assert example.problems(content_type, body) == problems


@pytest.mark.parametrize("picture", [JPEG, PNG])
def test_half_a_picture_has_no_size_or_its_own(picture: bytes) -> None:
    whole = image_size(picture)
    assert {image_size(picture[:size]) for size in range(0, len(picture), 7)} <= {None, whole}


def test_a_jpeg_with_a_broken_segment_has_no_size() -> None:
    assert image_size(b"\xff\xd8" + struct.pack(">HH", 0xFFE0, 0) + bytes(20)) is None
