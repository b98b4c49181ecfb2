"""The command as a process, in its real surroundings: a terminal, a Docker engine, a machine."""

import errno
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from cli_command import MAYFLY

from tests.engine import remove_images

Mayfly = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def mayfly(tmp_path: Path) -> Mayfly:
    """The command in an empty folder."""

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != "MAYFLY_URL"} | env
        return subprocess.run(
            [*MAYFLY, *args],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=240,
        )

    return run


@pytest.fixture(scope="module", autouse=True)
def images_are_removed(docker_engine: docker.DockerClient) -> Iterator[None]:
    """The functions of this module are named `clitest-...`."""
    yield
    remove_images(docker_engine, "clitest-")


def on_a_terminal(args: list[str], cwd: Path) -> str:
    """What a command writes to a terminal that is its stdin, stdout and stderr."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*MAYFLY, *args], cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError as error:
        # How Linux says that the last process has closed its side of a terminal.
        if error.errno != errno.EIO:
            raise
    finally:
        os.close(ours)
        child.wait(timeout=60)
    return shown.decode(errors="replace")


# --- a function, from nothing to its result


def test_a_new_python_function_runs_as_it_is(mayfly: Mayfly, tmp_path: Path) -> None:
    made = mayfly("new", "clitest-hello")
    assert made.returncode == 0
    assert (tmp_path / "functions/clitest-hello/handler.py").exists()
    assert b'mayfly run clitest-hello -d \'{"name": "World"}\'' in made.stderr
    done = mayfly("run", "clitest-hello", "-d", '{"name": "World"}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"greeting": "Hello, World!"}
    assert b"greeting World" in done.stderr


def test_a_new_unix_function_runs_as_it_is(mayfly: Mayfly) -> None:
    assert mayfly("new", "clitest-count", "--template", "unix").returncode == 0
    done = mayfly("run", "clitest-count", "-d", '{"name": "World"}', "--json")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["result"] == {"bytes": 17}
    assert "has 17 bytes" in verdict["log"]


def test_what_the_payload_may_not_be_is_said_before_the_sandbox_is_made(mayfly: Mayfly) -> None:
    mayfly("new", "clitest-schema")
    done = mayfly("run", "clitest-schema", "-d", '{"name": 3}')
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.splitlines()[-1].startswith(b"error: Task.Invalid: payload.name: ")


@pytest.mark.parametrize(
    ("body", "last_lines"),
    [
        (
            "raise ValueError('no good')",
            [b"ValueError: no good", b"error: Function.Error: ValueError: no good"],
        ),
        (
            "import os; os._exit(3)",
            [b"error: Function.ExitCode: the process exited with code 3 before it gave a result"],
        ),
    ],
)
def test_a_function_that_fails_exits_with_1_and_says_how(
    mayfly: Mayfly, tmp_path: Path, body: str, last_lines: list[bytes]
) -> None:
    folder = tmp_path / "functions/clitest-fails"
    folder.mkdir(parents=True)
    (folder / "handler.py").write_text(f"def handler(event, context):\n    {body}\n")
    done = mayfly("run", "clitest-fails")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.splitlines()[-len(last_lines) :] == last_lines


def test_a_function_that_takes_too_long_is_ended(mayfly: Mayfly, tmp_path: Path) -> None:
    folder = tmp_path / "functions/clitest-slow"
    folder.mkdir(parents=True)
    (folder / "handler.py").write_text("import time\ndef handler(event, context):\n    time.sleep(600)\n")
    done = mayfly("run", "clitest-slow", "--timeout", "0.5")
    assert done.returncode == 1
    assert b"error: Function.Timeout: " in done.stderr


def test_bytes_go_in_and_out(mayfly: Mayfly, tmp_path: Path) -> None:
    folder = tmp_path / "functions/clitest-bytes"
    folder.mkdir(parents=True)
    (folder / "handler.py").write_text("def handler(event, context):\n    return event[::-1]\n")
    (tmp_path / "in.bin").write_bytes(b"\x00\xff\x01")
    refused = mayfly("run", "clitest-bytes", "-f", "in.bin")
    assert refused.stdout == b""
    assert b"3 bytes of application/octet-stream; to save it: -o FILE" in refused.stderr
    assert mayfly("run", "clitest-bytes", "-f", "in.bin", "-o", "out.bin").returncode == 0
    assert (tmp_path / "out.bin").read_bytes() == b"\x01\xff\x00"
    assert mayfly("run", "clitest-bytes", "-f", "in.bin", "-o", "-").stdout == b"\x01\xff\x00"


def test_the_local_environment_reaches_a_run(mayfly: Mayfly, tmp_path: Path) -> None:
    folder = tmp_path / "functions/clitest-env"
    folder.mkdir(parents=True)
    (folder / "function.toml").write_text('secrets = ["PASSWORD"]\n')
    (folder / "handler.py").write_text(
        "import os\ndef handler(event, context):\n    return os.environ['PASSWORD']\n"
    )
    missing = mayfly("run", "clitest-env")
    assert missing.returncode == 1
    assert b"PASSWORD is not set" in missing.stderr
    (folder / ".env").write_text("PASSWORD=from-the-folder\n")
    assert json.loads(mayfly("run", "clitest-env").stdout) == "from-the-folder"
    given = mayfly("run", "clitest-env", MAYFLY_SECRET_PASSWORD="from-the-operator")
    assert json.loads(given.stdout) == "from-the-operator"


def test_a_run_leaves_no_container(mayfly: Mayfly) -> None:
    mayfly("new", "clitest-left")
    mayfly("run", "clitest-left", "-d", '{"name": "x"}')
    client = docker.from_env()
    try:
        assert (
            client.containers.list(all=True, sparse=True, filters={"label": "mayfly.function=clitest-left"})
            == []
        )
    finally:
        client.close()


def test_ctrl_c_takes_the_sandbox_away(mayfly: Mayfly, tmp_path: Path) -> None:
    folder = tmp_path / "functions/clitest-endless"
    folder.mkdir(parents=True)
    (folder / "handler.py").write_text(
        "import time\ndef handler(event, context):\n"
        "    context.progress(0.5, 'running')\n    time.sleep(600)\n"
    )
    # Whoever runs the tests in the background has SIGINT ignored, and that is inherited.
    as_in_a_shell = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    python, option, program = MAYFLY
    with subprocess.Popen(
        [python, option, as_in_a_shell + program, "run", "clitest-endless"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stderr is not None
        while (line := child.stderr.readline()) != b"50% running\n":
            assert line, "the function did not start"
        # As a terminal does: to every process of the command.
        os.killpg(child.pid, signal.SIGINT)
        rest = child.communicate(timeout=120)[1]
    assert child.returncode == 130
    assert b"Traceback" not in rest
    client = docker.from_env()
    try:
        assert (
            client.containers.list(
                all=True, sparse=True, filters={"label": "mayfly.function=clitest-endless"}
            )
            == []
        )
    finally:
        client.close()


# --- building


def test_build_names_the_broken_functions_file_and_line_and_builds_the_others(
    mayfly: Mayfly, tmp_path: Path
) -> None:
    mayfly("new", "clitest-good")
    mayfly("new", "clitest-bad")
    (tmp_path / "functions/clitest-bad/handler.py").write_text("def handler(:\n")
    done = mayfly("build", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert [function["name"] for function in report["functions"]] == ["clitest-good"]
    assert report["errors"]["clitest-bad"].startswith("functions/clitest-bad/handler.py:1: SyntaxError")
    assert b"Traceback" not in done.stderr


def test_a_function_that_is_not_there_is_answered_with_those_that_are(mayfly: Mayfly) -> None:
    alone = mayfly("build", "gone")
    assert (alone.returncode, alone.stderr.splitlines()[-1]) == (2, b"`mayfly new gone` makes one")
    mayfly("new", "clitest-there")
    done = mayfly("run", "gone")
    assert done.returncode == 2
    assert done.stderr == b"error: there is no folder functions/gone\nthose there are: clitest-there\n"


def test_no_function_at_all_is_said(mayfly: Mayfly) -> None:
    done = mayfly("build")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: there is no function in functions\n`mayfly new NAME` makes one\n"


@pytest.mark.parametrize("name", ["Upper", "1st", "a/b", "", "x" * 64])
def test_a_name_that_no_function_can_have_makes_nothing(mayfly: Mayfly, tmp_path: Path, name: str) -> None:
    done = mayfly("new", name)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: a function cannot be named ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_written_over(mayfly: Mayfly, tmp_path: Path) -> None:
    mayfly("new", "clitest-twice")
    handler = tmp_path / "functions/clitest-twice/handler.py"
    handler.write_text("# mine\n")
    done = mayfly("new", "clitest-twice")
    assert done.returncode == 2
    assert b"is there already" in done.stderr
    assert handler.read_text() == "# mine\n"


def test_an_engine_that_is_not_there_is_named(mayfly: Mayfly) -> None:
    mayfly("new", "clitest-nowhere")
    done = mayfly("run", "clitest-nowhere", MAYFLY_DOCKER_HOST="unix:///nowhere/docker.sock")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"error: no Docker engine answers at unix:///nowhere/docker.sock" in done.stderr
    assert b"Traceback" not in done.stderr


# --- the stack


def test_down_and_status_where_no_stack_is_up(mayfly: Mayfly) -> None:
    down = mayfly("down", "--json")
    assert (down.returncode, json.loads(down.stdout)) == (0, {"stopped": False})
    assert down.stderr == b"no stack is up here\n"
    status = mayfly("status", "--url", "http://127.0.0.1:1", "--json")
    assert status.returncode == 3
    assert json.loads(status.stdout)["ready"] is False


# --- a terminal


def test_a_terminal_never_gets_bytes_that_are_no_text(mayfly: Mayfly, tmp_path: Path) -> None:
    folder = tmp_path / "functions/clitest-tty"
    folder.mkdir(parents=True)
    (folder / "handler.py").write_text("def handler(event, context):\n    return bytes(range(256))\n")
    shown = on_a_terminal(["run", "clitest-tty", "-o", "-"], tmp_path)
    assert "application/octet-stream is not for a terminal" in shown
    assert "\x07" not in shown


def test_a_function_cannot_steer_the_terminal_of_who_reads_its_log(mayfly: Mayfly, tmp_path: Path) -> None:
    folder = tmp_path / "functions/clitest-escape"
    folder.mkdir(parents=True)
    (folder / "handler.py").write_text(
        "def handler(event, context):\n    print('log \\x1b]0;owned\\x07')\n    return 'result \\x9b2J'\n"
    )
    shown = on_a_terminal(["run", "clitest-escape"], tmp_path)
    assert "log �]0;owned�" in shown
    assert "result �2J" in shown


def test_help_comes_at_once(mayfly: Mayfly) -> None:
    """The best of several tries, since the machine may be busy: what is bounded is the work, not the load."""
    best = min(_seconds(lambda: mayfly("--help")) for _ in range(5))
    python = min(_seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(5))
    assert best < 0.3 + 10 * python


def _seconds(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


# --- the machine


def test_the_doctor_reports_on_this_machine(mayfly: Mayfly) -> None:
    done = mayfly("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    names = {check["name"] for check in report["checks"]}
    assert {"python", "java", "mvn", "redis-server", "mmdebstrap", "docker", "cgroups", "disk"} <= names
    assert all(check["mend"] for check in report["checks"] if check["level"] != "ok")


def test_the_doctor_says_of_an_engine_that_is_not_there_what_to_do(mayfly: Mayfly) -> None:
    done = mayfly("doctor", "--json", MAYFLY_DOCKER_HOST="unix:///nowhere/docker.sock")
    [check] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "docker"]
    assert check["level"] != "ok"
    assert check["found"].startswith("no Docker engine answers at unix:///nowhere/docker.sock")
    assert check["mend"]
    assert b"Traceback" not in done.stderr
