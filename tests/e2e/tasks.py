"""Tasks over HTTP, as any client has them."""

import time
from typing import Any

import httpx

PATIENCE = 240.0
"""Seconds for one task on a machine that is busy with everything else."""
TERMINAL = ("COMPLETED", "FAILED", "CANCELLED")


def post(http: httpx.Client, task_type: str, payload: object, **more: object) -> str:
    answer = http.post("/tasks", json={"taskType": task_type, "payload": payload, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["taskId"])


def post_bytes(http: httpx.Client, task_type: str, data: bytes, content_type: str) -> str:
    answer = http.post(
        "/tasks", content=data, headers={"content-type": content_type}, params={"taskType": task_type}
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["taskId"])


def ended(http: httpx.Client, task_id: str) -> dict[str, Any]:
    """The task at its end. One that was appended to Kafka is unknown until a dispatcher has read it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = http.get(f"/tasks/{task_id}", params={"wait": "30"})
        assert answer.status_code in (200, 404), answer.text
        task: dict[str, Any] = answer.json()
        if task.get("status") in TERMINAL:
            return task
        assert time.monotonic() < deadline, f"not at its end within {PATIENCE:g} s: {task}"
        if answer.status_code == 404:
            time.sleep(0.05)


def result(http: httpx.Client, task_id: str) -> tuple[str, bytes]:
    """(content type, bytes) of a completed task."""
    answer = http.get(f"/tasks/{task_id}/result")
    assert answer.status_code == 200, answer.text
    return answer.headers["content-type"], answer.content


def logs(http: httpx.Client, task_id: str) -> str:
    answer = http.get(f"/tasks/{task_id}/logs")
    assert answer.status_code == 200, answer.text
    return answer.text
