import errno
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import TASK_ID, Mayfly, ScriptedGateway, command

from mayfly.cli import follow
from mayfly.client import events

TASK = f"/tasks/{TASK_ID}"
EVENTS = f"GET {TASK}/events"
ERROR = {"type": "Function.Error", "message": "not yet"}


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    monkeypatch.setattr(events, "AGAIN_PAUSES", (0, 0))
    return command(gateway, tmp_path, monkeypatch)


def log(text: str) -> tuple[str, Any]:
    return "log", {"text": text}


def status(gateway: ScriptedGateway, name: str, attempt: int, **rest: Any) -> tuple[str, Any]:
    return "status", gateway.task(name, attempt=attempt, **rest)


# --- submit --wait


def test_the_log_comes_on_stderr_in_whole_lines_and_the_result_on_stdout(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.stream(
        EVENTS,
        ("status", gateway.task("QUEUED")),
        status(gateway, "IN_PROGRESS", 1),
        log("one\ntw"),
        log("o\nno end"),
        status(gateway, "COMPLETED", 1, result={"a": 1}),
    )
    done = mayfly("submit", "echo", "--wait")
    assert json.loads(done.stdout) == {"a": 1}
    assert done.stderr == f"task {TASK_ID} is QUEUED\none\ntwo\nno end\n"


def test_an_attempt_that_failed_while_another_is_due_is_said(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.stream(
        EVENTS,
        status(gateway, "IN_PROGRESS", 1),
        log("first\n"),
        status(gateway, "RETRYING", 1, error=ERROR),
        status(gateway, "RETRYING", 1, error=ERROR, cancelRequestedAt="2026-11-24T12:00:00Z"),
        status(gateway, "IN_PROGRESS", 2),
        log("second\n"),
        status(gateway, "COMPLETED", 2, result=None),
    )
    done = mayfly("submit", "echo", "--wait")
    assert done.exit_code == 0
    assert done.stderr.splitlines()[1:] == [
        "first",
        "attempt 1 failed: Function.Error: not yet",
        "second",
    ]


def test_where_the_stream_breaks_for_good_the_task_is_polled_and_no_line_is_told_twice(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.stream(EVENTS, status(gateway, "IN_PROGRESS", 1), log("one\n"), cut=True)
    gateway.lose(EVENTS)
    gateway.answer(f"GET {TASK}", gateway.task("COMPLETED", attempt=1, result=1))
    gateway.answer(f"GET {TASK}/logs", b"one\ntwo\n", content_type="text/plain")
    done = mayfly("submit", "echo", "--wait")
    assert (done.exit_code, done.stdout) == (0, "1\n")
    assert done.stderr == f"task {TASK_ID} is QUEUED\none\ntwo\n"


def test_the_log_of_a_task_that_ended_long_ago_is_read_from_the_store(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.stream(EVENTS, status(gateway, "COMPLETED", 3, logsUrl=f"{TASK}/logs"))
    gateway.answer(f"GET {TASK}/logs", b"one\ntwo\n", content_type="text/plain")
    assert mayfly("logs", TASK_ID, "-f").stdout == "one\ntwo\n"


def test_what_the_stream_says_of_the_log_is_not_read_again(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.stream(EVENTS, log("one\n"), status(gateway, "COMPLETED", 3, logsUrl=f"{TASK}/logs"))
    assert mayfly("logs", TASK_ID, "-f").stdout == "one\n"
    assert len(gateway.requests) == 1


def test_a_task_that_fails_is_blamed_after_its_log(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.stream(EVENTS, log("about to\n"), status(gateway, "FAILED", 1, error=ERROR))
    done = mayfly("submit", "echo", "--wait")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [
        "about to",
        f"error: task {TASK_ID} failed with Function.Error: not yet",
        f"its log: mayfly logs {TASK_ID}",
    ]


def test_a_gateway_that_goes_away_ends_the_wait_with_3(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.lose(EVENTS)
    gateway.lose(f"GET {TASK}")
    assert mayfly("submit", "echo", "--wait").exit_code == 3


def test_ctrl_c_ends_the_wait_and_says_that_the_task_goes_on(
    gateway: ScriptedGateway, mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "follow", interrupted)
    done = mayfly("submit", "echo", "--wait")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr.endswith(f"task {TASK_ID} goes on; `mayfly cancel {TASK_ID}` ends it\n")


# --- logs -f


def test_a_log_is_followed_as_it_is_written(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.stream(EVENTS, status(gateway, "IN_PROGRESS", 1), log("one\ntw"), cut=True)
    gateway.stream(EVENTS, log("o"), status(gateway, "FAILED", 1, error=ERROR))
    done = mayfly("logs", TASK_ID, "-f")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "one\ntwo\n", "")
    assert gateway.requests[1].headers["last-event-id"] == "2"


def test_a_log_is_followed_over_all_attempts(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.stream(
        EVENTS,
        log("first"),
        status(gateway, "RETRYING", 1, error=ERROR),
        log("second\n"),
        status(gateway, "COMPLETED", 2),
    )
    done = mayfly("logs", TASK_ID, "--follow")
    assert done.stdout == "first\nsecond\n"
    assert done.stderr == "attempt 1 failed: Function.Error: not yet\n"


def test_a_log_is_followed_by_polling_where_there_is_no_stream(
    gateway: ScriptedGateway, mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0)
    gateway.refuse(EVENTS, 404, "not_found", "There is nothing here.")
    gateway.answer(f"GET {TASK}", gateway.task("QUEUED"))
    for name in ("IN_PROGRESS", "IN_PROGRESS", "COMPLETED"):
        gateway.answer(f"GET {TASK}", gateway.task(name, attempt=1))
    for text in (b"one\n", b"one\ntwo\n", b"one\ntwo\nthree"):
        gateway.answer(f"GET {TASK}/logs", text, content_type="text/plain")
    done = mayfly("logs", TASK_ID, "-f")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "one\ntwo\nthree\n", "")
    assert [request.path for request in gateway.requests].count(f"{TASK}/logs") == 3


def test_a_task_that_there_is_not_is_not_polled_for(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse(EVENTS, 404, "unknown_task", "There is no such task.")
    done = mayfly("logs", TASK_ID, "-f")
    assert (done.exit_code, len(gateway.requests)) == (1, 1)
    assert done.stderr == "error: refused: There is no such task. (unknown_task)\n"


def test_only_the_attempt_that_runs_can_be_followed(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    assert mayfly("logs", TASK_ID, "-f", "--attempt", "1").exit_code == 2
    assert gateway.requests == []


# --- on a terminal


def test_a_bar_shows_the_progress_and_goes_away(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.stream(
        EVENTS,
        status(gateway, "IN_PROGRESS", 1, progress={"fraction": 0.5, "message": "half [red]way\x1b[2J"}),
        log("a line \x1b]0;owned\x07\n"),
        status(gateway, "COMPLETED", 1, result="done"),
    )
    shown = on_a_terminal(["submit", "echo", "--wait", "--url", gateway.url], tmp_path)
    assert "IN_PROGRESS 50% half [red]way" in shown
    assert "a line �]0;owned�" in shown
    assert "\x1b[2J" not in shown
    assert shown.rstrip().endswith('"done"')


def on_a_terminal(args: list[str], folder: Path) -> str:
    """What the command writes to a terminal that is its stdout and stderr."""
    ours, theirs = pty.openpty()
    program = [sys.executable, "-c", "from mayfly.cli import main; main()", *args]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"}
    with subprocess.Popen(program, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError as error:
            # How Linux says that the last process has closed its side of a terminal.
            if error.errno != errno.EIO:
                raise
    os.close(ours)
    return shown.decode(errors="replace")
