import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from dispatcher.runtimes.egress import EgressNetwork
from tests.conftest import REPOSITORY, Mayfly, StartStack

SOON = 120.0
HANDLER = "def handler(event, context):\n    return {{'answer': {answer}}}\n"


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def result_of(http: httpx.Client, task_type: str, payload: Any = None) -> Any:
    posted = http.post("/tasks", json={"taskType": task_type, "payload": payload})
    assert posted.status_code == 202, posted.text
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        task = http.get(f"/tasks/{posted.json()['taskId']}", params={"wait": "10"}).json()
        if task["status"] in ("COMPLETED", "FAILED"):
            assert task["status"] == "COMPLETED", task
            return task["result"]
    raise AssertionError(f"{task_type} did not end: {task}")


def test_the_demo_runs_every_example_and_shows_the_mail_that_arrived(
    start_stack: StartStack, docker_engine: docker.DockerClient, tmp_path: Path
) -> None:
    """On parts of its own: a dispatcher of another stack on the same Kafka would send its mail elsewhere."""
    shutil.copytree(REPOSITORY / "functions", tmp_path / "functions")
    demo = start_stack("demo")
    assert demo.until_ended() == 0, demo.output
    assert "6 of 6 examples gave what they should" in demo.output
    assert "Message-ID: <" in demo.output
    assert "Traceback" not in demo.output
    egress = EgressNetwork(demo.settings).name
    assert egress not in {network.name for network in docker_engine.networks.list()}


def test_the_demo_fails_when_an_example_does_not_give_what_it_should(
    start_stack: StartStack, docker_engine: docker.DockerClient, tmp_path: Path
) -> None:
    shutil.copytree(REPOSITORY / "functions" / "echo", tmp_path / "functions" / "echo")
    for example in (tmp_path / "functions/echo/examples").glob("*.json"):
        example.write_text('{"input": 1, "expect": {"equals": 2}}')
    demo = start_stack("demo")
    assert demo.until_ended() == 1, demo.output
    assert "FAILED  the result is 1, not 2" in demo.output


@pytest.fixture
def dropped(mayfly: Mayfly) -> Callable[[str, int], None]:
    def drop(name: str, answer: int) -> None:
        (mayfly.functions / name).mkdir(exist_ok=True)
        (mayfly.functions / name / "handler.py").write_text(HANDLER.format(answer=answer))

    return drop


def serves(mayfly: Mayfly, name: str) -> Any:
    answer = mayfly.http.get(f"/functions/{name}")
    return answer.json() if answer.status_code == 200 else None


def test_a_folder_that_is_dropped_in_runs_without_a_restart(
    mayfly: Mayfly, dropped: Callable[[str, int], None]
) -> None:
    dropped("dropped", 1)
    until(lambda: serves(mayfly, "dropped"), mayfly.stack.output)
    assert result_of(mayfly.http, "dropped") == {"answer": 1}
    version = serves(mayfly, "dropped")["version"]
    dropped("dropped", 2)
    until(lambda: serves(mayfly, "dropped")["version"] != version, mayfly.stack.output)
    assert result_of(mayfly.http, "dropped") == {"answer": 2}
    shutil.rmtree(mayfly.functions / "dropped")
    until(lambda: not serves(mayfly, "dropped"), mayfly.stack.output)


@pytest.mark.parametrize("name", ["gateway", "dispatcher-1"])
def test_a_service_that_is_killed_is_up_again_and_works(mayfly: Mayfly, name: str) -> None:
    killed = mayfly.stack.part(name)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    until(lambda: mayfly.stack.part(name).pid != killed.pid and mayfly.stack.part(name).ready, name)
    assert mayfly.stack.part(name).address == killed.address
    assert result_of(mayfly.http, "echo", {"again": True}) == {"again": True}
