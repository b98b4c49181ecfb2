"""What was posted: a task in JSON, or bytes with the task's particulars in the query."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from gateway.access import principal_of
from gateway.bodies import media_type, read_body
from gateway.errors import Problem
from gateway.models import Retry, TaskRequest
from gateway.parameters import parameters
from gateway.times import milliseconds
from mayfly import strictjson
from mayfly.settings import KIB, Settings
from mayfly.strictjson import Fault, StrictJSONError, field_path
from mayfly.task import JSON, BlobRef, Envelope, FailureType, Lane, RetryPolicy

M = TypeVar("M", bound=BaseModel)

BESIDE_PAYLOAD: Final = 16 * KIB
"""What a JSON body may hold besides its payload, in bytes."""
MAX_BODY_DEPTH: Final = strictjson.MAX_DEPTH + 1
"""The payload is one level down in the body."""
BODY_BYTES: Final = 128 * KIB
THREAD_BYTES: Final = 64 * KIB
"""A larger body is parsed off the event loop, where others wait."""
BYTES: Final = "application/octet-stream"

_FAULTS: Final = {
    Fault.MALFORMED: "malformed_json",
    Fault.ENCODING: "invalid_encoding",
    Fault.DUPLICATE_KEY: "duplicate_key",
    Fault.TOO_DEEP: "too_deep",
    Fault.NUMBER: "invalid_number",
}


class Submission(msgspec.Struct, frozen=True):
    """A task as it was sent. `payload` is the bytes as they came, `value` what they mean if they are JSON."""

    task_type: str
    lane: Lane
    payload: bytes
    content_type: str
    tenant: str
    """Whose it is: who asks, says that, and never the body."""
    value: Any = None
    name: str | None = None
    timeout_seconds: float | None = None
    tags: tuple[str, ...] = ()
    delay_seconds: float | None = None
    run_at: int | None = None
    """Milliseconds since 1970."""
    ttl_seconds: float | None = None
    retry: RetryPolicy | None = None
    queue: str | None = None
    """None: the function's own."""
    redeliver: bool | None = None
    concurrency_key: str | None = None
    image: str | None = None
    """To run on, in place of the function's newest: of a re-run only, as is `rerun_of`."""
    rerun_of: str | None = None
    callback_url: str | None = None
    batch: str | None = None
    """The batch that it came with."""
    upload: str | None = None
    """The upload that its payload is, in place of `payload`."""
    stored: BlobRef | None = None
    """Where the store has that, and `content_type` is as it says there; None: it was not asked yet."""

    @property
    def is_json(self) -> bool:
        return self.content_type == JSON

    def in_batch(self, batch: str) -> "Submission":
        return msgspec.structs.replace(self, batch=batch)

    def envelope(self, task_id: str) -> Envelope:
        """All that it says, but for the payload itself, of which there is the hash."""
        return Envelope(
            task_type=self.task_type,
            task_id=task_id,
            tenant=self.tenant,
            content_type=self.content_type,
            name=self.name,
            timeout_seconds=self.timeout_seconds,
            tags=self.tags,
            delay_seconds=self.delay_seconds,
            run_at=self.run_at,
            ttl_seconds=self.ttl_seconds,
            retry=self.retry,
            redeliver=self.redeliver,
            concurrency_key=self.concurrency_key,
            image=self.image,
            rerun_of=self.rerun_of,
            callback_url=self.callback_url,
            batch=self.batch,
            # Of an upload it is what whoever sent it said, if they did.
            payload_sha256=hashlib.sha256(self.payload).hexdigest() if self.upload is None else None,
            upload=self.upload,
        )


class _Body(msgspec.Struct):
    payload: msgspec.Raw


_payload_decoder: Final = msgspec.json.Decoder(_Body)


async def read_submission(request: Request, settings: Settings) -> Submission:
    """Raises `Problem` for whatever is wrong with the request by itself, whichever functions there are."""
    tenant = principal_of(request).tenant
    essence, content_type = media_type(request)
    if essence == JSON:
        parameters(request)
        body = await read_body(request, settings.payload_bytes + BESIDE_PAYLOAD)
        return await task_in(body, tenant, settings)
    particulars = _particulars(request, PARTICULARS)
    body = await read_body(request, settings.payload_bytes)
    return _bounded(_submission(particulars, body, content_type, tenant), settings)


async def task_in(body: bytes, tenant: str, settings: Settings) -> Submission:
    """The task that a text of JSON is. Raises `Problem`."""
    return _bounded(_from_json(body, await parse(body), tenant), settings)


async def read_invocation(request: Request, name: str, settings: Settings, *beside: str) -> Submission:
    """A body that is the payload itself, of that function's task, whose particulars are in the query, where
    the parameters `beside` may be as well. No body is a payload of null. Raises `Problem`."""
    tenant = principal_of(request).tenant
    particulars = _particulars(request, tuple(one for one in PARTICULARS if one != "taskType"), name, beside)
    body = await read_body(request, settings.payload_bytes)
    essence, content_type = media_type(request) if body or "content-type" in request.headers else (JSON, JSON)
    if essence != JSON:
        return _submission(particulars, body, content_type, tenant)
    return await json_call(particulars, body or b"null", tenant)


async def call(name: str, body: bytes, tenant: str) -> Submission:
    """A task of that function with nothing but its payload, which is JSON. Raises `Problem`."""
    return await json_call(_task({"taskType": name, "payload": None}, "invalid_parameter"), body, tenant)


async def json_call(particulars: TaskRequest, body: bytes, tenant: str) -> Submission:
    """A body of JSON that is the payload itself. Raises `Problem`."""
    value = await parse(body, max_depth=strictjson.MAX_DEPTH)
    # Without the blanks around it, which the log does not keep: the payload's hash is of what it keeps.
    return _submission(particulars, body.strip(b" \t\r\n"), JSON, tenant, value=value)


