"""A function, a dispatcher as clients see them, from what the catalog and the read model hold.

A task is in `mayfly.shown`: webhooks show it as well.
"""

from typing import Any, Final

import msgspec

from mayfly.function import Function
from mayfly.shown import error_view, task_view
from mayfly.view import timestamp

__all__ = ["error_view", "function_view", "task_view", "worker_view"]

_WORKER: Final = ("id", "address", "host", "queue", "slots", "running", "startedAt")


def function_view(function: Function) -> dict[str, Any]:
    """A catalog entry as `models.FunctionEntry`: neither its environment nor its secrets' names."""
    fields = (
        "name",
        "description",
        "version",
        "image",
        "contract",
        "isolation",
        "network",
        "runtime",
        "queue",
        "schema",
    )
    view: dict[str, Any] = {field: getattr(function, field) for field in fields}
    return view | {
        "limits": msgspec.to_builtins(function.limits),
        "acceptsBytes": function.accepts_bytes,
        "deployedAt": timestamp(function.deployed_at),
    }


def worker_view(heartbeat: dict[str, Any]) -> dict[str, Any]:
    """A dispatcher's heartbeat as `models.Worker`."""
    return {name: heartbeat[name] for name in _WORKER} | {"lastHeartbeat": heartbeat["at"]}
