"""Submitting many tasks with few requests, and how many of them have come to what. Without any I/O."""

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import msgspec

from mayfly.client.errors import ApiError, ClientError, UnexpectedAnswer, kind_of
from mayfly.client.models import Task
from mayfly.client.submission import TaskOptions, said_of, send_once
from mayfly.client.wire import (
    NO_GATEWAY,
    RETRY_PAUSES,
    Call,
    Pause,
    Request,
    decode,
    encode,
    given,
    params,
    send,
)
from mayfly.task import Status

CHUNK: Final = 500
"""Tasks of one request."""
CHUNK_BYTES: Final = 16 * 1024 * 1024
"""And their bytes, as far as one alone does not have more."""
PATIENCE_SECONDS: Final = 0.05
"""How long a payload that is there waits for others to go with it, where somebody waits for its result."""
WAIT_SECONDS: Final = 120.0
"""What a batch may take beyond what any answer may: each of its tasks is acknowledged before."""
NDJSON: Final = "application/x-ndjson"


@dataclass(frozen=True)
class Submitted:
    """What became of one payload: a task, or why there is none."""

    task: Task | None = None
    error: ApiError | None = None
    batch_id: str | None = None

    def accepted(self) -> Task:
        """Raises `ApiError` where it was refused."""
        if self.task is None:
            assert self.error is not None
            raise self.error
        return self.task


class Batch(msgspec.Struct, frozen=True, rename="camel"):
    """How many of a batch's tasks have come to what; those that are not kept any more do not count."""

    batch_id: str
    tasks: int
    ended: int
    statuses: dict[Status, int]
    task_ids: tuple[str, ...] = ()
    """Those with the status that was asked for."""


class _Problem(msgspec.Struct, frozen=True, rename="camel"):
    code: str
    detail: str
    field: str | None = None
    task_id: str | None = None


class _Item(msgspec.Struct, frozen=True, rename="camel"):
    status: int
    task: Task | None = None
    problem: _Problem | None = None


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    items: tuple[_Item, ...]
    batch_id: str | None = None
    stopped: _Problem | None = None


class Payloads:
    """Payloads of one function, gathered into batches as they come."""

    def __init__(
        self,
        task_type: str,
        payloads: Iterable[Any],
        options: TaskOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name in ("data", "content_type", "upload"):
            if name in options:
                raise ValueError(f"a batch takes payloads of JSON, and no {name}")
        self._said = said_of(task_type, options)
        self._key = options.get("idempotency_key")
        self._idempotent = options.get("idempotent", True)
        if self._key is not None and not self._idempotent:
            raise ValueError("an idempotency_key makes a submission idempotent; leave one of the two out")
        self._payloads = iter(payloads)
        self._clock = clock
        self._held: list[bytes] = []
        self._batches = 0

    def take(self, most: int, patience: float | None = None) -> list[bytes]:
        """The next tasks, at most so many; none at the end. After `patience` seconds no further one is
        waited for."""
        lines, self._held = self._held, []
        size = sum(map(len, lines))
        until = None if patience is None else self._clock() + patience
        while len(lines) < most and (not lines or until is None or self._clock() < until):
            try:
                payload = next(self._payloads)
            except StopIteration:
                break
            line = encode({**self._said, "payload": payload})
            size += len(line)
            if lines and size > CHUNK_BYTES:
                self._held = [line]
                break
            lines.append(line)
        return lines

    def submit(self, lines: Sequence[bytes]) -> Call[list[Submitted]]:
        """Those that were taken, as a batch of their own."""
        own = self._key and (f"{self._key}#{self._batches}" if self._batches else self._key)
        self._batches += 1
        return submit(lines, own, idempotent=self._idempotent)


def submit(lines: Sequence[bytes], own: str | None, *, idempotent: bool = True) -> Call[list[Submitted]]:
    """Under a key, the caller's `own` or one that is made here, as `submission.submit` has it: what could
    not be accepted for want of the log, say, is tried again with the rest, which makes no second task. Once
    the gateway has answered for each task, a key that was made here is not let go of either: some of them
    are there under it."""
    request = Request(
        "POST",
        "/tasks/batch",
        headers={"content-type": NDJSON},
        content=b"\n".join(lines),
        wait=WAIT_SECONDS,
    )
    if not idempotent:
        answer = yield from send(request)
        return _submitted(decode(answer.body, _Answer), len(lines))
    key = own or str(uuid.uuid4())
    answer, keyed = yield from send_once(request, own, key)
    said = decode(answer.body, _Answer)
    for pause in RETRY_PAUSES if keyed else ():
        if not any(item.status == 503 for item in said.items):
            break
        yield Pause(pause)
        try:
            answer, _ = yield from send_once(request, key)
        except ClientError as error:
            if error.idempotency_key is None:  # nothing came of this try: what was said before holds
                break
            raise
        said = decode(answer.body, _Answer)
    return _submitted(said, len(lines), key if keyed else None)


def get(batch_id: str, status: Status | None = None) -> Call[Batch]:
    path = f"/batches/{quote(batch_id, safe='')}"
    answer = yield from send(Request("GET", path, params(given(status=status))))
    return decode(answer.body, Batch)


def _submitted(answer: _Answer, count: int, key: str | None = None) -> list[Submitted]:
    found = [Submitted(item.task, _error(item, key), answer.batch_id) for item in answer.items[:count]]
    if len(found) < count:
        if answer.stopped is None:
            raise UnexpectedAnswer(f"the answer has fewer items than the batch: {NO_GATEWAY}")
        unread = ApiError(400, code=answer.stopped.code, detail=answer.stopped.detail)
        found += [Submitted(error=unread)] * (count - len(found))
    return found


def _error(item: _Item, key: str | None) -> ApiError | None:
    problem = item.problem
    if problem is None:
        return None
    error = kind_of(item.status)(
        item.status,
        code=problem.code,
        detail=problem.detail,
        field=problem.field,
        task_id=problem.task_id,
    )
    if problem.task_id is not None and item.status == 503:
        error.idempotency_key = key
    return error
