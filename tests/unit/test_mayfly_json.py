"""The JSON of a sandbox, against the module `json`, whose import it is there to spare."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.base_image import python_files

FILE = Path(python_files()["mayfly_json.py"])
SPEC = spec_from_file_location("mayfly_json", FILE)
assert SPEC is not None
assert SPEC.loader is not None
mayfly_json: Any = module_from_spec(SPEC)
SPEC.loader.exec_module(mayfly_json)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
SPACE = st.text(" \t\n\r", max_size=3)


@given(VALUES, SPACE, SPACE)
def test_reads_what_json_wrote(value: Any, before: str, after: str) -> None:
    assert mayfly_json.loads((before + json.dumps(value) + after).encode()) == value


@given(VALUES, st.booleans())
def test_writes_what_json_writes(value: Any, ascii: bool) -> None:
    written = json.dumps(value, ensure_ascii=ascii, separators=(",", ":"))
    assert mayfly_json.dumps(value, ascii=ascii) == written


@given(st.binary() | st.text().map(lambda text: text.encode("utf-16")) | VALUES.map(repr).map(str.encode))
def test_says_of_other_texts_what_json_says(data: bytes) -> None:
    assert said(mayfly_json.loads, data) == said(json.loads, data)


def said(loads: Callable[[bytes], Any], data: bytes) -> str:
    """As text: what is no number is equal to nothing."""
    try:
        return repr(loads(data))
    except ValueError as error:
        return repr(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_writes_no_number_that_is_none(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        mayfly_json.dumps([value])


def test_finds_what_holds_itself_and_asks_for_what_json_has_no_form_for() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Circular"):
        mayfly_json.dumps(loop)
    with pytest.raises(TypeError, match="bytes is not JSON serializable"):
        mayfly_json.dumps({"a": b"1"})
    assert mayfly_json.dumps({1, 2}, sorted) == "[1,2]"


def test_spares_the_import_of_json() -> None:
    program = "import sys, mayfly_json as m; m.loads(m.dumps([1]).encode()); print(*sys.modules)"
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.append({str(FILE.parent)!r}); {program}"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "mayfly_json" in loaded
    assert not {"json", "re", "enum"} & set(loaded)
