"""A task as the read model has it: the hash, and which one a request means."""

from typing import NamedTuple, Protocol

from starlette.requests import Request

from gateway.access import principal_of
from gateway.errors import Problem
from mayfly.task import Lane, is_task_id
from mayfly.view import tenant_of

Record = dict[str, str]


class Tasks(Protocol):
    async def get(self, task_id: str) -> Record | None: ...


def task_id_of(request: Request) -> str:
    """The id in the path. Raises `Problem`."""
    task_id: str = request.path_params["task_id"]
    if not is_task_id(task_id):
        raise Problem("unknown_task", f"{task_id[:64]!r} is not a task id, which is a UUID in lower case.")
    return task_id


async def own(request: Request, tasks: Tasks) -> Record:
    """The task in the path. Raises `Problem` where there is none, or it is another tenant's, which is the
    same to whoever asks; and `ReadModelUnavailable`."""
    task_id = task_id_of(request)
    record = await tasks.get(task_id)
    if record is None or not is_own(request, record):
        raise Problem("unknown_task", f"There is no task {task_id}.")
    return record


def is_own(request: Request, record: Record) -> bool:
    return tenant_of(record) == principal_of(request).tenant


class Command(NamedTuple):
    """Where the command stands that was accepted."""

    queue: str
    lane: Lane
    partition: int
    offset: int


def command_of(record: Record) -> Command:
    lane, partition, offset = record["command"].split(":")
    return Command(record["queue"], Lane(lane), int(partition), int(offset))
