"""A task as the read model has it: the hash, and which one a request means."""

from typing import NamedTuple

from starlette.requests import Request

from gateway.access import principal_of
from gateway.errors import Problem
from gateway.ports import ReadModel
from mayfly.task import Lane, is_task_id
from mayfly.view import tenant_of

Record = dict[str, str]


def task_id_of(request: Request) -> str:
    """The id in the path. Raises `Problem`."""
    task_id: str = request.path_params["task_id"]
    if not is_task_id(task_id):
        raise Problem("unknown_task", f"{task_id[:64]!r} is not a task id, which is a UUID in lower case.")
    return task_id


async def own(request: Request, read_model: ReadModel) -> Record:
    """The task in the path. Raises `Problem` where there is none, or it is another tenant's, which is the
    same to whoever asks; and `ReadModelUnavailable`."""
    task_id = task_id_of(request)
    record = await of_tenant(read_model, task_id, principal_of(request).tenant)
    if record is None:
        raise Problem("unknown_task", f"There is no task {task_id}.")
    return record


async def of_tenant(read_model: ReadModel, task_id: str, tenant: str) -> Record | None:
    """The task, if it is that tenant's. Raises `ReadModelUnavailable`."""
    record = await read_model.get(task_id)
    return record if record is not None and tenant_of(record) == tenant else None


class Command(NamedTuple):
    """Where the command stands that was accepted."""

    queue: str
    lane: Lane
    partition: int
    offset: int


def command_of(record: Record) -> Command:
    lane, partition, offset = record["command"].split(":")
    return Command(record["queue"], Lane(lane), int(partition), int(offset))
