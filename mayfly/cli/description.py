"""A task in lines, for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mayfly.cli.output import say, show, size
from mayfly.cli.times import shown

if TYPE_CHECKING:
    from mayfly.client import Attempt, Task


def describe(task: "Task") -> None:
    """All that is known of it."""
    import json

    from msgspec import UNSET

    for key, value in _rows(task):
        if value:
            show(f"{key:<9} {value}")
    for attempt in task.attempts:
        show(f"attempt {attempt.attempt}: {_attempt(attempt)}")
    if task.error:
        raised = f"{task.error.error_class}: " if task.error.error_class else ""
        show(f"error     {task.error.type}: {raised}{task.error.message}")
        if task.error.traceback:
            show(task.error.traceback.rstrip())
    if task.result is not UNSET:
        show("result    " + json.dumps(task.result, indent=2, ensure_ascii=False))
    elif task.succeeded:
        say(elsewhere(task, task.result_content_type or "of an unknown type"))


def _rows(task: "Task") -> Iterator[tuple[str, str | None]]:
    yield "task", task.task_id
    yield "name", task.name
    yield "function", task.task_type
    yield "status", task.status.value
    if task.progress:
        yield "progress", f"{task.progress.fraction:.0%} {task.progress.message or ''}"
    yield "attempt", str(task.attempt) if task.attempt else None
    yield "queue", task.queue and f"{task.queue}, {task.priority or 'normal'} priority"
    yield "key", task.concurrency_key and f"{task.concurrency_key}, which limits how many run at once"
    yield "tags", ", ".join(task.tags)
    yield "rerun of", task.rerun_of
    yield "created", shown(task.created_at)
    if task.due_at or not task.attempt:
        yield "due", shown(task.due_at or task.run_at)
    if task.ttl_seconds is not None:
        yield "expires", f"if it has not begun {task.ttl_seconds:g} s after it was due"
    yield "started", shown(task.started_at)
    yield "finished", shown(task.finished_at)
    yield "took", took(task)
    if task.cancel_requested_at:
        yield "cancel", f"asked for at {shown(task.cancel_requested_at)}"
    yield "worker", task.dispatcher
    yield "image", task.image


def _attempt(attempt: "Attempt") -> str:
    parts = [shown(attempt.started_at)]
    if attempt.started_at and attempt.finished_at:
        parts.append(f"{(attempt.finished_at - attempt.started_at).total_seconds():.3f} s")
    parts.append(f"on {attempt.dispatcher}" if attempt.dispatcher else "")
    parts.append(f"{attempt.error.type}: {attempt.error.message}" if attempt.error else "")
    return ", ".join(part for part in parts if part)


def elsewhere(task: "Task", kind: str) -> str:
    """Where a result is that is not shown."""
    much = f"{size(task.result_size)} of {kind}" if task.result_size is not None else kind
    return f"the result is {much}; to save it: mayfly get {task.task_id} -o FILE"


def took(task: "Task") -> str:
    if task.started_at is None or task.finished_at is None:
        return ""
    return f"{(task.finished_at - task.started_at).total_seconds():.3f} s"
