import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import TASK_ID, Mayfly, ScriptedGateway, command

from mayfly.cli.times import shown
from mayfly.client import events
from mayfly.client.models import TaskChange
from mayfly.client.wire import decode

EVENTS = "GET /events"
AT = "2026-11-24T12:00:00.123000Z"


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    monkeypatch.setattr(events, "AGAIN_PAUSES", (0, 0))
    return command(gateway, tmp_path, monkeypatch)


def told(gateway: ScriptedGateway) -> list[dict[str, Any]]:
    """Two changes and a reset; then the gateway is gone, or the command would not end."""
    queued = gateway.task("QUEUED", at=AT, tags=["a"])
    failed = gateway.task("FAILED", at=AT, tags=[], attempt=2, errorType="Function.Error")
    gateway.stream(EVENTS, ("status", queued), ("reset", {}), ("status", failed))
    gateway.lose(EVENTS)
    return [queued, failed]


def test_each_change_is_a_line(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    told(gateway)
    done = mayfly("events")
    at = shown(decode(json.dumps(gateway.task("QUEUED", at=AT)), TaskChange).at)
    assert done.stdout.splitlines() == [
        f"{at}\tQUEUED\techo\t{TASK_ID}\t\t",
        f"{at}\tFAILED\techo\t{TASK_ID}\tattempt 2\tFunction.Error",
    ]
    assert "missed" in done.stderr.splitlines()[0]
    assert done.exit_code == 3


def test_for_programs_each_event_is_an_object_on_a_line(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    queued, failed = told(gateway)
    del failed["tags"]
    lines = [json.loads(line) for line in mayfly("events", "--json").stdout.splitlines()]
    assert [line["id"] for line in lines] == ["1", "2", "3"]
    assert [line["event"] for line in lines] == ["status", "reset", "status"]
    assert [lines[0]["data"], lines[1]["data"], lines[2]["data"]] == [queued, {}, failed]


def test_filters_and_a_place_are_passed_on(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    told(gateway)
    mayfly("events", "--type", "echo", "--status", "failed", "--tag", "a", "--after", "17-3")
    first = gateway.requests[0]
    assert first.query == [("taskType", "echo"), ("status", "FAILED"), ("tag", "a")]
    assert first.headers["last-event-id"] == "17-3"


def test_a_place_that_is_none_is_refused_in_a_line(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse(EVENTS, 400, "invalid_header", "Last-Event-ID is not an id of this stream.")
    done = mayfly("events", "--after", "yesterday")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: refused: Last-Event-ID is not an id of this stream. (invalid_header)\n"
