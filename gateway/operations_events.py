"""The operation of /events in the OpenAPI document, which has no words for its WebSocket."""

from typing import Any, Final

from gateway import operations
from gateway.models import STATUSES
from gateway.operations_streams import event_schema, last_event_id

Json = dict[str, Any]
_TEXT: Final[Json] = {"type": "string"}
_FILTERS: Final[dict[str, tuple[str, Json]]] = {
    "status": ("Only changes to this status.", {"type": "string", "enum": list(STATUSES)}),
    "taskType": ("Only of tasks of this function.", _TEXT),
    "tag": ("Only of tasks with this tag.", _TEXT),
}
_CODES: Final = (
    "invalid_header",
    "invalid_message",
    "invalid_parameter",
    "read_model_unavailable",
    "foreign_origin",
    "invalid_host",
    "internal_error",
)


def paths() -> Json:
    event = event_schema("subscribed", "status", "reset")
    stream = {"description": "Events", "content": {"text/event-stream": {"schema": event}}}
    return {
        "/events": {
            "get": {
                "tags": ["tasks"],
                "operationId": "watchTasks",
                "summary": "Every task's changes as they happen, as server-sent events or over a WebSocket",
                "description": (
                    "A `status` event has a task's change as its data; a `reset` event says that some may be "
                    "missing, and that the tasks are to be listed anew. `Last-Event-ID` goes on behind that "
                    "event. Asked for with an upgrade, the path is a WebSocket with the same events; a "
                    "message that it does not understand is answered with `invalid_message`."
                ),
                "parameters": [
                    *(_parameter(name, "query", *one) for name, one in _FILTERS.items()),
                    last_event_id("The last event that was read."),
                ],
                "responses": {"200": stream, **operations.problems(*_CODES)},
            },
        },
    }


def _parameter(name: str, place: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": place, "description": description, "schema": schema}
