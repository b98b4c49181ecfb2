from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from scripted import TASK_ID, ScriptedGateway

from mayfly.client import AsyncClient, Client

REDRIVE, PURGE = "POST /dead-letters/redrive", "POST /dead-letters/purge"


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def client(gateway: ScriptedGateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


@pytest.fixture
async def async_client(gateway: ScriptedGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.url) as client:
        yield client


def redriven(*numbers: int, remaining: int = 0, failed: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "redriven": [{"taskId": f"old-{number}", "newTaskId": f"new-{number}"} for number in numbers],
        "failed": [{"taskId": name, "code": "input_gone", "detail": "gone"} for name in failed],
        "remaining": remaining,
    }


def test_dead_letters_are_listed_page_by_page(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer("GET /dead-letters", {"tasks": [gateway.task("FAILED")], "nextCursor": "c1"})
    gateway.answer("GET /dead-letters", {"tasks": [gateway.task("FAILED")], "nextCursor": None})
    since = datetime(2026, 11, 24, tzinfo=UTC)
    found = client.dead_letters(task_type="echo", error_type="Function.Error", since=since, limit=1)
    assert [task.task_id for task in found] == [TASK_ID, TASK_ID]
    assert gateway.requests[0].query == [
        ("taskType", "echo"),
        ("errorType", "Function.Error"),
        ("since", "2026-11-24T00:00:00+00:00"),
        ("limit", "1"),
    ]
    assert ("cursor", "c1") in gateway.requests[1].query


def test_some_are_redriven_by_their_ids(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(REDRIVE, redriven(1, failed=("old-2",)))
    done = client.redrive(task_ids=["old-1", "old-2"])
    assert [(task.task_id, task.new_task_id) for task in done.redriven] == [("old-1", "new-1")]
    assert [(task.task_id, task.code) for task in done.failed] == [("old-2", "input_gone")]
    assert [request.json for request in gateway.requests] == [{"taskIds": ["old-1", "old-2"]}]


def test_more_ids_than_a_request_takes_go_in_several(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(PURGE, {"purged": ["x"] * 1000, "failed": [], "remaining": 0})
    assert client.purge(task_ids=[str(number) for number in range(2001)]).purged
    assert [len(request.json["taskIds"]) for request in gateway.requests] == [1000, 1000, 1]


def test_of_some_ids_those_that_were_not_tried_are_asked_for_again(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.answer(REDRIVE, redriven(1, failed=("old-2",), remaining=2))
    gateway.answer(REDRIVE, redriven(3, remaining=1))
    gateway.answer(REDRIVE, redriven(4))
    done = client.redrive(task_ids=["old-1", "old-2", "old-3", "old-4"])
    assert [request.json["taskIds"] for request in gateway.requests[1:]] == [["old-3", "old-4"], ["old-4"]]
    assert [task.task_id for task in done.redriven] == ["old-1", "old-3", "old-4"]
    assert [failure.task_id for failure in done.failed] == ["old-2"]
    assert done.remaining == 0


def test_what_remains_of_each_request_is_counted(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(PURGE, {"purged": [], "failed": [], "remaining": 1000})
    gateway.answer(PURGE, {"purged": ["1000"], "failed": [], "remaining": 0})
    assert client.purge(task_ids=[str(number) for number in range(1001)]).remaining == 1000


def test_what_remains_is_gone_through_without_what_failed_since_the_start(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.answer(REDRIVE, redriven(1, remaining=2))
    gateway.answer(REDRIVE, redriven(2, remaining=1))
    gateway.answer(REDRIVE, redriven(3))
    before = datetime.now(UTC)
    done = client.redrive(all=True)
    assert [task.task_id for task in done.redriven] == ["old-1", "old-2", "old-3"]
    assert done.remaining == 0
    first, second, third = (request.json for request in gateway.requests)
    assert first == {"all": True}
    assert second == third
    assert before <= datetime.fromisoformat(second["until"]) <= datetime.now(UTC)


def test_filters_stay_what_they_are(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(PURGE, {"purged": ["1"], "failed": [], "remaining": 1})
    gateway.answer(PURGE, {"purged": ["2"], "failed": [], "remaining": 0})
    until = datetime(2026, 11, 24, tzinfo=UTC)
    assert client.purge(error_type="Task.Expired", until=until).purged == ("1", "2")
    body = {"errorType": "Task.Expired", "until": "2026-11-24T00:00:00+00:00"}
    assert [request.json for request in gateway.requests] == [body, body]


def test_what_cannot_be_redriven_is_not_tried_for_ever(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(REDRIVE, redriven(1, remaining=1, failed=("old-2",)))
    gateway.answer(REDRIVE, redriven(remaining=1, failed=("old-2",)))
    done = client.redrive(task_type="echo")
    assert [task.task_id for task in done.failed] == ["old-2"]
    assert done.remaining == 1
    assert len(gateway.requests) == 2


def test_what_could_not_be_redriven_at_first_is_no_failure_in_the_end(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.answer(REDRIVE, redriven(1, remaining=1, failed=("old-2",)))
    gateway.answer(REDRIVE, redriven(2))
    done = client.redrive(all=True)
    assert len(done.redriven) == 2
    assert done.failed == ()


def test_a_redrive_whose_answer_is_lost_is_asked_for_again(gateway: ScriptedGateway, client: Client) -> None:
    gateway.lose(REDRIVE)
    gateway.answer(REDRIVE, redriven(1))
    assert len(client.redrive(all=True).redriven) == 1
    assert len(gateway.requests) == 2


@pytest.mark.parametrize(
    "selection", [{}, {"all": True, "task_type": "echo"}, {"task_ids": ["1"], "all": True}]
)
def test_which_dead_letters_are_meant_is_to_be_said_once(
    gateway: ScriptedGateway, client: Client, selection: dict[str, Any]
) -> None:
    for act in (client.redrive, client.purge):
        with pytest.raises(ValueError, match="say which dead letters"):
            act(**selection)
    assert gateway.requests == []


def test_a_time_without_a_zone_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        client.purge(since=datetime(2026, 11, 24))


async def test_the_async_client_has_the_same(gateway: ScriptedGateway, async_client: AsyncClient) -> None:
    gateway.answer("GET /dead-letters", {"tasks": [gateway.task("FAILED")], "nextCursor": None})
    gateway.answer(REDRIVE, redriven(1))
    gateway.answer(PURGE, {"purged": ["1"], "failed": [], "remaining": 0})
    assert [task.task_id async for task in async_client.dead_letters()] == [TASK_ID]
    assert len((await async_client.redrive(all=True)).redriven) == 1
    assert (await async_client.purge(all=True)).purged == ("1",)
    assert [request.method for request in gateway.requests] == ["GET", "POST", "POST"]
