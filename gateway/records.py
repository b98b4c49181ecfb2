"""A task as the read model has it: the hash, and which one a request means."""

from typing import NamedTuple

from starlette.requests import Request

from gateway.errors import Problem
from mayfly.task import Lane, is_task_id

Record = dict[str, str]


def task_id_of(request: Request) -> str:
    """The id in the path. Raises `Problem`."""
    task_id: str = request.path_params["task_id"]
    if not is_task_id(task_id):
        raise Problem("unknown_task", f"{task_id[:64]!r} is not a task id, which is a UUID in lower case.")
    return task_id


def known(task_id: str, record: Record | None) -> Record:
    """The record, if there is one. Raises `Problem`."""
    if record is None:
        raise Problem("unknown_task", f"There is no task {task_id}.")
    return record


class Command(NamedTuple):
    """Where the command stands that was accepted."""

    queue: str
    lane: Lane
    partition: int
    offset: int


def command_of(record: Record) -> Command:
    lane, partition, offset = record["command"].split(":")
    return Command(record["queue"], Lane(lane), int(partition), int(offset))
