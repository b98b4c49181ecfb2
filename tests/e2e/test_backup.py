"""A backup taken while everything runs, and restored where nothing is: every accepted task is there."""

import asyncio
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from mayfly.audit.__main__ import audit
from mayfly.identity.vault import new_key
from mayfly.stack.home import Home
from mayfly.stack.process import recorded
from tests.conftest import REPOSITORY, LiveStack, StartStack
from tests.e2e.conftest import eventually
from tests.e2e.tasks import ended, logs, post, post_bytes, result
from tests.integration.cli_command import MAYFLY

NAPPER = """\
import time

import mayfly


def handler(event, context):
    print("asleep")
    time.sleep(event["seconds"])
    if event.get("fails"):
        raise ValueError("that is no nap")
    if event.get("again"):
        raise mayfly.Retry("not now", after=3600)
    return event
"""
TURNS = 'concurrency = 1\nisolation = "fork"\n'
KEY = {"idempotency-key": "once"}
HOUR = 3600


def browser(stack: LiveStack) -> httpx.Client:
    return httpx.Client(base_url=stack.url, timeout=60, trust_env=False)


def command(*arguments: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    cache = {name: os.environ[name] for name in ("MAYFLY_CACHE",) if name in os.environ}
    done = subprocess.run([*MAYFLY, *arguments], env={**own, **cache}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def known(http: httpx.Client, ids: list[str]) -> list[tuple[Any, ...]]:
    """All that there is to know of tasks that completed."""
    return [(http.get(f"/tasks/{one}").json(), result(http, one), logs(http, one)) for one in ids]


def killed(stack: LiveStack) -> None:
    """All of it at once, as by a machine that is gone; then what it had kept."""
    parts = recorded(Home(stack.directory)).values()
    os.kill(stack.process.pid, signal.SIGKILL)
    for part in parts:
        part.signal(signal.SIGKILL)
    stack.until_ended()
    shutil.rmtree(stack.directory)


class Stream:
    """Tasks that come, one after the other, until this is left."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as http:
            while not self._over.wait(0.1):
                delay = {"delaySeconds": 0.5} if self.count % 2 else {}
                post(http, "turns", {"seconds": 0}, **delay)
                self.count += 1


@pytest.mark.timeout(900)
def test_a_backup_of_a_stack_at_work_has_every_accepted_task_where_there_was_nothing(
    start_stack: StartStack, tmp_path: Path
) -> None:
    functions = tmp_path / "functions"
    shutil.copytree(REPOSITORY / "functions" / "echo", functions / "echo")
    for name in ("napper", "turns"):
        (functions / name).mkdir(parents=True)
        (functions / name / "handler.py").write_text(NAPPER)
    (functions / "turns" / "function.toml").write_text(TURNS)
    folder, secrets = tmp_path / "backup", {"MAYFLY_SECRETS_KEY": new_key()}

    stack = start_stack("up", **secrets).until_up()
    with browser(stack) as http:
        done = [post(http, "echo", {"number": number}) for number in range(3)]
        done.append(post_bytes(http, "echo", bytes(range(256)) * 400, "image/x-large"))
        failed = post(http, "napper", {"seconds": 0, "fails": True}, retry={"maxAttempts": 1})
        for one in (*done, failed):
            ended(http, one)
        once = http.post("/tasks", json={"taskType": "echo", "payload": "once"}, headers=KEY).json()["taskId"]
        ended(http, once)
        before, error = known(http, [*done, once]), http.get(f"/tasks/{failed}").json()
        later = post(http, "echo", "later", delaySeconds=HOUR)
        soon = post(http, "echo", "soon", delaySeconds=20)
        again = post(http, "napper", {"seconds": 0, "again": True})
        eventually(lambda: http.get(f"/tasks/{again}").json()["status"] == "RETRYING", "it failed once")
        for one in (later, soon):
            eventually(lambda one=one: http.get(f"/tasks/{one}").json()["status"] == "SCHEDULED", "it waits")
        running = post(http, "napper", {"seconds": 10})
        eventually(lambda: http.get(f"/tasks/{running}").json()["status"] == "IN_PROGRESS", "it runs")
        turns = [post(http, "turns", {"seconds": 1}) for _ in range(4)]
        waits = http.get(f"/tasks/{later}").json()
        with Stream(stack.url):
            command("backup", str(folder), "--dir", str(stack.directory))
    killed(stack)

    command("restore", str(folder), "--dir", str(stack.directory))
    stack = start_stack("up", **secrets).until_up()
    with browser(stack) as http:
        eventually(lambda: http.get("/tasks", params={"limit": "1"}).status_code == 200, "Redis is rebuilt")
        assert known(http, [*done, once]) == before
        assert http.get(f"/tasks/{failed}").json() == error
        assert [one["taskId"] for one in http.get("/dead-letters").json()["tasks"]] == [failed]
        assert http.get(f"/tasks/{later}").json() == waits
        assert http.get(f"/tasks/{again}").json()["status"] == "RETRYING"
        replayed = http.post("/tasks", json={"taskType": "echo", "payload": "once"}, headers=KEY)
        assert replayed.json()["taskId"] == once
        for one in (soon, running, *turns):
            assert ended(http, one)["status"] == "COMPLETED"
        assert ended(http, post(http, "echo", "goes on"))["result"] == "goes on"
        queued = {"status": "QUEUED"}
        eventually(lambda: http.get("/tasks", params=queued).json()["tasks"] == [], "nothing is left")
    report = asyncio.run(audit(stack.settings, settle=60))
    assert report.clean, report
    [counts] = report.queues
    assert (counts.waiting, counts.running, counts.failed) == (2, 0, 1)
