"""The whole stack, stopped and started: nothing that was known is lost, nothing accepted is dropped."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import REPOSITORY, LiveStack, StartStack
from tests.e2e.conftest import eventually
from tests.e2e.tasks import ended, logs, post, post_bytes, result

NAPPER = """\
import time


def handler(event, context):
    print("asleep")
    time.sleep(event)
    if event == 0:
        raise ValueError("that is no nap")
    return event
"""


def browser(stack: LiveStack) -> httpx.Client:
    return httpx.Client(base_url=stack.url, timeout=60, trust_env=False)


def lists(http: httpx.Client) -> dict[str, list[dict[str, Any]]]:
    """Every list, whole, page by page."""
    found = {}
    for filters in ({}, {"status": "COMPLETED"}, {"status": "FAILED"}, {"taskType": "echo"}, {"tag": "even"}):
        tasks: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            page = http.get(
                "/tasks", params={**filters, "limit": "3", **({"cursor": cursor} if cursor else {})}
            )
            tasks += page.json()["tasks"]
            cursor = page.json()["nextCursor"]
        found[str(filters)] = tasks
    return found


def facts(http: httpx.Client, ids: list[str]) -> list[tuple[Any, ...]]:
    """All that there is to know of tasks that completed."""
    return [
        (http.get(f"/tasks/{task_id}").json(), result(http, task_id), logs(http, task_id)) for task_id in ids
    ]


@pytest.mark.timeout(900)
def test_a_stop_and_a_start_keep_every_status_and_result_and_run_what_was_accepted(
    start_stack: StartStack, tmp_path: Path
) -> None:
    functions = tmp_path / "functions"
    shutil.copytree(REPOSITORY / "functions" / "echo", functions / "echo")
    (functions / "napper").mkdir()
    (functions / "napper" / "handler.py").write_text(NAPPER)

    stack = start_stack("up").until_up()
    with browser(stack) as http:
        done = [
            post(http, "echo", number, name=f"n{number}", tags=["odd" if number % 2 else "even"])
            for number in range(8)
        ]
        done += [
            post_bytes(http, "echo", bytes(range(256)) * 400, "image/x-large"),
            post(http, "napper", 0.1),
        ]
        failed = post(http, "napper", 0)
        for task_id in (*done, failed):
            ended(http, task_id)
        before, known, error = lists(http), facts(http, done), http.get(f"/tasks/{failed}").json()
        assert error["error"]["message"] == "that is no nap"
        running = post(http, "napper", 3)
        eventually(lambda: http.get(f"/tasks/{running}").json()["status"] != "QUEUED", "it runs")
    os.kill(stack.process.pid, signal.SIGTERM)
    assert stack.until_ended() == 0

    # No dispatcher: what is accepted now waits over a second stop.
    stack = start_stack("up", "--dispatchers", "0").until_up()
    with browser(stack) as http:
        assert http.get("/workers").json() == {"workers": []}
        assert http.get(f"/tasks/{running}").json()["result"] == 3, "it was let finish"
        now = lists(http)
        for name, tasks in before.items():
            assert [task for task in now[name] if task["taskId"] != running] == tasks, name
        assert facts(http, done) == known
        assert http.get(f"/tasks/{failed}").json() == error
        assert logs(http, failed) == "asleep\n"
        waiting = [post(http, "echo", f"waiting {number}", priority="low") for number in range(5)]
        queued = http.get("/tasks", params={"status": "QUEUED"}).json()["tasks"]
        assert [task["taskId"] for task in queued] == waiting[::-1]
    os.kill(stack.process.pid, signal.SIGTERM)
    assert stack.until_ended() == 0

    stack = start_stack("up").until_up()
    with browser(stack) as http:
        for number, task_id in enumerate(waiting):
            task = ended(http, task_id)
            assert (task["status"], task["attempt"], task["result"]) == ("COMPLETED", 1, f"waiting {number}")
        assert http.get("/tasks", params={"status": "QUEUED"}).json()["tasks"] == []
        newest = http.get("/tasks", params={"limit": "5"}).json()["tasks"]
        assert [task["taskId"] for task in newest] == waiting[::-1], "they stay where they were"
        assert facts(http, done) == known
        assert http.get(f"/tasks/{running}").json()["attempt"] == 1
