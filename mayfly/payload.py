"""Whether a payload is what its function takes: the JSON Schema of the catalog entry, applied.

The gateway asks before it accepts a task, the dispatcher before it runs one that came by another way.
"""

from typing import Any, NamedTuple

import jsonschema_rs

from mayfly.function import Function
from mayfly.strictjson import field_path
from mayfly.versions import KEPT

_LONGEST_MESSAGE = 500


class PayloadFault(NamedTuple):
    """The first thing that is wrong with a payload: where (`payload.items[0].width`), and what."""

    field: str
    message: str


class InvalidSchema(ValueError):
    """A function's schema is no JSON Schema: the message says why."""


def compile_schema(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """A validator; the draft is the one that `$schema` names, else 2020-12.

    `format` is an annotation only, as in 2020-12. References outside of the schema are not followed.
    Raises `InvalidSchema`.
    """
    try:
        return jsonschema_rs.validator_for(schema, offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, TypeError) as error:
        raise InvalidSchema(_first_line(str(error))) from error


class PayloadSchemas:
    """Checks payloads, with each function's schemas compiled once for as long as they stay the same."""

    def __init__(self) -> None:
        self._compiled: dict[str, dict[int, tuple[dict[str, Any], jsonschema_rs.Validator]]] = {}
        """By function and version."""

    def fault(self, function: Function, payload: Any) -> PayloadFault | None:
        """What is wrong with a JSON payload, or None. Raises `InvalidSchema`."""
        if function.schema is None:
            return None
        validator = self._validator(function.name, function.number, function.schema)
        if validator.is_valid(payload):
            return None
        error = next(iter(validator.iter_errors(payload)))
        return PayloadFault(field_path(["payload", *_place(error)]), _first_line(error.message))

    def _validator(self, name: str, number: int, schema: dict[str, Any]) -> jsonschema_rs.Validator:
        versions = self._compiled.setdefault(name, {})
        known = versions.get(number)
        if known is None or known[0] is not schema:
            known = versions[number] = (schema, compile_schema(schema))
            if len(versions) > KEPT:
                del versions[min(versions)]
        return known[1]


def _place(error: jsonschema_rs.ValidationError) -> list[str | int]:
    """The path of what is wrong; for a member that is missing or too many that is the member itself."""
    match error.kind:
        case jsonschema_rs.ValidationErrorKind.Required(property=name):
            return [*error.instance_path, str(name)]
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected=[name, *_]):
            return [*error.instance_path, name]
    return error.instance_path


def _first_line(message: str) -> str:
    line = message.partition("\n")[0]
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 3] + "..."
