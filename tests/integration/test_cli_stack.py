"""`mayfly up` and what is done while it is up, by the command and by the client, as a user would."""

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import docker
import pytest
from cli_command import MAYFLY

from mayfly.client import ApiError, AsyncClient, Client, TaskFailed
from tests.engine import remove_images

HANDLER = """\
def handler(event, context):
    print("asked for", event)
    if event == "fail":
        raise ValueError("as asked")
    return event
"""
Mayfly = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    function = folder / "functions" / "stackcli"
    function.mkdir(parents=True)
    (function / "handler.py").write_text(HANDLER)
    return folder


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    kept = ("MAYFLY_CACHE", "MAYFLY_DOCKER_HOST")
    return {
        name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_") or name in kept
    }


@pytest.fixture(scope="module")
def up(
    folder: Path, environment: dict[str, str], docker_engine: docker.DockerClient
) -> Iterator[dict[str, object]]:
    """A stack that `mayfly up` keeps; gives what it printed when it was ready."""
    with subprocess.Popen(
        [*MAYFLY, "up", "--free-ports", "--json"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            said = ""
            while "the gateway is at" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
            printed = ""
            while not printed.endswith("\n}\n"):
                line = process.stdout.readline()
                assert line, printed
                printed += line
            yield json.loads(printed)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)
    assert process.returncode == 0
    remove_images(docker_engine, "stackcli")


@pytest.fixture
def mayfly(up: dict[str, object], folder: Path, environment: dict[str, str]) -> Mayfly:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MAYFLY, *args],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture
def client(up: dict[str, object]) -> Iterator[Client]:
    with Client(str(up["gateway"])) as client:
        yield client


@pytest.fixture
async def async_client(up: dict[str, object]) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(str(up["gateway"])) as client:
        yield client


def test_status_shows_every_part_ready(mayfly: Mayfly) -> None:
    done = mayfly("status", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert report["ready"] is True
    names = {part["name"] for part in report["parts"]}
    assert {"kafka", "redis", "s3", "docker", "gateway", "dispatcher-1"} <= names
    [worker] = report["workers"]
    assert worker["queue"] == "default"


def test_a_task_goes_its_whole_way(mayfly: Mayfly) -> None:
    done = mayfly("submit", "stackcli", "-d", '{"a": [1, "ü"]}', "--wait", "--tag", "whole-way")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"a": [1, "ü"]})
    [listed] = json.loads(mayfly("ls", "--tag", "whole-way", "--json").stdout)["tasks"]
    task_id = listed["taskId"]
    assert json.loads(mayfly("get", task_id, "--json").stdout)["status"] == "COMPLETED"
    assert mayfly("logs", task_id).stdout == "asked for {'a': [1, 'ü']}\n"


def test_a_task_that_fails_shows_the_functions_own_error(mayfly: Mayfly) -> None:
    done = mayfly("submit", "stackcli", "-d", '"fail"', "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert "failed with Function.Error: ValueError: as asked\n" in done.stderr
    assert 'File "handler.py", line 4, in handler' in done.stderr


def test_an_unknown_function_is_refused(mayfly: Mayfly) -> None:
    done = mayfly("submit", "nope", "-d", "{}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: refused: ")
    assert done.stderr.endswith("`mayfly functions` lists those there are\n")


def test_functions_and_workers_are_listed(mayfly: Mayfly) -> None:
    assert mayfly("functions").stdout.splitlines()[1].startswith("stackcli\t")
    assert len(mayfly("workers").stdout.splitlines()) == 2


def test_a_second_stack_in_the_folder_is_refused(mayfly: Mayfly) -> None:
    done = mayfly("up", "--free-ports")
    assert done.returncode == 1
    assert done.stderr.endswith("to mend it: mayfly down\n")
    assert "Traceback" not in done.stderr


def test_the_client_maps_over_real_tasks_in_order(client: Client) -> None:
    payloads = [{"n": n} for n in range(6)]
    assert list(client.map("stackcli", payloads, concurrency=3)) == payloads


def test_the_client_raises_what_the_function_raised(client: Client) -> None:
    task = client.submit("stackcli", "fail", name="a failure", tags=["client"])
    with pytest.raises(TaskFailed) as caught:
        client.result(task.task_id)
    assert (caught.value.type, caught.value.error_class) == ("Function.Error", "ValueError")
    assert caught.value.message == "as asked"
    assert "handler.py" in (caught.value.traceback or "")
    assert caught.value.task.name == "a failure"


def test_the_client_posts_and_gets_bytes(client: Client) -> None:
    task = client.submit("stackcli", data=b"\x00\xff", content_type="application/x-test")
    assert client.result(task.task_id) == b"\x00\xff"
    assert "asked for b'" in client.logs(task.task_id)


def test_the_clients_errors_have_the_gateways_codes(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.submit("nope")
    assert (caught.value.status, caught.value.code) == (422, "unknown_task_type")
    with pytest.raises(ApiError) as caught:
        client.get("nope")
    assert (caught.value.status, caught.value.code) == (404, "unknown_task")


async def test_the_async_client_reads_what_the_gateway_says(async_client: AsyncClient) -> None:
    task = await async_client.submit("stackcli", [1], priority="high", timeout=30)
    done = await async_client.wait(task.task_id, timeout=60)
    assert (done.succeeded, done.priority, done.timeout_seconds) == (True, "high", 30)
    assert set((await async_client.readiness()).values()) == {"ready"}
    assert (await async_client.function("stackcli")).contract == "python"
    assert [info.name for info in await async_client.functions()] == ["stackcli"]
    found = [task.task_id async for task in async_client.list(limit=2)]
    assert done.task_id in found
