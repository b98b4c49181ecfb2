"""The shapes of batches and of AWS Lambda's Invoke, as they go over HTTP."""

from typing import Final

from pydantic import BaseModel, Field

from gateway.models import Accepted, StatusName, TaskId, _Model


class ItemProblem(_Model):
    """Why an item is no task, as a problem has it."""

    code: str = Field(description="Stable: what a program should look at.")
    detail: str
    field: str | None = Field(None, description="Path of the value at fault.", examples=["payload.width"])
    task_id: TaskId | None = Field(None, description="The task that may run, or that has this key already.")


class BatchItem(_Model):
    """What became of an item: a `task`, or a `problem`."""

    status: int = Field(description="The HTTP status that it would have had alone.", examples=[202, 422])
    task: Accepted | None = None
    problem: ItemProblem | None = None


class Stopped(_Model):
    """Why the body was not read to its end."""

    status: int = Field(description="What it would have been answered if nothing had been accepted.")
    code: str
    detail: str


class BatchAnswer(_Model):
    """An answer for each item that was read, in their order."""

    batch_id: TaskId | None = Field(description="null where nothing was accepted.")
    accepted: int
    refused: int
    items: list[BatchItem]
    stopped: Stopped | None = None


class Batch(_Model):
    """How many of a batch's tasks have come to what. Those that are not kept any more do not count."""

    batch_id: TaskId
    tasks: int
    ended: int = Field(description="COMPLETED, FAILED or CANCELLED.")
    statuses: dict[StatusName, int]
    task_ids: list[TaskId] | None = Field(None, description="Those with the status that was asked for.")


class FunctionError(_Model):
    """How AWS tells of a function that failed."""

    error_message: str
    error_type: str
    request_id: TaskId
    stack_trace: list[str] | None = None


MODELS: Final[list[type[BaseModel]]] = [BatchItem, BatchAnswer, Batch, FunctionError]
"""For the OpenAPI document."""
