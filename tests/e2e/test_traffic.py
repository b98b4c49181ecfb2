"""A function's versions side by side: deployed by the command, and shared, on the whole system."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from typer.testing import CliRunner

from mayfly import versions
from mayfly.cli.app import app
from mayfly.cli.output import CHANGES, OK
from mayfly.client import Client
from mayfly.function import Function
from tests.conftest import Mayfly
from tests.engine import remove_images

NAME = "bluegreen"
HANDLER = """\
def handler(event, context):
    if context.attempt == 1 and event["fails"]:
        raise RuntimeError("once")
    return "{said}"
"""
Command = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, docker_engine: docker.DockerClient) -> Iterator[Path]:
    folder = tmp_path / "functions" / NAME
    folder.mkdir(parents=True)
    (folder / "handler.py").write_text(HANDLER.format(said="blue"))
    (folder / "function.toml").write_text("[retries]\nmax_attempts = 2\ninitial_delay = 0\n")
    yield folder
    shutil.rmtree(folder)
    remove_images(docker_engine, NAME)


@pytest.fixture
def command(mayfly: Mayfly, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAYFLY_PROFILE", raising=False)
    monkeypatch.setenv("MAYFLY_CONFIG", str(tmp_path / "config.toml"))

    def run(*args: str, code: int = OK) -> str:
        done = CliRunner().invoke(
            app, [*args, "--url", mayfly.stack.url], catch_exceptions=False, prog_name="mayfly"
        )
        assert done.exit_code == code, done.output
        return done.output

    return run


def test_a_new_version_gets_the_share_of_tasks_that_it_was_given_and_each_task_stays_on_one(
    command: Command, folder: Path, mayfly: Mayfly
) -> None:
    assert f"+ {NAME}  v1  new" in command("deploy", "--plan", code=CHANGES)
    command("deploy")
    (folder / "handler.py").write_text(HANDLER.format(said="green"))
    assert "gets no task yet" in command("deploy", "--no-traffic")
    assert "nothing to do" in command("deploy")
    with Client(mayfly.stack.url) as client:
        assert client.invoke(NAME, {"fails": False}) == "blue"
        command("traffic", NAME, "v2=50%")
        entry = next(one for one in client.catalog().functions if one.name == NAME)
        tasks = [client.submit(NAME, {"fails": number % 2 == 0}) for number in range(16)]
        ended = [client.wait(task.task_id, timeout=120) for task in tasks]
        for task in ended:
            chosen: Function = versions.chosen(entry, task.task_id)
            assert client.result(task.task_id) == {1: "blue", 2: "green"}[chosen.number]
            assert {attempt.image for attempt in task.attempts} == {chosen.image}
        command("traffic", NAME, "v1=100%")
        assert client.invoke(NAME, {"fails": False}) == "blue"
        command("deploy", "--prune", "--plan", code=CHANGES)
        client.retire(NAME)