def _bounded(submission: Submission, settings: Settings) -> Submission:
    if len(submission.payload) > settings.payload_bytes:
        detail = f"The payload has {len(submission.payload)} bytes; {settings.payload_bytes} is the most."
        raise Problem("payload_too_large", detail, field="payload")
    return submission


async def parse(body: bytes, *, max_depth: int = MAX_BODY_DEPTH) -> Any:
    """A body of JSON. Raises `Problem`."""
    try:
        if len(body) > THREAD_BYTES:
            return await asyncio.to_thread(strictjson.loads, body, max_depth=max_depth)
        return strictjson.loads(body, max_depth=max_depth)
    except StrictJSONError as error:
        raise Problem(_FAULTS[error.fault], f"The body is refused: {error}.", field=error.field) from error


async def json_body(request: Request, *, needed: bool = False) -> Any:
    """What a small body of JSON says; none at all is an empty object, unless one is needed. Raises
    `Problem`."""
    body = await read_body(request, BODY_BYTES)
    if not body:
        if needed:
            raise Problem("invalid_body", "A body is needed: an object, which may be empty.")
        return {}
    essence, _ = media_type(request)
    if essence != JSON:
        detail = f"{essence} is refused: this path takes application/json."
        raise Problem("unsupported_media_type", detail, field="Content-Type")
    value = await parse(body)
    if not isinstance(value, dict):
        raise Problem("invalid_body", "The body must be an object.")
    return value


def _from_json(body: bytes, value: Any, tenant: str) -> Submission:
    if not isinstance(value, dict):
        raise Problem("invalid_task", 'The body must be an object: {"taskType": ..., "payload": ...}.')
    if "upload" in value:
        if "payload" in value:
            detail = "payload and upload exclude each other: the upload's bytes are the payload."
            raise Problem("invalid_task", detail, field="upload")
        task = _task(value | {"payload": None}, "invalid_task")
        return msgspec.structs.replace(_submission(task, b"", BYTES, tenant), upload=task.upload)
    task = _task(value, "invalid_task")
    return _submission(task, bytes(_payload_decoder.decode(body).payload), JSON, tenant, value=task.payload)


PARTICULARS: Final = (
    "taskType",
    "name",
    "priority",
    "timeoutSeconds",
    "delaySeconds",
    "runAt",
    "ttlSeconds",
    "retry",
    "queue",
    "redeliver",
    "concurrencyKey",
    "callbackUrl",
)
"""What goes beside a payload of bytes; `tag` as well, as often as there are tags."""
_NOT_TEXT: Final = ("timeoutSeconds", "delaySeconds", "ttlSeconds", "retry", "redeliver")
"""Those of them that are JSON: numbers, an object, `true` or `false`."""


def _particulars(
    request: Request, known: Sequence[str], task_type: str | None = None, beside: Sequence[str] = ()
) -> TaskRequest:
    """The task beside its payload."""
    given = parameters(request, *known, "tag", *beside, repeatable=("tag",))
    fields: dict[str, Any] = {name: text for name, text in given.items() if name in known}
    if task_type is not None:
        fields["taskType"] = task_type
    for name in _NOT_TEXT:
        if name in fields:
            fields[name] = _value(name, fields[name])
    tags = request.query_params.getlist("tag")
    return _task({**fields, "tags": tags, "payload": None}, "invalid_parameter")


def _value(name: str, text: str) -> Any:
    try:
        return strictjson.loads(text.encode(errors="replace"))
    except StrictJSONError:
        what = {"retry": 'an object in JSON, such as {"maxAttempts":3}', "redeliver": "true or false"}
        raise Problem("invalid_parameter", f"{name} is {what.get(name, 'a number')}.", field=name) from None


def _task(fields: dict[str, Any], code: str) -> TaskRequest:
    task = checked(TaskRequest, fields, code)
    if task.run_at is not None and task.delay_seconds is not None:
        raise Problem(code, "runAt and delaySeconds exclude each other.", field="runAt")
    return task


def checked(model: type[M], fields: Any, code: str) -> M:
    """The fields as that model; what is wrong with the first of them is a `Problem` of that code."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = field_path(first["loc"])
        raise Problem(code, f"{field}: {first['msg']}.", field=field) from error


def _submission(
    task: TaskRequest, payload: bytes, content_type: str, tenant: str, value: Any = None
) -> Submission:
    return Submission(
        task_type=task.task_type,
        lane=Lane(task.priority),
        payload=payload,
        content_type=content_type,
        tenant=tenant,
        value=value,
        name=task.name,
        timeout_seconds=task.timeout_seconds,
        tags=tuple(dict.fromkeys(task.tags)),
        delay_seconds=task.delay_seconds,
        run_at=_due(task.run_at) if task.run_at is not None else None,
        ttl_seconds=task.ttl_seconds,
        retry=_policy(task.retry) if task.retry is not None else None,
        queue=task.queue,
        redeliver=task.redeliver,
        concurrency_key=task.concurrency_key,
        callback_url=task.callback_url,
    )


def _due(time: str) -> int | None:
    """What is past is now; an envelope has no time before 1970."""
    at = milliseconds(time)
    return None if at is None else max(at, 0)


def _policy(retry: Retry) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        initial_delay=retry.initial_delay,
        max_delay=retry.max_delay,
        retry_on=_failures(retry.retry_on),
        never_on=_failures(retry.never_on),
    )


def _failures(names: Sequence[str] | None) -> tuple[FailureType, ...] | None:
    return None if names is None else tuple(FailureType(name) for name in dict.fromkeys(names))
