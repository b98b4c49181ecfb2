"""Strict JSON: what passes is what `json` makes of it, and a refusal says what is wrong and where."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mayfly.strictjson import Fault, StrictJSONError, field_path, loads

SAFE = 2**53 - 1
SCALARS = (
    st.none()
    | st.booleans()
    | st.text()
    | st.text('[]{}"\\:,')
    | st.integers(-SAFE, SAFE)
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS,
    lambda parts: (
        st.lists(parts)
        | st.dictionaries(st.text() | st.sampled_from(["a", "a:b", ":", '"', "\\u003a"]), parts)
    ),
    max_leaves=20,
)


def refused(data: bytes, max_depth: int = 32) -> StrictJSONError:
    with pytest.raises(StrictJSONError) as caught:
        loads(data, max_depth=max_depth)
    return caught.value


def depth(value: Any) -> int:
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth, parts), default=0)
    return 0


@given(VALUES, st.booleans(), st.sampled_from([None, 0, 3]))
def test_whatever_json_writes_is_read_as_json_reads_it(
    value: Any, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert loads(text.encode(errors="surrogatepass")) == json.loads(text)


@given(VALUES, st.integers(0, 6))
def test_depth_is_refused_exactly_beyond_the_limit(value: Any, limit: int) -> None:
    data = json.dumps(value).encode()
    if depth(value) > limit:
        assert refused(data, limit).fault is Fault.TOO_DEEP
    else:
        assert loads(data, max_depth=limit) == value


@given(VALUES, st.text(max_size=5), st.booleans(), st.booleans())
@example({}, ":", True, True)
def test_a_key_that_is_there_twice_is_refused_however_it_is_written(
    value: Any, key: str, escaped: bool, nested: bool
) -> None:
    second = "".join(f"\\u{unit:04x}" for unit in _utf16(key)) if escaped else json.dumps(key)[1:-1]
    twice = f'{{{json.dumps(key)}: {json.dumps(value)}, "x{second}y": 1, "{second}": {{"b": ":"}}}}'
    text = f'{{"outer": [0, {twice}]}}' if nested else twice
    error = refused(text.encode())
    assert error.fault is Fault.DUPLICATE_KEY
    assert error.field == field_path(["outer", 1, key] if nested else [key])


def _utf16(text: str) -> list[int]:
    data = text.encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


@given(st.integers(-(2**70), 2**70) | st.integers(-(10**320), 10**320))
@example(2**53 + 1)
@example(2**64 + 1)
@example(-(2**63) - 1)
@example(2**64)
@example(10**22)
@example(10**23)
def test_an_integer_is_taken_if_a_double_holds_it_exactly(number: int) -> None:
    data = f'{{"n": [{number}]}}'.encode()
    try:
        held = int(float(number)) == number
    except OverflowError:
        held = False
    if held:
        assert loads(data) == {"n": [number]}
    else:
        assert refused(data).fault is Fault.NUMBER


@given(st.binary(max_size=40))
def test_bytes_are_read_as_json_reads_them_or_refused(data: bytes) -> None:
    try:
        value = loads(data)
    except StrictJSONError:
        return
    assert json.loads(data.decode()) == value


@given(st.text(alphabet='{}[]",:\\ u0\n1e-.9ntrueNaInfy', max_size=30))
def test_text_that_looks_like_json_is_read_as_json_reads_it_or_refused(text: str) -> None:
    try:
        value = loads(text.encode())
    except StrictJSONError:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("data", "fault", "says", "field"),
    [
        (b"", Fault.MALFORMED, "empty", None),
        (b" \n", Fault.MALFORMED, "empty", None),
        (b"[1] x", Fault.MALFORMED, "unexpected content after document (line 1, column 5)", None),
        (b'{"a": 1,}', Fault.MALFORMED, "trailing comma", None),
        (b"{'a': 1}", Fault.MALFORMED, "line 1, column 2", None),
        (b'{\n "a": tru}', Fault.MALFORMED, "line 2", None),
        (b"[01]", Fault.MALFORMED, "leading zero", None),
        (b'"a\nb"', Fault.MALFORMED, "control character", None),
        (b"[NaN]", Fault.NUMBER, "NaN is no JSON number (line 1, column 2)", None),
        (b"[-Infinity]", Fault.NUMBER, "-Infinity is no JSON number (line 1, column 2)", None),
        (b"[1e400]", Fault.NUMBER, "greater than any double", None),
        (b"[-1e400]", Fault.NUMBER, "greater than any double", None),
        (b"[1" + b"0" * 400 + b"]", Fault.NUMBER, "double", None),
        (b'{"p": [0, 9007199254740993]}', Fault.NUMBER, "send it as a string (line 1, column 11)", "p[1]"),
        (b"18446744073709551617", Fault.NUMBER, "18446744073709551617", None),
        (b'{"p": {"a": 1, "b": 2, "a": 3}}', Fault.DUPLICATE_KEY, '"a"', "p.a"),
        (b'{"a": 1, "\\u0061": 2}', Fault.DUPLICATE_KEY, '"a"', "a"),
        (b'{"a:": 1, "a\\u003a": 2}', Fault.DUPLICATE_KEY, '"a:"', "a:"),
        (
            b'{"p": [' + b"[" * 31 + b"]" * 31 + b"]}",
            Fault.TOO_DEEP,
            "deeper than 32 levels",
            "p" + "[0]" * 31,
        ),
        (b"[" * 5000, Fault.TOO_DEEP, "deeper than 32 levels", None),
        (b'"\xff"', Fault.ENCODING, "not UTF-8: invalid start byte at byte 1", None),
        (b'"\xed\xa0\x80"', Fault.ENCODING, "not UTF-8", None),
        (b"\xef\xbb\xbf{}", Fault.ENCODING, "byte order mark", None),
        ('"x"'.encode("utf-16"), Fault.ENCODING, "not UTF-8", None),
        (b'"\\ud800"', Fault.ENCODING, "surrogate", None),
        (b'["\\udc00\\ud800"]', Fault.ENCODING, "surrogate", None),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(
    data: bytes, fault: Fault, says: str, field: str | None
) -> None:
    error = refused(data)
    assert error.fault is fault
    assert says in str(error)
    assert error.field == field


def test_brackets_quotes_and_colons_inside_of_strings_do_not_count() -> None:
    value = {"a": "[" * 100 + '"' + "{:" * 100, "b\\": ['\\"[[[', "\\", ":"] * 40}
    assert loads(json.dumps(value).encode()) == value


def test_a_wide_document_is_not_a_deep_one() -> None:
    value = [[[{"a": [{}]}]] for _ in range(1000)]
    assert loads(json.dumps(value).encode(), max_depth=6) == value
    assert refused(json.dumps(value).encode(), 5).field == "[0][0][0].a[0]"
