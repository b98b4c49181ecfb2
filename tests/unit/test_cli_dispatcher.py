import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from mayfly.cli.app import app
from mayfly.stack.home import Home
from mayfly.stack.record import claim, write_record


class Became(NamedTuple):
    command: list[str]
    environment: dict[str, str]


@pytest.fixture
def became(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Became]:
    """What the command turned into, in an empty folder without any setting."""
    for name in list(os.environ):
        if name.startswith("MAYFLY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MAYFLY_DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.chdir(tmp_path)
    found: list[Became] = []

    def execve(program: str, command: list[str], environment: dict[str, str]) -> None:
        assert program == sys.executable
        found.append(Became(command[1:], environment))

    monkeypatch.setattr(os, "execve", execve)
    return found


def mayfly(*args: str) -> Any:
    return CliRunner().invoke(app, args, catch_exceptions=False, prog_name="mayfly")


def test_a_dispatcher_serves_the_queue_on_what_the_stack_here_runs_on(
    became: list[Became], tmp_path: Path
) -> None:
    home = Home(tmp_path / ".mayfly")
    home.make()
    home.write("environment", "MAYFLY_KAFKA=127.0.0.1:1234\nMAYFLY_REDIS=redis://127.0.0.1:99/0\n")
    claim(home)
    write_record(home, [], "http://127.0.0.1:8080")
    done = mayfly("dispatcher", "--queue", "gpu", "--slots", "3", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"queue": "gpu", "pid": os.getpid()}
    [(command, environment)] = became
    assert command == ["-P", "-m", "dispatcher", "--queue", "gpu"]
    assert environment["MAYFLY_KAFKA"] == "127.0.0.1:1234"
    assert environment["MAYFLY_REDIS"] == "redis://127.0.0.1:99/0"
    assert environment["MAYFLY_SLOTS"] == "3"
    assert environment["MAYFLY_STATE_DIR"] == str(home.path)


def test_the_environment_wins_and_needs_no_stack(
    became: list[Became], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAYFLY_KAFKA", "kafka.example:9092")
    assert mayfly("dispatcher").exit_code == 0
    [(command, environment)] = became
    assert command[-1] == "default"
    assert environment["MAYFLY_KAFKA"] == "kafka.example:9092"


def test_without_a_stack_or_an_environment_nothing_is_started(became: list[Became], tmp_path: Path) -> None:
    done = mayfly("dispatcher", "--queue", "gpu")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "error: no stack is up here, and MAYFLY_KAFKA names no Kafka\n`mayfly up` starts one\n"
    )
    assert became == []
    assert list(tmp_path.iterdir()) == []
