"""`mayfly submit --batch`, `mayfly batch`, `mayfly invoke`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import TASK_ID, Mayfly, ScriptedGateway, command

from mayfly.cli import batches

BATCH = "01939c1a-0000-7000-8000-0000000000ba"
INVOKE = "POST /functions/echo/invoke"
ACCEPTED = {"status": 202, "task": {"taskId": TASK_ID, "status": "QUEUED"}}
REFUSED = {"status": 422, "problem": {"code": "invalid_payload", "detail": "no", "field": "payload.n"}}


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    return command(gateway, tmp_path, monkeypatch)


def test_each_line_of_a_file_is_a_task(gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path) -> None:
    (tmp_path / "payloads").write_text('{"n": 1}\n\n2\n')
    gateway.answer("POST /tasks/batch", {"batchId": BATCH, "items": [ACCEPTED, ACCEPTED]})
    done = mayfly("submit", "echo", "--batch", "payloads", "--tag", "import", "--key", "k")
    assert (done.exit_code, done.stdout) == (0, f"{TASK_ID}\n{TASK_ID}\n")
    assert f"mayfly batch {BATCH}" in done.stderr
    [request] = gateway.requests
    assert request.headers["idempotency-key"] == "k"
    said = {"taskType": "echo", "tags": ["import"]}
    lines = [json.loads(line) for line in request.body.splitlines()]
    assert lines == [{**said, "payload": {"n": 1}}, {**said, "payload": 2}]


def test_a_line_that_is_refused_is_named(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks/batch", {"batchId": BATCH, "items": [ACCEPTED, REFUSED]})
    done = mayfly("submit", "echo", "--batch", "-", "--json", input="1\n\n{}\n")
    assert done.exit_code == 1
    assert "line 3: payload.n: no (invalid_payload)" in done.stderr
    said = json.loads(done.stdout)
    assert said["batches"] == [BATCH]
    assert said["tasks"][1] == {"line": 3, "code": "invalid_payload", "detail": "no"}


@pytest.mark.parametrize(
    ("arguments", "lines", "message"),
    [
        (("--batch", "-"), "1\n{\n", "line 2 of - is not JSON"),
        (("--batch", "nowhere"), "", "nowhere cannot be read"),
        (("--batch", "-", "-d", "1"), "1\n", "leave out -d"),
        (("--batch", "-", "--wait"), "1\n", "leave out -d"),
    ],
)
def test_a_batch_that_is_none_is_refused_here(
    gateway: ScriptedGateway, mayfly: Mayfly, arguments: tuple[str, ...], lines: str, message: str
) -> None:
    done = mayfly("submit", "echo", *arguments, input=lines)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not gateway.requests


def test_where_it_breaks_off_what_was_accepted_is_told_and_how_to_have_the_rest_once(
    gateway: ScriptedGateway, mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK", 1)
    gateway.answer("POST /tasks/batch", {"batchId": BATCH, "items": [ACCEPTED]})
    gateway.answer("POST /tasks/batch", b"a proxy gave up", 502)
    done = mayfly("submit", "echo", "--batch", "-", "--json", input="1\n\n2\n3\n")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"batches": [BATCH], "tasks": [{"line": 1, "taskId": TASK_ID}]}
    key = gateway.requests[1].headers["idempotency-key"]
    assert f"the lines after line 1 were not answered for: submit them again with --key {key}" in done.stderr
    assert "repeat it" not in done.stderr, "the first line would be there twice"


def test_a_line_that_is_no_json_takes_nothing_back(
    gateway: ScriptedGateway, mayfly: Mayfly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHUNK", 1)
    gateway.answer("POST /tasks/batch", {"batchId": BATCH, "items": [ACCEPTED]})
    done = mayfly("submit", "echo", "--batch", "-", input="1\n{\n")
    assert (done.exit_code, done.stdout) == (2, f"{TASK_ID}\n")
    assert "line 2 of - is not JSON" in done.stderr
    assert "1 accepted, 0 refused" in done.stderr
    assert "the lines after line 1 were not answered for" in done.stderr


def test_a_line_in_doubt_is_counted_as_that_and_names_its_task(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    doubt = {"code": "log_unavailable", "detail": "perhaps", "taskId": TASK_ID}
    gateway.answer("POST /tasks/batch", {"batchId": None, "items": [{"status": 503, "problem": doubt}]})
    done = mayfly("submit", "echo", "--batch", "-", "--json", input="1\n")
    assert done.exit_code == 1
    assert f"line 1: perhaps (log_unavailable); task {TASK_ID} may have been accepted" in done.stderr
    assert "0 accepted, 0 refused, 1 in doubt" in done.stderr
    assert json.loads(done.stdout)["tasks"][0]["taskId"] == TASK_ID


def test_whatever_leaves_a_task_in_doubt_the_key_is_named(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks", b"a proxy gave up", 502)
    done = mayfly("submit", "echo")
    assert done.exit_code == 1
    assert f"repeat it with --key {gateway.requests[0].headers['idempotency-key']}" in done.stderr


def test_a_key_that_is_none_is_a_wrong_command_line(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    done = mayfly("submit", "echo", "--key", "")
    assert (done.exit_code, gateway.requests) == (2, [])
    assert "1 to 200 printable characters" in done.stderr


def test_a_batch_is_shown(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    statuses = {"QUEUED": 0, "COMPLETED": 2, "FAILED": 1}
    gateway.answer(f"GET /batches/{BATCH}", {"batchId": BATCH, "tasks": 3, "ended": 3, "statuses": statuses})
    done = mayfly("batch", BATCH)
    assert done.stdout == "STATUS\tTASKS\nCOMPLETED\t2\nFAILED\t1\nended\t3 of 3\n"
    assert json.loads(mayfly("batch", BATCH, "--json").stdout)["ended"] == 3


def test_invoke_prints_the_result(gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path) -> None:
    gateway.answer(INVOKE, {"n": 1})
    done = mayfly("invoke", "echo", "-d", '{"n": 1}', "--wait", "5")
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"n": 1})
    assert gateway.requests[0].query == [("wait", "5.000")]
    assert mayfly("invoke", "echo", "-o", "result.json").exit_code == 0
    assert json.loads((tmp_path / "result.json").read_bytes()) == {"n": 1}
    said = json.loads(mayfly("invoke", "echo", "--json").stdout)
    assert said == {"contentType": "application/json", "result": {"n": 1}}


def test_invoke_says_why_the_function_failed(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse(INVOKE, 502, "function_failed", "no", taskId=TASK_ID)
    error = {"type": "Function.Error", "message": "no", "class": "ValueError", "traceback": "Traceback ..."}
    gateway.answer(f"GET /tasks/{TASK_ID}", gateway.task("FAILED", error=error))
    done = mayfly("invoke", "echo")
    assert done.exit_code == 1
    assert "Traceback ..." in done.stderr
    assert "ValueError: no" in done.stderr
