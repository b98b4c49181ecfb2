"""A partition's notices: a task whose end is to be told is over only when the notice of it is acknowledged.

What an outcome was, and whom to tell, is known of two records of the log: the `Finished` and the command.
Until the owner has read both, it does not know that there is nobody to tell, and the task is not over.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import orjson

from mayfly import view
from mayfly.events import Finished, Purpose
from mayfly.fold import TaskState
from mayfly.shown import task_view
from mayfly.task import Envelope, Position
from mayfly.webhooks.notice import Notice, message_id

MAX_RESULT_BYTES: Final = 32 * 1024
"""A larger result is a link in a notice, whatever a task's status holds."""


class Asked(NamedTuple):
    """A command: what the task was asked for with. `at` is its append time, milliseconds since 1970."""

    envelope: Envelope
    position: Position
    at: int


class Notices:
    """`callback_of` says where a task's end is posted to, if anywhere."""

    def __init__(self, queue: str, partition: int, callback_of: Callable[[Envelope], str | None]) -> None:
        self._queue = queue
        self._partition = partition
        self._callback_of = callback_of
        self._ends: dict[str, Finished] = {}
        self._on_their_way: set[str] = set()
        self._over: set[str] = set()

    def ended(self, event: Finished) -> None:
        """The outcome, which counts."""
        self._ends[event.task_id] = event

    def is_due(self, task_id: str, state: TaskState) -> bool:
        """Whether the task has ended, and may have a notice that is not acknowledged."""
        return state.terminal and task_id not in self._over

    def write(self, task_id: str, state: TaskState, asked: Asked | None) -> Notice | None:
        """The notice to send. None where nobody is to be told, where it is on its way, or where the command
        is not at hand: that one comes yet."""
        if asked is None or task_id in self._on_their_way:
            return None
        url = self._callback_of(asked.envelope)
        if url is None:
            self.acknowledged(task_id)
            return None
        self._on_their_way.add(task_id)
        event = self._ends[task_id]
        body = orjson.dumps(task_view(self._fields(event, state, asked)))
        message = message_id(task_id, event.fence)
        return Notice(message, task_id, asked.envelope.tenant, url, msgspec.Raw(body))

    def acknowledged(self, task_id: str) -> None:
        self._on_their_way.discard(task_id)
        self._ends.pop(task_id, None)
        self._over.add(task_id)

    def forget(self, task_id: str) -> None:
        self._ends.pop(task_id, None)
        self._over.discard(task_id)

    def _fields(self, event: Finished, state: TaskState, asked: Asked) -> dict[str, str]:
        """The task's hash, as the read model has it by then."""
        queued = view.queued(
            asked.envelope,
            queue=self._queue,
            lane=asked.position.lane,
            partition=self._partition,
            offset=asked.position.offset,
            at=asked.at,
        )
        change = view.finished(event, partition=self._partition, offset=0, history=state.history)
        fields = queued.fields() | _attempted(state) | change.fields
        fields["status"] = event.outcome.status.value
        if len(fields.get("result", "")) > MAX_RESULT_BYTES:
            del fields["result"]
        return fields


def _attempted(state: TaskState) -> dict[str, str]:
    """Who ran it last, and on what. To end a task without an attempt it is claimed as well."""
    last = state.history[-1] if state.history else None
    if state.purpose is Purpose.RUN:
        dispatcher, image = state.holder, state.image
    elif last is not None:
        dispatcher, image = last.dispatcher, last.image
    else:
        return {}
    return {"dispatcher": dispatcher} | ({"image": image} if image else {})
