"""The shapes of live events: what a client asks for, and what a change is told as."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from gateway.models import StatusName, TaskId, Timestamp
from gateway.sse import is_place


def _place(text: str) -> str:
    if not is_place(text):
        raise PydanticCustomError("place", "must be the id of an event")
    return text


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="forbid", strict=True)


class EventFilters(_Model):
    """Which changes: those that meet every one that is given."""

    task_type: str | None = None
    status: StatusName | None = None
    tag: str | None = None


class ClientMessage(_Model):
    """What a client says over the WebSocket: `subscribe`, or `ping`."""

    subscribe: EventFilters | None = None
    last_event_id: Annotated[str, AfterValidator(_place)] | None = None
    ping: Any = None


class TaskChange(_Model):
    """A task, as far as a change tells of it: what it has become, and when that was written."""

    task_id: TaskId
    task_type: str
    status: StatusName
    tags: list[str]
    at: Timestamp
    attempt: int | None = Field(None, description="The attempt that began or ended.")
    error_type: str | None = Field(None, description="Why it failed.")
