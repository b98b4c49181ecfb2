"""What is printed of a task that has ended, and the exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mayfly.cli.description import elsewhere
from mayfly.cli.output import FAILED, fail, is_text, save, say, show, show_json

if TYPE_CHECKING:
    from mayfly.client import Client, Task, TaskFailed


def finish(client: "Client", task: "Task", output: Path | None, *, as_json: bool) -> None:
    """Prints the result, or writes it to `output`. Ends the command with 1 if the task failed."""
    from mayfly.client import TaskFailed

    if as_json:
        show_json(task)
    if not task.succeeded:
        blame(TaskFailed(task))
    if output is not None:
        save(*client.result_bytes(task.task_id), output)
    elif not as_json:
        _show_result(client, task)


def blame(failed: "TaskFailed") -> NoReturn:
    """Why it failed; ends the command."""
    if failed.traceback:
        say(failed.traceback.rstrip())
    fail(str(failed), hint=f"its log: mayfly logs {failed.task.task_id}", code=FAILED)


def _show_result(client: "Client", task: "Task") -> None:
    from msgspec import UNSET

    kind = task.result_content_type or "application/json"
    if task.result is not UNSET:
        show_json(task.result)
    elif is_text(kind):
        show(client.result_bytes(task.task_id).body.decode(errors="replace").removesuffix("\n"))
    else:
        say(elsewhere(task, kind))
