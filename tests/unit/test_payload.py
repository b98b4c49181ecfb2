from typing import Any

import pytest

from mayfly.function import Function
from mayfly.payload import InvalidSchema, PayloadSchemas, compile_schema

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "width": {"type": "integer", "maximum": 10},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}},
        "mail": {"type": "string", "format": "email", "pattern": "@"},
    },
    "required": ["width"],
    "additionalProperties": False,
    "$defs": {"part": {"type": "object", "required": ["name"], "properties": {"name": {"enum": ["a", "b"]}}}},
}


def function(schema: dict[str, Any] | None) -> Function:
    return Function("f", "image", "1", schema=schema)


@pytest.mark.parametrize(
    ("payload", "field", "says"),
    [
        (None, "payload", 'null is not of type "object"'),
        ([], "payload", 'is not of type "object"'),
        ({}, "payload.width", '"width" is a required property'),
        ({"width": 11}, "payload.width", "11 is greater than the maximum of 10"),
        ({"width": 1.5}, "payload.width", 'is not of type "integer"'),
        ({"width": True}, "payload.width", 'is not of type "integer"'),
        ({"width": 1, "depth": 2}, "payload.depth", "unexpected"),
        ({"width": 1, "parts": [{"name": "a"}, {}]}, "payload.parts[1].name", "required"),
        ({"width": 1, "parts": [{"name": "c"}]}, "payload.parts[0].name", '"c" is not one of'),
        ({"width": 1, "mail": "nobody"}, "payload.mail", '"nobody" does not match "@"'),
    ],
)
def test_the_first_fault_is_named_with_its_place(payload: Any, field: str, says: str) -> None:
    fault = PayloadSchemas().fault(function(SCHEMA), payload)
    assert fault is not None
    assert fault.field == field
    assert says in fault.message


@pytest.mark.parametrize("payload", [{"width": 1}, {"width": 1.0, "parts": []}, {"width": -1, "mail": "@"}])
def test_a_payload_that_the_schema_allows_has_no_fault(payload: Any) -> None:
    assert PayloadSchemas().fault(function(SCHEMA), payload) is None


@pytest.mark.parametrize("payload", [None, 1, "x", [], {}])
def test_a_function_without_a_schema_takes_anything(payload: Any) -> None:
    assert PayloadSchemas().fault(function(None), payload) is None


def test_a_function_that_is_deployed_again_is_checked_by_its_new_schema() -> None:
    schemas = PayloadSchemas()
    assert schemas.fault(function({"type": "string"}), 1) is not None
    assert schemas.fault(function({"type": "integer"}), 1) is None


def test_a_long_value_does_not_make_a_long_message() -> None:
    fault = PayloadSchemas().fault(function({"type": "integer"}), "x" * 100_000)
    assert fault is not None
    assert len(fault.message) == 500


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": 5},
        {"pattern": "("},
        {"required": "width"},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$schema": "http://example.org/own-draft"},
    ],
)
def test_a_schema_that_is_none_or_looks_outside_of_itself_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema) as caught:
        compile_schema(schema)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_backtracks_for_ever_is_cut_short() -> None:
    fault = PayloadSchemas().fault(function({"pattern": r"^(a|a)*(?=b)$"}), "a" * 60)
    assert fault is not None
