"""A partition's dead letters: a task that failed for good is over only when its letter is acknowledged."""

from typing import Final

import msgspec

from mayfly.events import DeadLetter
from mayfly.fold import TaskState
from mayfly.task import Envelope, encode

MAX_LETTER_BYTES: Final = 990_000
"""What one record of the log takes (`mayfly.adapters.kafka.MAX_MESSAGE_BYTES`), with room for its key."""


class Letters:
    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._on_their_way: set[str] = set()
        self._acknowledged: set[str] = set()

    def is_due(self, task_id: str, state: TaskState) -> bool:
        """Whether the task has a letter that is not acknowledged."""
        return state.failed and task_id not in self._acknowledged

    def write(self, task_id: str, state: TaskState, envelope: Envelope | None) -> DeadLetter | None:
        """The letter to send. None where it is on its way, or where its command is not at hand: that one
        comes yet."""
        if envelope is None or state.failure is None or task_id in self._on_their_way:
            return None
        self._on_their_way.add(task_id)
        letter = DeadLetter(
            task_id, self._queue, envelope, state.failure, state.ended_at, attempts=state.history
        )
        if len(encode(letter)) <= MAX_LETTER_BYTES:
            return letter
        # The log would never take it, and the task never be over. The traceback is with the outcome as well.
        failure = msgspec.structs.replace(state.failure, traceback=None)
        return msgspec.structs.replace(letter, failure=failure)

    def acknowledged(self, task_id: str) -> None:
        self._on_their_way.discard(task_id)
        self._acknowledged.add(task_id)

    def forget(self, task_id: str) -> None:
        self._acknowledged.discard(task_id)
