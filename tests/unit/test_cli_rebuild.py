import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from scripted import Mayfly, ScriptedGateway, command

from mayfly.cli import rebuild
from mayfly.client import AsyncClient, Client, Rebuild

START, STATE = "POST /rebuild", "GET /rebuild"
COMPLETE = {"complete": True, "queues": []}


def missing(*queues: str) -> dict[str, object]:
    return {"complete": False, "queues": list(queues)}


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    monkeypatch.setattr(rebuild, "LOOK_SECONDS", 0.001)
    return command(gateway, tmp_path, monkeypatch)


@pytest.fixture
def client(gateway: ScriptedGateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


@pytest.fixture
async def async_client(gateway: ScriptedGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.url) as client:
        yield client


def test_a_rebuild_is_begun_once_and_waited_for(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(START, missing("default", "big"), 202)
    gateway.answer(STATE, missing("default", "big"))
    gateway.answer(STATE, missing("big"))
    gateway.answer(STATE, COMPLETE)
    done = mayfly("rebuild")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "complete: Redis has all that the log has\n"
    assert [request.method for request in gateway.requests] == ["POST", "GET", "GET", "GET"]


def test_where_there_is_nothing_to_rebuild_nothing_is_waited_for(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.answer(START, COMPLETE, 202)
    assert mayfly("rebuild").exit_code == 0
    assert len(gateway.requests) == 1


def test_when_the_time_is_over_it_names_the_queues_and_what_they_need(
    gateway: ScriptedGateway, mayfly: Mayfly
) -> None:
    gateway.answer(START, missing("big", "default"), 202)
    gateway.answer(STATE, missing("big"))
    done = mayfly("rebuild", "--timeout", "0.05")
    assert (done.exit_code, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert error == "error: not complete within 0.05 s: something is missing still of queue big"
    assert hint.startswith("a dispatcher of each queue named must run")


def test_with_no_time_to_wait_it_is_only_begun(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer(START, missing("default"), 202)
    assert mayfly("rebuild", "--timeout", "0").exit_code == 1
    assert [request.method for request in gateway.requests] == ["POST"]


@pytest.mark.parametrize(("last", "code"), [(COMPLETE, 0), (missing("big"), 1)])
def test_programs_get_the_last_state(
    gateway: ScriptedGateway, mayfly: Mayfly, last: dict[str, object], code: int
) -> None:
    gateway.answer(START, missing("big"), 202)
    gateway.answer(STATE, last)
    done = mayfly("rebuild", "--json", "--timeout", "5" if code == 0 else "0.05")
    assert done.exit_code == code
    assert json.loads(done.stdout) == last


def test_a_redis_that_is_away_is_nothing_to_wait_for(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse(START, 503, "read_model_unavailable", "Redis is away")
    done = mayfly("rebuild")
    assert done.exit_code == 3
    assert "not available now: Redis is away" in done.stderr


def test_the_client_begins_it_and_tells_how_far_it_is(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(START, missing("big"), 202)
    gateway.answer(STATE, COMPLETE)
    assert client.rebuild() == Rebuild(False, ("big",))
    assert client.rebuild_state() == Rebuild(True)
    assert [request.body for request in gateway.requests] == [b"", b""]


async def test_the_client_for_asyncio_does_the_same(
    gateway: ScriptedGateway, async_client: AsyncClient
) -> None:
    gateway.answer(START, missing("big"), 202)
    gateway.answer(STATE, COMPLETE)
    assert await async_client.rebuild() == Rebuild(False, ("big",))
    assert await async_client.rebuild_state() == Rebuild(True)


def test_a_rebuild_whose_answer_is_lost_is_begun_again(gateway: ScriptedGateway, client: Client) -> None:
    gateway.lose(START)
    gateway.answer(START, missing("big"), 202)
    assert not client.rebuild().complete
