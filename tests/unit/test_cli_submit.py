import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from scripted import TASK_ID, Mayfly, ScriptedGateway, command

RERUN = f"POST /tasks/{TASK_ID}/rerun"


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    return command(gateway, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("option", "posted"),
    [
        (("--delay", "10m"), {"delaySeconds": 600.0}),
        (("--delay", "1h30m"), {"delaySeconds": 5400.0}),
        (("--at", "2026-12-01T09:00:00+01:00"), {"runAt": "2026-12-01T08:00:00+00:00"}),
        (("--at", "2026-12-01T09:00:00Z"), {"runAt": "2026-12-01T09:00:00+00:00"}),
        (("--ttl", "90"), {"ttlSeconds": 90.0}),
        (("--queue", "gpu"), {"queue": "gpu"}),
        (("--max-attempts", "5"), {"retry": {"maxAttempts": 5}}),
        (("--concurrency-key", "customer-7"), {"concurrencyKey": "customer-7"}),
        (("--no-redeliver",), {"redeliver": False}),
        (("--callback", "https://example.com/hook"), {"callbackUrl": "https://example.com/hook"}),
    ],
)
def test_an_option_of_submit_is_posted_in_the_gateways_words(
    gateway: ScriptedGateway, mayfly: Mayfly, option: tuple[str, ...], posted: dict[str, Any]
) -> None:
    gateway.answer("POST /tasks", gateway.task("SCHEDULED"), 202)
    assert mayfly("submit", "echo", *option).stdout == TASK_ID + "\n"
    assert gateway.requests[0].json == {"taskType": "echo", "payload": None, **posted}


def test_a_time_without_an_offset_is_this_machines(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks", gateway.task("SCHEDULED"), 202)
    assert mayfly("submit", "echo", "--at", "2026-12-01 09:00").exit_code == 0
    local = datetime(2026, 12, 1, 9).astimezone(UTC)
    assert gateway.requests[0].json["runAt"] == local.isoformat()


def test_a_key_is_sent_as_the_header(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    assert mayfly("submit", "echo", "--key", "order-7").exit_code == 0
    assert gateway.requests[0].headers["idempotency-key"] == "order-7"


def test_a_key_of_another_request_is_refused_with_what_to_do(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.refuse("POST /tasks", 409, "idempotency_conflict", "The key came with another request.")
    done = mayfly("submit", "echo", "--key", "order-7")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "error: refused: The key came with another request.\nanother task needs another --key\n"
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--delay", "soon"), "'soon' is no length of time; one looks like 30s, 10m, 2h or 1h30m"),
        (("--delay", "-5m"), "'-5m' is no length of time"),
        (("--delay", ""), "'' is no length of time"),
        (("--ttl", "10 m"), "'10 m' is no length of time"),
        (("--delay", "9" * 30 + "d"), "is too long"),
        (("--at", "tomorrow"), "'tomorrow' is no time; one looks like 2026-12-01T09:00:00+01:00"),
        (("--at", "2026-12-01"), "'2026-12-01' is no time"),
        (("--at", "2026-13-01T09:00:00Z"), "'2026-13-01T09:00:00Z' is no time"),
        (("--delay", "1m", "--at", "2026-12-01T09:00:00Z"), "--delay and --at are both given"),
        (("--max-attempts", "0"), "greater than or equal to 1"),
    ],
)
def test_a_time_that_is_none_is_refused_before_anything_is_sent(
    gateway: ScriptedGateway, mayfly: Mayfly, option: tuple[str, ...], message: str
) -> None:
    done = mayfly("submit", "echo", *option)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())
    assert gateway.requests == []


def test_a_rerun_prints_the_new_tasks_id(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(RERUN, {"taskId": "new", "status": "QUEUED", "rerunOf": TASK_ID}, 202)
    assert mayfly("rerun", TASK_ID).stdout == "new\n"
    assert mayfly("rerun", TASK_ID, "--latest").stdout == "new\n"
    assert [request.body for request in gateway.requests] == [b"", b'{"latest":true}']


def test_a_rerun_can_be_waited_for(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(RERUN, {"taskId": "new", "status": "QUEUED", "rerunOf": TASK_ID}, 202)
    gateway.stream(
        "GET /tasks/new/events", ("status", {"taskId": "new", "status": "COMPLETED", "result": [1]})
    )
    done = mayfly("rerun", TASK_ID, "--wait")
    assert json.loads(done.stdout) == [1]
    assert done.stderr == "task new is QUEUED\n"


def test_a_rerun_of_what_is_not_kept_is_refused(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse(RERUN, 410, "input_gone", "The input is not kept any more.")
    done = mayfly("rerun", TASK_ID)
    assert (done.exit_code, done.stderr) == (
        1,
        "error: refused: The input is not kept any more. (input_gone)\n",
    )


def test_spans_of_all_units_are_read() -> None:
    from mayfly.cli.times import span

    assert span("1d2h3m4s500ms") == timedelta(days=1, hours=2, minutes=3, seconds=4.5)
    assert span("1.5h") == timedelta(minutes=90)
    assert span("0") == timedelta(0)
