"""Strict JSON (RFC 8259, and I-JSON's rules on top, RFC 7493): one document has one meaning for everybody.

Refused: duplicate keys, numbers that a double cannot hold, nesting deeper than a limit, bytes that are not
UTF-8, a byte order mark, lone surrogates, NaN and Infinity, and whatever else is no JSON.

orjson parses in C but keeps the last of two equal keys and rounds great integers. Whether that may have
happened is told by a few passes in C as well, so that the walk over the tokens in Python, which finds the
place, is for the documents that look wrong.
"""

import enum
import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 32
"""Levels of objects and arrays, one in another; a scalar alone is level 0."""


class Fault(enum.StrEnum):
    """What is wrong with a document."""

    MALFORMED = "malformed"
    ENCODING = "encoding"
    DUPLICATE_KEY = "duplicate_key"
    TOO_DEEP = "too_deep"
    NUMBER = "number"


class StrictJSONError(ValueError):
    """The document is refused. `field` is the path of the value at fault, where the document has one."""

    def __init__(self, fault: Fault, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.field = field


def loads(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """The document's value. Raises `StrictJSONError`.

    An integer that a double holds exactly is welcome at any size, and beyond 64 bits comes as that float;
    fractions are rounded as IEEE 754 says.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _refusal(data, error, max_depth) from None
    if _looks_deep(data, max_depth) or _may_have_lost(data, value):
        _check(data.decode(), max_depth)
    return value


def field_path(parts: Iterable[str | int]) -> str:
    """`payload.items[0].width` of ("payload", "items", 0, "width")."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return path.removeprefix(".")[:_MAX_PATH]


_MAX_PATH: Final = 300

# --- in C ---------------------------------------------------------------------------------------------------
# Methods of bytes only: a regular expression takes many times as long for the same question.

_DIGITS: Final = bytes.maketrans(b"123456789", b"000000000")
_BEYOND_64_BITS: Final = b"0" * 19
_BRACES: Final = bytes.maketrans(b"{}", b"[]")
_NOT_MARKS: Final = bytes(set(range(256)) - set(b'[]{}"'))


def _looks_deep(data: bytes, max_depth: int) -> bool:
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return False
    brackets = _brackets(data)
    # They nest properly, or the parser would not have had them: each round takes the innermost level away.
    for _ in range(max_depth):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _brackets(data: bytes) -> bytes:
    """The brackets and braces, all as brackets, without those inside of strings."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(_BRACES, _NOT_MARKS)
    # Two quotes side by side hold nothing, and without them what is inside of a string stays inside.
    return b"".join(marks.replace(b'""', b"").split(b'"')[::2])


def _may_have_lost(data: bytes, value: Any) -> bool:
    """Whether a member or an integer's digits may be missing from the value: never wrongly no."""
    try:
        written = orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    except orjson.JSONEncodeError:
        return True
    # A member that a later one of the same name replaced took its colon along. A colon that was written as
    # \u003a comes back as itself, and could make up for it.
    lost_member = data.count(b":") != written.count(b":") or b"\\u003" in data
    return lost_member or _BEYOND_64_BITS in data.translate(_DIGITS)


# --- in Python ----------------------------------------------------------------------------------------------

_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
_INTEGER: Final = re.compile(r"-?[0-9]+")
_LONGEST_INTEGER: Final = 309
"""Digits of the greatest double."""


def _check(text: str, max_depth: int) -> None:
    """Find the first fault of a document that has been parsed: only what the parser lets pass is sought."""
    path: list[str | int] = []
    seen: list[set[str] | None] = []
    key_next = False
    for token in _TOKEN.finditer(text):
        match word := token[0]:
            case "{" | "[":
                if len(seen) == max_depth:
                    raise StrictJSONError(
                        Fault.TOO_DEEP,
                        f"nested deeper than {max_depth} levels{_at(text, token.start())}",
                        field=field_path(path),
                    )
                key_next = word == "{"
                seen.append(set() if key_next else None)
                path.append("" if key_next else 0)
            case "}" | "]":
                seen.pop()
                path.pop()
                key_next = False
            case ",":
                key_next = seen[-1] is not None
                if isinstance(index := path[-1], int):
                    path[-1] = index + 1
            case ":":
                key_next = False
            case _ if key_next and (keys := seen[-1]) is not None:
                path[-1] = key = orjson.loads(word)
                if key in keys:
                    raise StrictJSONError(
                        Fault.DUPLICATE_KEY,
                        f"the key {_shown(key)} is there twice in one object{_at(text, token.start())}",
                        field=field_path(path),
                    )
                keys.add(key)
            case _ if _INTEGER.fullmatch(word) and not _is_double(word):
                raise StrictJSONError(
                    Fault.NUMBER,
                    f"no double holds the integer {word[:40]} exactly; send it as a string"
                    f"{_at(text, token.start())}",
                    field=field_path(path) or None,
                )


def _is_double(digits: str) -> bool:
    if len(digits.lstrip("-")) > _LONGEST_INTEGER:
        return False
    number = int(digits)
    try:
        return int(float(number)) == number
    except OverflowError:
        return False


def _refusal(data: bytes, error: orjson.JSONDecodeError, max_depth: int) -> StrictJSONError:
    """Why the parser would not have it, in words that tell the sender what to do."""
    try:
        text = data.decode()
    except UnicodeDecodeError as undecodable:
        return StrictJSONError(Fault.ENCODING, f"not UTF-8: {undecodable.reason} at byte {undecodable.start}")
    if text.startswith("\ufeff"):
        return StrictJSONError(Fault.ENCODING, "starts with a byte order mark, which JSON does not have")
    if not text.strip():
        return StrictJSONError(Fault.MALFORMED, "empty: a JSON document was expected")
    # Before "Infinity" the parser has taken the sign already.
    position = error.pos - (text[error.pos - 1 : error.pos] == "-")
    where = _at(text, position)
    if "infinity" in error.msg:
        return StrictJSONError(Fault.NUMBER, f"a number is greater than any double{where}")
    if "surrogate" in error.msg:
        return StrictJSONError(Fault.ENCODING, f"a \\u escape is half of a surrogate pair{where}")
    if "depth" in error.msg:
        return StrictJSONError(Fault.TOO_DEEP, f"nested deeper than {max_depth} levels{where}")
    if word := _NO_NUMBER.match(text, position):
        return StrictJSONError(Fault.NUMBER, f"{word[0]} is no JSON number{where}")
    return StrictJSONError(Fault.MALFORMED, f"{error.msg}{where}")


_NO_NUMBER: Final = re.compile(r"-?(?:NaN|Infinity)")


def _at(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return f" (line {line}, column {column})"


def _shown(text: str) -> str:
    return f'"{text}"' if len(text) <= 64 else f'"{text[:61]}..."'
