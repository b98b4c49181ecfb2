import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from scripted import TASK_ID, Mayfly, ScriptedGateway, command

TASK = f"/tasks/{TASK_ID}"
REDRIVE, PURGE = "POST /dead-letters/redrive", "POST /dead-letters/purge"
ERROR = {"type": "Function.Error", "message": "too wide"}


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    return command(gateway, tmp_path, monkeypatch)


def test_dead_letters_are_listed_with_why_they_failed(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    dead = gateway.task("FAILED", attempt=3, error=ERROR)
    gateway.answer("GET /dead-letters", {"tasks": [dead], "nextCursor": None})
    done = mayfly("dlq", "ls")
    assert done.stdout == (
        f"TASK\tFUNCTION\tERROR\tFAILED\tATTEMPTS\tMESSAGE\n{TASK_ID}\techo\tFunction.Error\t\t3\ttoo wide\n"
    )


def test_the_list_is_filtered(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("GET /dead-letters", {"tasks": [], "nextCursor": None})
    before = datetime.now(UTC)
    options = ("--type", "echo", "--error", "Function.Error", "--since", "1h", "-n", "5")
    assert mayfly("dlq", "ls", *options, "--until", "2026-12-01T09:00:00Z").exit_code == 0
    query = dict(gateway.requests[0].query)
    since = datetime.fromisoformat(query.pop("since"))
    assert before - timedelta(hours=1) <= since <= datetime.now(UTC) - timedelta(hours=1)
    assert query == {
        "taskType": "echo",
        "errorType": "Function.Error",
        "until": "2026-12-01T09:00:00+00:00",
        "limit": "5",
    }


def test_a_dead_letter_is_shown_with_its_attempts_and_its_log(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    attempts = [{"attempt": number, "error": ERROR} for number in (1, 2)]
    dead = gateway.task("FAILED", attempt=2, error=ERROR, attempts=attempts, logsUrl=f"{TASK}/logs")
    gateway.answer(f"GET {TASK}", dead)
    gateway.answer(f"GET {TASK}/logs", b"about to fail\n", content_type="text/plain")
    done = mayfly("dlq", "show", TASK_ID)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-5:] == [
        "attempt 1: Function.Error: too wide",
        "attempt 2: Function.Error: too wide",
        "error     Function.Error: too wide",
        "log",
        "about to fail",
    ]
    assert json.loads(mayfly("dlq", "show", TASK_ID, "--json").stdout)["logs"] == "about to fail\n"


def test_a_task_that_did_not_fail_is_no_dead_letter(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("COMPLETED"))
    done = mayfly("dlq", "show", TASK_ID)
    assert (done.exit_code, done.stderr) == (1, f"error: task {TASK_ID} is COMPLETED, and no dead letter\n")


def test_a_redrive_prints_the_new_ids_and_asks_nothing(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    redriven = [{"taskId": TASK_ID, "newTaskId": "new"}]
    gateway.answer(REDRIVE, {"redriven": redriven, "failed": [], "remaining": 0})
    done = mayfly("dlq", "redrive", "--type", "echo")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "new\n", "1 submitted again\n")
    assert gateway.requests[0].json == {"taskType": "echo"}


def test_a_redrive_that_fails_for_one_says_why_and_exits_with_1(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    failed = [{"taskId": TASK_ID, "code": "input_gone", "detail": "Its input is gone."}]
    gateway.answer(REDRIVE, {"redriven": [], "failed": failed, "remaining": 0})
    done = mayfly("dlq", "redrive", TASK_ID)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: the dead letter of task {TASK_ID} stays: Its input is gone.\n0 submitted again\n"
    )
    assert gateway.requests[0].json == {"taskIds": [TASK_ID]}


def test_all_of_thousands_are_redriven(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    for number, remaining in (("1", 1), ("2", 0)):
        redriven = [{"taskId": f"old-{number}", "newTaskId": f"new-{number}"}]
        gateway.answer(REDRIVE, {"redriven": redriven, "failed": [], "remaining": remaining})
    done = mayfly("dlq", "redrive", "--all", input="y\n")
    assert (done.exit_code, done.stdout) == (0, "new-1\nnew-2\n")
    assert "Submit every dead letter again? [y/N]" in done.stderr


@pytest.mark.parametrize("command", [("redrive", "--all"), ("purge", "--all"), ("purge", TASK_ID)])
@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_nothing_is_done_that_was_not_confirmed(
    gateway: ScriptedGateway, mayfly: Mayfly, command: tuple[str, ...], answer: str
) -> None:
    done = mayfly("dlq", *command, input=answer)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.endswith("error: nothing was done\n--yes does it without asking\n")
    assert gateway.requests == []


def test_a_purge_says_what_it_is_going_to_forget(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(PURGE, {"purged": ["1", "2"], "failed": [], "remaining": 0})
    done = mayfly("dlq", "purge", "--type", "echo", "--error", "Task.Expired", input="y\n")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Forget every dead letter of echo with Task.Expired for good? [y/N]" in done.stderr
    assert done.stderr.endswith("2 forgotten\n")
    assert gateway.requests[0].json == {"taskType": "echo", "errorType": "Task.Expired"}


def test_yes_asks_nothing(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(PURGE, {"purged": ["1"], "failed": [], "remaining": 0})
    done = mayfly("dlq", "purge", "--all", "--yes", "--json")
    assert json.loads(done.stdout) == {"purged": ["1"], "failed": [], "remaining": 0}
    assert done.stderr == "1 forgotten\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "it is not said which dead letters are meant"),
        ((TASK_ID, "--all"), "which dead letters are meant is said in two ways"),
        ((TASK_ID, "--type", "echo"), "which dead letters are meant is said in two ways"),
        (("--all", "--since", "1h"), "which dead letters are meant is said in two ways"),
        (("--since", "1 hour"), "is no length of time"),
        (("--since", "9999999d"), "is too long"),
    ],
)
@pytest.mark.parametrize("act", ["redrive", "purge"])
def test_which_dead_letters_are_meant_has_to_be_clear(
    gateway: ScriptedGateway, mayfly: Mayfly, act: str, options: tuple[str, ...], message: str
) -> None:
    done = mayfly("dlq", act, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert gateway.requests == []


def test_dlq_alone_shows_its_commands(mayfly: Mayfly) -> None:
    done = mayfly("dlq")
    assert done.exit_code == 2
    assert "redrive" in done.output
