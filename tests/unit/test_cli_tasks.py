import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer.main
from scripted import TASK_ID, Mayfly, ScriptedGateway, command

from mayfly.cli.app import app
from mayfly.cli.times import shown

TASK = f"/tasks/{TASK_ID}"


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    return command(gateway, tmp_path, monkeypatch)


def completed(gateway: ScriptedGateway, **rest: Any) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.answer(f"GET {TASK}", gateway.task("COMPLETED", **rest))


# --- what is posted


def test_submit_posts_the_json_and_prints_nothing_but_the_id(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    done = mayfly("submit", "echo", "-d", '{"text": "hi"}')
    assert (done.exit_code, done.stdout, done.stderr) == (0, TASK_ID + "\n", "")
    assert gateway.requests[0].json == {"taskType": "echo", "payload": {"text": "hi"}}


def test_submit_without_data_posts_null(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    assert mayfly("submit", "echo").exit_code == 0
    assert gateway.requests[0].json["payload"] is None


def test_submit_reads_a_file_that_is_named_with_at(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    (tmp_path / "event.json").write_text('[1, 2, "ü"]')
    assert mayfly("submit", "echo", "-d", "@event.json").exit_code == 0
    assert gateway.requests[0].json["payload"] == [1, 2, "ü"]


def test_submit_reads_stdin(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    assert mayfly("submit", "echo", "-d", "-", input='{"from": "stdin"}').exit_code == 0
    assert gateway.requests[0].json["payload"] == {"from": "stdin"}


def test_submit_passes_its_options_on(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    options = ("--name", "n", "--priority", "low", "--timeout", "1.5", "--tag", "a", "--tag", "b")
    assert mayfly("submit", "echo", *options).exit_code == 0
    assert gateway.requests[0].json == {
        "taskType": "echo",
        "payload": None,
        "name": "n",
        "priority": "low",
        "timeoutSeconds": 1.5,
        "tags": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("photo.jpg", "image/jpeg"),
        ("table.csv", "text/csv"),
        ("blob", "application/octet-stream"),
        # The gateway takes no text/plain, which any web page could send.
        ("notes.txt", "application/octet-stream"),
    ],
)
def test_submit_sends_a_file_as_bytes_of_the_type_that_its_name_tells(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path, name: str, content_type: str
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    (tmp_path / name).write_bytes(b"\x00\xff")
    assert mayfly("submit", "thumbnail", "-f", name).exit_code == 0
    [request] = gateway.requests
    assert request.headers["content-type"] == content_type
    assert request.body == b"\x00\xff"
    assert request.query == [("taskType", "thumbnail")]


def test_submit_sends_a_file_as_the_type_that_it_is_told(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    (tmp_path / "x").write_bytes(b"{}")
    assert mayfly("submit", "echo", "-f", "x", "--content-type", "text/yaml").exit_code == 0
    assert gateway.requests[0].headers["content-type"] == "text/yaml"


def test_submit_sends_a_json_file_as_a_payload_however_it_is_given(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    (tmp_path / "event.json").write_text('{"a": 1}')
    assert mayfly("submit", "echo", "-f", "event.json").exit_code == 0
    assert gateway.requests[0].json == {"taskType": "echo", "payload": {"a": 1}}


# --- what is wrong on the command line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-d", "{"), "error: what -d gives is not JSON: unexpected end of data (line 1, column 2)\n"),
        (("-d", ""), "error: what -d gives is not JSON: empty: a JSON document was expected\n"),
        (
            ("-d", '{"a": NaN}'),
            "error: what -d gives is not JSON: NaN is no JSON number (line 1, column 7)\n",
        ),
        (
            ("-d", '{"a":1,"a":2}'),
            'error: what -d gives is not JSON: the key "a" is there twice in one object (line 1, column 8)\n',
        ),
        (("-d", "@gone.json"), "error: gone.json cannot be read: No such file or directory\n"),
        (("-f", "gone.jpg"), "error: gone.jpg cannot be read: No such file or directory\n"),
        (("-f", "."), "error: . cannot be read: Is a directory\n"),
        (("-d", "{}", "-f", "x"), "error: -d and -f are both given; a task has one payload\n"),
        (
            ("-d", "{}", "--content-type", "a/b"),
            "error: --content-type says what -f is; with -d the payload is JSON\n",
        ),
        (
            ("-d", "@bad.json"),
            "error: bad.json is not JSON: unexpected character, expected a JSON value (line 1, column 1)\n"
            "to send it as bytes: -f bad.json\n",
        ),
        (
            ("-d", "bad.json"),
            "error: what -d gives is not JSON: unexpected character, expected a JSON value "
            "(line 1, column 1)\nto send the file: -d @bad.json\n",
        ),
    ],
)
def test_a_payload_that_is_none_is_refused_before_anything_is_sent(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    (tmp_path / "bad.json").write_text("bad")
    done = mayfly("submit", "echo", *args)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", message)
    assert gateway.requests == []


def test_stdin_that_is_no_json_is_said_to_be_so(mayfly: Mayfly) -> None:
    done = mayfly("submit", "echo", "-d", "-", input="nope")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: stdin is not JSON: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("submit",), "Missing argument 'NAME'"),
        (("submit", "echo", "--priority", "urgent"), "'urgent' is not one of"),
        (("submit", "echo", "--timeout", "0"), "0"),
        (("submit", "echo", "--timeout", "soon"), "'--timeout': Input should be a valid number"),
        (("get",), "Missing argument 'ID'"),
        (("ls", "--status", "LOST"), "'LOST' is not one of"),
        (("ls", "-n", "0"), "Input should be greater than or equal to 1"),
        (("ls", "--nonsense"), "No such option"),
        (("submti", "echo"), "Did you mean 'submit'?"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_wrong(
    mayfly: Mayfly, args: tuple[str, ...], message: str
) -> None:
    done = mayfly(*args)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# --- what the gateway refuses


def test_an_unknown_function_is_refused_with_where_to_look(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse("POST /tasks", 422, "unknown_task_type", "There is no function nope.", field="taskType")
    done = mayfly("submit", "nope", "-d", "{}")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "error: refused: taskType: There is no function nope.\n`mayfly functions` lists those there are\n"
    )


def test_a_payload_against_the_schema_is_refused_with_the_field_and_the_code(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.refuse("POST /tasks", 422, "invalid_payload", "9 is too wide.", field="payload.width")
    done = mayfly("submit", "thumbnail", "-d", '{"width": 9}')
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: refused: payload.width: 9 is too wide. (invalid_payload)\n"


def test_a_task_that_may_have_been_accepted_is_named(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse("POST /tasks", 503, "log_unavailable", "Not acknowledged.", taskId=TASK_ID)
    done = mayfly("submit", "echo")
    assert done.exit_code == 3
    assert done.stderr == (
        "error: not available now: Not acknowledged.\n"
        f"task {TASK_ID} may have been accepted: look with `mayfly get {TASK_ID}`, "
        f"or repeat it with --key {gateway.requests[0].headers['idempotency-key']}\n"
    )


def test_a_submission_whose_answer_is_lost_can_be_repeated_with_its_key(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.lose("POST /tasks")
    done = mayfly("submit", "echo")
    assert done.exit_code == 3
    key = gateway.requests[0].headers["idempotency-key"]
    assert done.stderr.endswith(
        f"the task may have been accepted; to have it once, repeat it with --key {key}\n"
    )


def test_a_gateway_that_does_not_run_is_named_with_what_to_do(
    mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for args in (
        ("submit", "echo"),
        ("get", TASK_ID),
        ("logs", TASK_ID),
        ("ls",),
        ("workers",),
        ("functions",),
    ):
        done = mayfly(*args, "--url", url)
        assert (done.exit_code, done.stdout) == (3, "")
        assert done.stderr == (
            f"error: cannot reach the gateway at {url}: nothing listens there, or its name is unknown\n"
            "`mayfly up` starts one on this machine\n"
        )


def test_something_else_at_the_url_is_said_to_be_no_gateway(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("GET /workers", b"<html>hello</html>", content_type="text/html")
    done = mayfly("workers")
    assert done.exit_code == 1
    assert "is it a Mayfly gateway" in done.stderr


def test_a_url_that_is_none_is_refused(mayfly: Mayfly) -> None:
    done = mayfly("ls", "--url", "localhost:8080")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: 'localhost:8080' is no gateway's URL; one looks like http://")


def test_an_unknown_task_is_refused(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse("GET /tasks/nope", 404, "unknown_task", "There is no task nope.")
    done = mayfly("get", "nope")
    assert (done.exit_code, done.stderr) == (1, "error: refused: There is no task nope. (unknown_task)\n")


# --- waiting for the result


def test_submit_waits_and_prints_the_result_alone_on_stdout(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    completed(gateway, result={"text": "hi"}, resultContentType="application/json")
    done = mayfly("submit", "echo", "--wait")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"text": "hi"}
    assert done.stderr == f"task {TASK_ID} is QUEUED\n"


def test_submit_prints_a_text_result_as_text(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    completed(gateway, resultContentType="text/plain; charset=utf-8", resultSize=9)
    gateway.answer(f"GET {TASK}/result", b"two\nlines", content_type="text/plain; charset=utf-8")
    assert mayfly("submit", "wordcount", "--wait").stdout == "two\nlines\n"


def test_submit_never_prints_bytes_but_says_how_to_save_them(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    completed(gateway, resultContentType="image/jpeg", resultSize=12_345)
    done = mayfly("submit", "thumbnail", "--wait")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.endswith(
        f"the result is 12.3 kB of image/jpeg; to save it: mayfly get {TASK_ID} -o FILE\n"
    )


def test_submit_writes_the_result_to_a_file_without_being_told_to_wait(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path
) -> None:
    completed(gateway, resultContentType="image/jpeg")
    gateway.answer(f"GET {TASK}/result", b"\xff\xd8", content_type="image/jpeg")
    done = mayfly("submit", "thumbnail", "-o", "small.jpg")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / "small.jpg").read_bytes() == b"\xff\xd8"
    assert done.stderr.endswith("2 bytes of image/jpeg written to small.jpg\n")


def test_a_result_can_be_piped(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    completed(gateway)
    gateway.answer(f"GET {TASK}/result", b"\xff\xd8", content_type="image/jpeg")
    assert mayfly("get", TASK_ID, "-o", "-").stdout_bytes == b"\xff\xd8"


def test_an_output_file_that_cannot_be_written_is_named(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    completed(gateway)
    gateway.answer(f"GET {TASK}/result", b"x", content_type="image/jpeg")
    done = mayfly("get", TASK_ID, "-o", "no/such/folder.jpg")
    assert (done.exit_code, done.stderr) == (1, "error: no/such/folder.jpg: No such file or directory\n")


def test_a_failed_task_exits_with_1_and_the_functions_traceback(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    error = {
        "type": "Function.Error",
        "message": "too wide",
        "class": "ValueError",
        "traceback": 'File "handler.py", line 3\nValueError: too wide\n',
    }
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.answer(f"GET {TASK}", gateway.task("FAILED", error=error))
    done = mayfly("submit", "echo", "--wait")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"task {TASK_ID} is QUEUED\n"
        'File "handler.py", line 3\nValueError: too wide\n'
        f"error: task {TASK_ID} failed with Function.Error: ValueError: too wide\n"
        f"its log: mayfly logs {TASK_ID}\n"
    )


# --- reading


def test_get_shows_what_is_known_of_a_task(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    task = gateway.task(
        "COMPLETED",
        attempt=1,
        queue="default",
        priority="high",
        startedAt="2026-11-24T12:00:00.000Z",
        finishedAt="2026-11-24T12:00:01.500Z",
        result={"a": 1},
    )
    gateway.answer(f"GET {TASK}", task)
    done = mayfly("get", TASK_ID)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert f"task      {TASK_ID}" in lines
    assert "function  echo" in lines
    assert "status    COMPLETED" in lines
    assert "queue     default, high priority" in lines
    assert "took      1.500 s" in lines
    assert lines[-3:] == ["result    {", '  "a": 1', "}"]


def test_get_exits_with_1_for_a_task_that_failed(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    error = {"type": "Function.Timeout", "message": "took more than 1 s"}
    gateway.answer(f"GET {TASK}", gateway.task("FAILED", error=error))
    done = mayfly("get", TASK_ID)
    assert done.exit_code == 1
    assert "error     Function.Timeout: took more than 1 s" in done.stdout.splitlines()


def test_get_shows_progress(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("IN_PROGRESS", progress={"fraction": 0.25, "message": "a"}))
    assert "progress  25% a" in mayfly("get", TASK_ID).stdout.splitlines()


def test_get_shows_the_attempts_of_a_task_that_waits_for_another(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    failed = {
        "attempt": 1,
        "startedAt": "2026-11-24T12:00:00.000Z",
        "finishedAt": "2026-11-24T12:00:01.500Z",
        "dispatcher": "d-1",
        "error": {"type": "Function.Error", "message": "too wide"},
    }
    task = gateway.task(
        "RETRYING",
        attempt=1,
        attempts=[failed],
        dueAt="2026-11-24T12:01:00Z",
        cancelRequestedAt="2026-11-24T12:00:30Z",
        ttlSeconds=90.0,
        concurrencyKey="customer-7",
        rerunOf="the-first",
    )
    gateway.answer(f"GET {TASK}", task)
    lines = mayfly("get", TASK_ID).stdout.splitlines()
    began = shown(datetime(2026, 11, 24, 12, tzinfo=UTC))
    assert f"attempt 1: {began}, 1.500 s, on d-1, Function.Error: too wide" in lines
    assert f"due       {shown(datetime(2026, 11, 24, 12, 1, tzinfo=UTC))}" in lines
    assert f"cancel    asked for at {shown(datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC))}" in lines
    assert "expires   if it has not begun 90 s after it was due" in lines
    assert "key       customer-7, which limits how many run at once" in lines
    assert "rerun of  the-first" in lines


def test_get_shows_when_a_scheduled_task_is_due(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("SCHEDULED", runAt="2026-11-24T12:01:00Z"))
    due = shown(datetime(2026, 11, 24, 12, 1, tzinfo=UTC))
    assert f"due       {due}" in mayfly("get", TASK_ID).stdout.splitlines()


def test_get_saves_no_result_of_a_task_that_still_runs(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("IN_PROGRESS"))
    done = mayfly("get", TASK_ID, "-o", "x")
    assert done.exit_code == 1
    assert done.stderr == f"error: task {TASK_ID} is IN_PROGRESS\n--wait waits for its end\n"


def test_get_waits_for_the_end(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("IN_PROGRESS"))
    gateway.answer(f"GET {TASK}", gateway.task("COMPLETED", result=1))
    assert "status    COMPLETED" in mayfly("get", TASK_ID, "--wait").stdout
    assert gateway.requests[0].query == [("wait", "30")]


def test_logs_are_printed_as_they_are(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(f"GET {TASK}/logs", b"one\ntwo\n", content_type="text/plain")
    done = mayfly("logs", TASK_ID)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "one\ntwo\n", "")


def test_no_logs_are_no_lines(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(f"GET {TASK}/logs", b"", content_type="text/plain")
    assert mayfly("logs", TASK_ID).stdout == ""


def test_the_log_of_one_attempt_is_printed(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(f"GET {TASK}/logs", b"first\n", content_type="text/plain")
    assert mayfly("logs", TASK_ID, "--attempt", "1").stdout == "first\n"
    assert gateway.requests[0].query == [("attempt", "1")]


def test_an_attempt_that_there_was_not_is_refused(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse(f"GET {TASK}/logs", 404, "unknown_attempt", "There is no attempt 9.")
    done = mayfly("logs", TASK_ID, "--attempt", "9")
    assert (done.exit_code, done.stderr) == (
        1,
        "error: refused: There is no attempt 9. (unknown_attempt)\n",
    )


@pytest.mark.parametrize("status", ["SCHEDULED", "RETRYING"])
def test_ls_shows_when_tasks_that_wait_are_due(gateway: ScriptedGateway, mayfly: Mayfly, status: str) -> None:
    task = gateway.task(status, dueAt="2026-11-24T12:01:00Z")
    gateway.answer("GET /tasks", {"tasks": [task], "nextCursor": None})
    header, row = mayfly("ls", "--status", status).stdout.splitlines()
    assert header.endswith("\tDUE")
    assert row.endswith("\t" + shown(datetime(2026, 11, 24, 12, 1, tzinfo=UTC)))


def test_ls_is_tab_separated_where_nobody_looks(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("GET /tasks", {"tasks": [gateway.task("QUEUED")], "nextCursor": None})
    done = mayfly("ls", "--status", "queued", "--type", "echo", "--tag", "t", "-n", "5")
    assert done.stdout == f"TASK\tFUNCTION\tSTATUS\tCREATED\tTOOK\n{TASK_ID}\techo\tQUEUED\t\t\n"
    assert gateway.requests[0].query == [
        ("status", "QUEUED"),
        ("taskType", "echo"),
        ("tag", "t"),
        ("limit", "5"),
    ]


def test_ls_stops_at_its_limit(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("GET /tasks", {"tasks": [gateway.task("QUEUED")] * 2, "nextCursor": "more"})
    assert len(mayfly("ls", "-n", "3").stdout.splitlines()) == 1 + 3
    assert len(gateway.requests) == 2


def test_functions_lists_them_and_shows_one(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    function = {
        "name": "echo",
        "version": "ab12",
        "image": "mayfly/fn-echo:ab12",
        "contract": "python",
        "description": "Says\tit again",
        "schema": {"type": "object"},
    }
    gateway.answer("GET /functions", {"functions": [function]})
    gateway.answer("GET /functions/echo", function)
    gateway.refuse("GET /functions/nope", 404, "unknown_function", "There is no function nope.")
    assert mayfly("functions").stdout == (
        "FUNCTION\tVERSION\tCONTRACT\tNETWORK\tDESCRIPTION\necho\tab12\tpython\tnone\tSays it again\n"
    )
    assert json.loads(mayfly("functions", "echo").stdout)["schema"] == {"type": "object"}
    assert mayfly("functions", "nope").exit_code == 1


def test_workers_lists_the_dispatchers(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    worker = {"id": "w-1", "queue": "default", "slots": 2, "running": 1, "address": "http://127.0.0.1:9"}
    gateway.answer("GET /workers", {"workers": [worker]})
    assert mayfly("workers").stdout.splitlines()[1] == "w-1\tdefault\t1\t2\thttp://127.0.0.1:9\t"


# --- cancelling


def test_cancel_says_of_each_task_what_becomes_of_it(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks/a/cancel", {"taskId": "a", "status": "IN_PROGRESS"}, 202)
    gateway.answer("POST /tasks/b/cancel", {"taskId": "b", "status": "CANCELLED"})
    done = mayfly("cancel", "a", "b")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "task a is being cancelled\ntask b is cancelled\n"


def test_cancel_goes_on_after_a_task_that_is_over(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse("POST /tasks/a/cancel", 409, "task_finished", "It is COMPLETED.")
    gateway.answer("POST /tasks/b/cancel", {"taskId": "b", "status": "QUEUED"}, 202)
    done = mayfly("cancel", "a", "b", "--json")
    assert done.exit_code == 1
    assert done.stderr == "error: task a is not cancelled: It is COMPLETED.\ntask b is being cancelled\n"
    assert json.loads(done.stdout) == {
        "tasks": [{"taskId": "b", "status": "QUEUED"}],
        "failed": [{"taskId": "a", "code": "task_finished", "detail": "It is COMPLETED."}],
    }


def test_cancel_exits_with_3_where_the_gateway_cannot_do_it_now(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.refuse(f"POST {TASK}/cancel", 503, "log_unavailable", "Kafka is away", retry_after="60")
    assert mayfly("cancel", TASK_ID).exit_code == 3


# --- for programs


@pytest.mark.parametrize(
    "args",
    [
        ("submit", "echo"),
        ("submit", "echo", "--wait"),
        ("get", TASK_ID),
        ("logs", TASK_ID),
        ("logs", TASK_ID, "-f"),
        ("ls",),
        ("cancel", TASK_ID),
        ("rerun", TASK_ID),
        ("rerun", TASK_ID, "--wait"),
        ("dlq", "ls"),
        ("dlq", "redrive", "--all", "--yes"),
        ("dlq", "purge", "--all", "--yes"),
        ("functions",),
        ("workers",),
        ("status",),
    ],
)
def test_json_is_the_only_thing_on_stdout(
    gateway: ScriptedGateway, mayfly: Mayfly, args: tuple[str, ...]
) -> None:
    completed(gateway, result=[1], createdAt="2026-11-24T12:00:00.123Z")
    gateway.answer(f"GET {TASK}/logs", b"x\n", content_type="text/plain")
    gateway.answer("GET /tasks", {"tasks": [gateway.task("QUEUED")], "nextCursor": None})
    gateway.answer("GET /functions", {"functions": []})
    gateway.answer("GET /workers", {"workers": []})
    gateway.answer("GET /readyz", {"status": "ready", "parts": {"kafka": "ready"}})
    gateway.answer(f"POST {TASK}/cancel", gateway.task("IN_PROGRESS"), 202)
    gateway.answer(f"POST {TASK}/rerun", gateway.task("QUEUED"), 202)
    gateway.answer("GET /dead-letters", {"tasks": [gateway.task("FAILED")], "nextCursor": None})
    gateway.answer("POST /dead-letters/redrive", {"redriven": [], "failed": [], "remaining": 0})
    gateway.answer("POST /dead-letters/purge", {"purged": [], "failed": [], "remaining": 0})
    done = mayfly(*args, "--json")
    assert done.exit_code == 0
    assert isinstance(json.loads(done.stdout), dict)


def test_json_of_a_task_is_in_the_gateways_words(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("COMPLETED", result=None, resultSize=4))
    assert json.loads(mayfly("get", TASK_ID, "--json").stdout) == {
        "taskId": TASK_ID,
        "taskType": "echo",
        "status": "COMPLETED",
        "result": None,
        "resultSize": 4,
    }


def test_json_of_a_failed_task_comes_with_exit_code_1(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.answer(f"GET {TASK}", gateway.task("CANCELLED"))
    done = mayfly("submit", "echo", "--wait", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["status"] == "CANCELLED"


# --- where the gateway is


def test_the_stack_of_a_folder_above_names_the_gateway(
    gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAYFLY_URL")
    (tmp_path / ".mayfly").mkdir()
    (tmp_path / ".mayfly" / "stack.json").write_text(json.dumps({"gateway": gateway.url}))
    below = tmp_path / "functions" / "echo"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    gateway.answer("GET /workers", {"workers": []})
    assert mayfly("workers").exit_code == 0
    assert len(gateway.requests) == 1


def test_the_option_wins_over_the_environment(
    gateway: ScriptedGateway, mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAYFLY_URL", "http://127.0.0.1:9")
    gateway.answer("GET /workers", {"workers": []})
    assert mayfly("workers", "--url", gateway.url).exit_code == 0


def test_status_without_a_stack_shows_what_the_gateway_needs(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.refuse(
        "GET /readyz", 503, "not_ready", "redis is away", parts={"kafka": "ready", "redis": "away"}
    )
    gateway.answer("GET /workers", {"workers": []})
    done = mayfly("status")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[:4] == [
        "PART\tADDRESS\tPID\tHEALTH",
        f"gateway\t{gateway.url}\t\tanswers",
        "kafka\t\t\tready",
        "redis\t\t\taway",
    ]


def test_status_exits_with_3_where_no_gateway_answers(mayfly: Mayfly) -> None:
    done = mayfly("status", "--url", "http://127.0.0.1:1")
    assert done.exit_code == 3
    assert "nothing listens there" in done.stdout


def test_the_version_is_printed(mayfly: Mayfly) -> None:
    assert mayfly("--version").stdout.startswith("mayfly 0.")


def test_every_command_has_help_and_json(mayfly: Mayfly) -> None:
    group: Any = typer.main.get_command(app)
    names = [
        [name, *rest]
        for name, one in group.commands.items()
        for rest in ([[inner] for inner in one.commands] if hasattr(one, "commands") else [[]])
    ]
    assert len(names) > 16
    for name in names:
        done = mayfly(*name, "--help")
        assert done.exit_code == 0
        assert "--json" in done.stdout
