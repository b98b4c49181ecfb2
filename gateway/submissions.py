"""What was posted: a task in JSON, or bytes with the task's particulars in the query."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from pydantic import ValidationError
from starlette.requests import Request

from gateway.bodies import media_type, read_body
from gateway.errors import Problem
from gateway.models import TaskRequest
from gateway.parameters import parameters
from mayfly import strictjson
from mayfly.settings import KIB, Settings
from mayfly.strictjson import Fault, StrictJSONError, field_path
from mayfly.task import JSON, Lane

BESIDE_PAYLOAD: Final = 16 * KIB
"""What a JSON body may hold besides its payload, in bytes."""
MAX_BODY_DEPTH: Final = strictjson.MAX_DEPTH + 1
"""The payload is one level down in the body."""
THREAD_BYTES: Final = 64 * KIB
"""A larger body is parsed off the event loop, where others wait."""

_FAULTS: Final = {
    Fault.MALFORMED: "malformed_json",
    Fault.ENCODING: "invalid_encoding",
    Fault.DUPLICATE_KEY: "duplicate_key",
    Fault.TOO_DEEP: "too_deep",
    Fault.NUMBER: "invalid_number",
}


@dataclass(frozen=True, slots=True)
class Submission:
    """A task as it was sent. `payload` is the bytes as they came, `value` what they mean if they are JSON."""

    task_type: str
    lane: Lane
    payload: bytes
    content_type: str
    value: Any = None
    name: str | None = None
    timeout_seconds: float | None = None
    tags: tuple[str, ...] = ()

    @property
    def is_json(self) -> bool:
        return self.content_type == JSON


class _Body(msgspec.Struct):
    payload: msgspec.Raw


_payload_decoder: Final = msgspec.json.Decoder(_Body)


async def read_submission(request: Request, settings: Settings) -> Submission:
    """Raises `Problem` for whatever is wrong with the request by itself, whichever functions there are."""
    essence, content_type = media_type(request)
    if essence == JSON:
        parameters(request)
        body = await read_body(request, settings.payload_bytes + BESIDE_PAYLOAD)
        submission = _from_json(body, await _parse(body))
    else:
        particulars = _particulars(request)
        body = await read_body(request, settings.payload_bytes)
        submission = _submission(particulars, body, content_type)
    if len(submission.payload) > settings.payload_bytes:
        detail = f"The payload has {len(submission.payload)} bytes; {settings.payload_bytes} is the most."
        raise Problem("payload_too_large", detail, field="payload")
    return submission


async def _parse(body: bytes) -> Any:
    try:
        if len(body) > THREAD_BYTES:
            return await asyncio.to_thread(strictjson.loads, body, max_depth=MAX_BODY_DEPTH)
        return strictjson.loads(body, max_depth=MAX_BODY_DEPTH)
    except StrictJSONError as error:
        raise Problem(_FAULTS[error.fault], f"The body is refused: {error}.", field=error.field) from error


def _from_json(body: bytes, value: Any) -> Submission:
    if not isinstance(value, dict):
        raise Problem("invalid_task", 'The body must be an object: {"taskType": ..., "payload": ...}.')
    task = _checked(value, "invalid_task")
    return _submission(task, bytes(_payload_decoder.decode(body).payload), JSON, value=task.payload)


def _particulars(request: Request) -> TaskRequest:
    """The task beside a payload of bytes: the query's parameters, `tag` as often as there are tags."""
    given = parameters(request, "taskType", "name", "priority", "timeoutSeconds", "tag", repeatable=("tag",))
    tags = request.query_params.getlist("tag")
    timeout = given.get("timeoutSeconds")
    fields: dict[str, Any] = {name: text for name, text in given.items() if name != "tag"}
    if timeout is not None:
        try:
            fields["timeoutSeconds"] = float(timeout)
        except ValueError:
            raise Problem(
                "invalid_parameter", "timeoutSeconds is not a number.", field="timeoutSeconds"
            ) from None
    return _checked({**fields, "tags": tags, "payload": None}, "invalid_parameter")


def _checked(fields: dict[str, Any], code: str) -> TaskRequest:
    try:
        return TaskRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = field_path(first["loc"])
        raise Problem(code, f"{field}: {first['msg']}.", field=field) from error


def _submission(task: TaskRequest, payload: bytes, content_type: str, value: Any = None) -> Submission:
    return Submission(
        task_type=task.task_type,
        lane=Lane(task.priority),
        payload=payload,
        content_type=content_type,
        value=value,
        name=task.name,
        timeout_seconds=task.timeout_seconds,
        tags=tuple(dict.fromkeys(task.tags)),
    )
