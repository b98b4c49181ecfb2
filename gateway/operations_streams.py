"""What streams of server-sent events have in common, for the OpenAPI document."""

from typing import Any

from gateway.sse import PLACE


def event_schema(*names: str) -> dict[str, Any]:
    """Of each event of a stream: before OpenAPI 3.2 a stream's schema is that of its events."""
    return {
        "type": "object",
        "properties": {
            "event": {"type": "string", "enum": [*names]},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "id": {"type": "string"},
        },
        "required": ["event", "data"],
    }


def last_event_id(description: str) -> dict[str, Any]:
    place = {"type": "string", "pattern": f"^({PLACE.pattern})?$"}
    return {"name": "Last-Event-ID", "in": "header", "description": description, "schema": place}
