"""Submitting many tasks with few requests, and how many of them have come to what. Without any I/O."""

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

import msgspec

from mayfly.client.errors import ApiError, ClientError, UnexpectedAnswer, kind_of
from mayfly.client.models import Task
from mayfly.client.submission import TaskOptions, said_of, send_once
from mayfly.client.wire import (
    LATER,
    NO_GATEWAY,
    RETRY_PAUSES,
    Answer,
    Call,
    Pause,
    Request,
    decode,
    encode,
    given,
    params,
    send,
)
from mayfly.task import IDEMPOTENCY_KEY, Status

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
    """With an `idempotency_key` if the task may have been accepted nonetheless: that of the whole batch, so
    that to submit all payloads of this one again with it, in their order, makes none of them twice."""
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


class _Stopped(_Problem, frozen=True, rename="camel"):
    status: int = 400


class _Item(msgspec.Struct, frozen=True, rename="camel"):
    status: int
    task: Task | None = None
    problem: _Problem | None = None

    @property
    def doubtful(self) -> bool:
        """A 503 that names a task is about one that may run."""
        return self.status == 503 and self.problem is not None and self.problem.task_id is not None


class _Answer(msgspec.Struct, frozen=True, rename="camel"):
    items: tuple[_Item, ...]
    batch_id: str | None = None
    stopped: _Stopped | None = None


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
        own = self._own()
        self._batches += 1
        return submit(lines, own, idempotent=self._idempotent)

    def _own(self) -> str | None:
        """The key of the next chunk: the first has the caller's, the others one that comes of it."""
        if self._key is None or not self._batches:
            return self._key
        key = f"{self._key}#{self._batches}"
        if IDEMPOTENCY_KEY.fullmatch(key):
            return key
        # A number behind the longest keys makes them too long.
        return f"{sha256(self._key.encode()).hexdigest()}#{self._batches}"


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
    outcome = _Outcome(len(lines))
    if not idempotent:
        outcome.learn((yield from send(request)))
        return outcome.submitted()
    key = own or str(uuid.uuid4())
    sent = yield from send_once(request, own, key)
    outcome.learn(sent.answer)
    in_doubt = sent.in_doubt
    for pause in RETRY_PAUSES if sent.keyed else ():
        if not outcome.unavailable:
            break
        yield Pause(pause)
        try:
            sent = yield from send_once(request, key)
        except ClientError as error:
            if error.idempotency_key is None:  # nothing came of this try
                break
            raise
        outcome.learn(sent.answer)
        in_doubt = in_doubt or sent.in_doubt
    return outcome.submitted(key if sent.keyed else None, in_doubt=in_doubt)


def get(batch_id: str, status: Status | None = None) -> Call[Batch]:
    path = f"/batches/{quote(batch_id, safe='')}"
    answer = yield from send(Request("GET", path, params(given(status=status))))
    return decode(answer.body, Batch)


class _Outcome:
    """What is known of each task of a batch, which may be sent several times. A task that was accepted is
    there, whatever a later answer says, which may have been broken off before it came to that one."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._items: list[_Item] = []
        self._batch_id: str | None = None

    @property
    def unavailable(self) -> bool:
        """Whether something may be accepted if it is tried again."""
        return any(item.status == 503 for item in self._items)

    def learn(self, answer: Answer) -> None:
        said = decode(answer.body, _Answer)
        items = list(said.items[: self._tasks])
        if len(items) < self._tasks:
            if said.stopped is None:
                raise UnexpectedAnswer(f"the answer has fewer items than the batch: {NO_GATEWAY}")
            unread = _Item(said.stopped.status, problem=said.stopped)
            items += [unread] * (self._tasks - len(items))
        self._items = list(map(_settled, self._items or items, items))
        self._batch_id = self._batch_id or said.batch_id

    def submitted(self, key: str | None = None, *, in_doubt: bool = False) -> list[Submitted]:
        """`in_doubt`: whether the batch went out once more than it was answered."""
        return [Submitted(item.task, _error(item, key, in_doubt), self._batch_id) for item in self._items]


def _settled(before: _Item, now: _Item) -> _Item:
    known = before.task is not None or (before.doubtful and not now.doubtful)
    return before if known and now.task is None else now


def _error(item: _Item, key: str | None, in_doubt: bool) -> ApiError | None:
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
    if item.doubtful or (in_doubt and item.status in LATER):
        error.idempotency_key = key
    return error
