"""A task as clients see it: what `GET /tasks/{id}` answers, and what a webhook says. Pure."""

from typing import Any, Final

import orjson

_TEXTS: Final = (
    "taskId",
    "taskType",
    "queue",
    "priority",
    "status",
    "name",
    "createdAt",
    "runAt",
    "dueAt",
    "concurrencyKey",
    "rerunOf",
    "batch",
    "upload",
    "cancelRequestedAt",
    "startedAt",
    "finishedAt",
    "dispatcher",
    "image",
    "resultContentType",
)
_SECONDS: Final = ("timeoutSeconds", "ttlSeconds")
_ERROR: Final = {
    "errorType": "type",
    "errorMessage": "message",
    "errorClass": "class",
    "errorTraceback": "traceback",
}


def task_view(record: dict[str, str]) -> dict[str, Any]:
    """A task's hash as `gateway.models.Task`: what is absent there is absent here. For orjson."""
    view: dict[str, Any] = {name: record[name] for name in _TEXTS if name in record}
    view["tags"] = orjson.loads(record.get("tags", "[]"))
    if "attempt" in record:
        view["attempt"] = int(record["attempt"])
    for name in _SECONDS:
        if name in record:
            view[name] = float(record[name])
    if "progress" in record:
        view["progress"] = _progress(record)
    where = f"/tasks/{record['taskId']}"
    if "resultKey" in record:
        view |= {"resultUrl": f"{where}/result", "resultSize": int(record["resultSize"])}
    if "result" in record:
        # It is JSON already; parsing it here would round what the function said.
        view["result"] = orjson.Fragment(record["result"])
    if "logKey" in record:
        view["logsUrl"] = f"{where}/logs"
    if "errorType" in record:
        view["error"] = error_view(record)
    if "attempts" in record:
        view["attempts"] = [_attempt(one, where) for one in orjson.loads(record["attempts"])]
    return view


def _progress(record: dict[str, str]) -> dict[str, Any]:
    progress: dict[str, Any] = {"fraction": float(record["progress"])}
    if message := record.get("progressMessage"):
        progress["message"] = message
    return progress


def _attempt(kept: dict[str, Any], where: str) -> dict[str, Any]:
    """An attempt that is over, as `models.Attempt`."""
    shown = {name: value for name, value in kept.items() if name != "logKey"}
    if "logKey" in kept:
        shown["logsUrl"] = f"{where}/logs?attempt={kept['attempt']}"
    return shown


def error_view(record: dict[str, str]) -> dict[str, Any]:
    """Why it failed, as `gateway.models.TaskError`."""
    error: dict[str, Any] = {ours: record[field] for field, ours in _ERROR.items() if field in record}
    if "errorExitCode" in record:
        error["exitCode"] = int(record["errorExitCode"])
    return error
