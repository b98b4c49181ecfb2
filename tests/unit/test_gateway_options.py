"""What may be said of a task: when it runs, how often, where, and how many at once."""

from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest
from gateway_world import NOW, World, check_problem

from gateway.models import Accepted, FailureName, Task
from gateway.times import milliseconds
from mayfly.function import Function
from mayfly.placement import partition_of
from mayfly.task import FailureType, RetryPolicy

BYTES = {"content-type": "application/octet-stream"}
YEAR = 366 * 86_400


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("gateway.times.now", lambda: NOW)
    world = World()
    async with world.http:
        yield world


async def test_what_is_said_of_a_task_stands_in_its_command(world: World) -> None:
    retry = {
        "maxAttempts": 4,
        "initialDelay": 0.5,
        "maxDelay": 60,
        "retryOn": ["Function.Timeout", "Function.Timeout", "Function.Error"],
        "neverOn": ["Function.OutOfMemory"],
    }
    answer = await world.post(
        delaySeconds=1.5, ttlSeconds=60, retry=retry, redeliver=False, concurrencyKey="customer 7"
    )
    assert answer.status_code == 202, answer.text
    [envelope] = world.commands.envelopes
    assert (envelope.delay_seconds, envelope.ttl_seconds) == (1.5, 60.0)
    assert (envelope.redeliver, envelope.concurrency_key) == (False, "customer 7")
    assert envelope.retry == RetryPolicy(
        4, 0.5, 60.0, (FailureType.TIMEOUT, FailureType.ERROR), (FailureType.OUT_OF_MEMORY,)
    )
    assert envelope.payload_sha256 == "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
    assert envelope.request_sha256 is None


async def test_what_is_not_said_is_not_in_the_command(world: World) -> None:
    await world.post()
    value = world.commands.records[0][3]
    for name in (b"delaySeconds", b"runAt", b"retry", b"redeliver", b"concurrencyKey", b"requestSha256"):
        assert name not in value


async def test_the_same_may_be_said_beside_a_payload_of_bytes(world: World) -> None:
    parameters = {
        "taskType": "echo",
        "delaySeconds": "2",
        "ttlSeconds": "1.5",
        "retry": '{"maxAttempts": 2, "retryOn": ["Function.Error"]}',
        "queue": "big",
        "redeliver": "false",
        "concurrencyKey": "k",
    }
    answer = await world.http.post("/tasks", params=parameters, content=b"\xff", headers=BYTES)
    assert answer.status_code == 202, answer.text
    [envelope] = world.commands.envelopes
    assert (envelope.delay_seconds, envelope.ttl_seconds, envelope.redeliver) == (2.0, 1.5, False)
    assert envelope.retry == RetryPolicy(max_attempts=2, retry_on=(FailureType.ERROR,))
    assert envelope.concurrency_key == "k"
    assert world.commands.records[0][0] == "big"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, "QUEUED"),
        ({"delaySeconds": 0}, "QUEUED"),
        ({"delaySeconds": 0.5}, "SCHEDULED"),
        ({"delaySeconds": YEAR}, "SCHEDULED"),
        ({"runAt": "2001-09-09T01:46:40Z"}, "QUEUED"),
        ({"runAt": "1698-05-28T14:49:28.795665-16:18"}, "QUEUED"),
        ({"runAt": "2026-11-24T13:00:01.5+01:00"}, "SCHEDULED"),
    ],
)
async def test_a_task_that_is_due_later_is_scheduled(
    world: World, options: dict[str, Any], status: str
) -> None:
    accepted = Accepted.model_validate((await world.post(**options)).json())
    task = Task.model_validate((await world.http.get(f"/tasks/{accepted.task_id}")).json())
    assert (accepted.status, task.status) == (status, status)
    assert (task.run_at is not None) == (status == "SCHEDULED")
    assert world.commands.envelopes, "what was accepted can be read"


async def test_a_time_is_kept_to_the_millisecond_whatever_its_offset(world: World) -> None:
    answer = await world.post(runAt="2026-11-24T14:00:00.5+01:00")
    assert world.commands.envelopes[0].run_at == NOW - 123 + 3_600_500
    task = (await world.http.get(answer.headers["location"])).json()
    assert task["runAt"] == "2026-11-24T13:00:00.500Z"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01.0019999z", 1001),
        ("1970-01-01T00:00:00-00:30", 1_800_000),
        ("1970-01-01T00:00:00", None),
        ("1970-01-01 00:00:00Z", None),
        ("1970-01-01T00:00Z", None),
        ("1970-13-01T00:00:00Z", None),
        ("1970-01-01T00:00:00+25:00", None),
        ("0001-01-01T00:00:00+23:59", -62135683140000),
        ("٢٠٢٦-01-01T00:00:00Z", None),
        ("tomorrow", None),
        ("", None),
    ],
)
def test_a_time_is_rfc_3339_with_an_offset(text: str, at: int | None) -> None:
    assert milliseconds(text) == at


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"delaySeconds": -1}, "delaySeconds"),
    ({"delaySeconds": YEAR + 1}, "delaySeconds"),
    ({"delaySeconds": "5"}, "delaySeconds"),
    ({"delaySeconds": True}, "delaySeconds"),
    ({"runAt": "2026-11-24T12:00:00"}, "runAt"),
    ({"runAt": 1_795_521_600}, "runAt"),
    ({"runAt": "9999-01-01T00:00:00Z"}, "runAt"),
    ({"runAt": "2026-11-24T12:00:00Z", "delaySeconds": 1}, "runAt"),
    ({"ttlSeconds": 0}, "ttlSeconds"),
    ({"ttlSeconds": YEAR + 1}, "ttlSeconds"),
    ({"retry": 3}, "retry"),
    ({"retry": {"maxAttempts": 0}}, "retry.maxAttempts"),
    ({"retry": {"maxAttempts": 101}}, "retry.maxAttempts"),
    ({"retry": {"initialDelay": -1}}, "retry.initialDelay"),
    ({"retry": {"maxDelay": 604_801}}, "retry.maxDelay"),
    ({"retry": {"retryOn": ["Function.Error", "Function.Sad"]}}, "retry.retryOn[1]"),
    ({"retry": {"neverOn": "Function.Error"}}, "retry.neverOn"),
    ({"retry": {"attempts": 3}}, "retry.attempts"),
    ({"redeliver": "no"}, "redeliver"),
    ({"concurrencyKey": ""}, "concurrencyKey"),
    ({"concurrencyKey": "x" * 201}, "concurrencyKey"),
    ({"concurrencyKey": "a\nb"}, "concurrencyKey"),
    ({"queue": ""}, "queue"),
]


@pytest.mark.parametrize(("options", "field"), REFUSED)
async def test_an_option_that_cannot_be_is_refused_by_name(
    world: World, options: dict[str, Any], field: str
) -> None:
    check_problem(await world.post(**options), 422, "invalid_task", field)
    assert world.commands.records == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("delaySeconds", "soon"),
        ("delaySeconds", "-1"),
        ("runAt", "soon"),
        ("retry", "3"),
        ("retry", "{"),
        ("redeliver", "no"),
        ("redeliver", "True"),
        ("concurrencyKey", ""),
    ],
)
async def test_so_it_is_beside_a_payload_of_bytes(world: World, name: str, text: str) -> None:
    parameters = {"taskType": "echo", name: text}
    answer = await world.http.post("/tasks", params=parameters, content=b"x", headers=BYTES)
    check_problem(answer, 400, "invalid_parameter", name)
    assert world.commands.records == []


async def test_a_time_up_to_a_year_ahead_is_taken(world: World) -> None:
    assert (await world.post(runAt="2027-11-25T12:00:00Z")).status_code == 202
    check_problem(await world.post(runAt="2027-11-25T12:00:01Z"), 422, "invalid_task", "runAt")


def test_the_failures_of_the_document_are_those_that_there_are() -> None:
    assert set(get_args(FailureName)) == set(FailureType)


# --- where it goes


async def test_a_task_goes_to_the_queue_that_is_asked_for(world: World) -> None:
    answer = await world.post(queue="big")
    assert world.commands.records[0][0] == "big"
    assert (await world.http.get(answer.headers["location"])).json()["queue"] == "big"


async def test_a_queue_that_no_function_names_is_refused_with_those_that_there_are(world: World) -> None:
    world.catalog.deploy(
        Function("late", "i", "v", queue="mail"), Function("g", "i", "v", queue="x", retired=True)
    )
    problem = check_problem(await world.post(queue="x"), 422, "unknown_queue", "queue")
    assert problem["queues"] == ["big", "default", "mail"]
    assert "big, default, mail" in problem["detail"]
    assert world.commands.records == []


async def test_the_default_queue_is_known_whether_or_not_a_function_names_it(world: World) -> None:
    world.catalog.functions = {"mail": Function("mail", "i", "v", queue="mail")}
    assert (await world.post(taskType="mail", queue="default")).status_code == 202


async def test_a_limited_functions_tasks_go_to_as_many_partitions_as_may_run(world: World) -> None:
    world.catalog.deploy(Function("few", "i", "v", concurrency=2))
    for _ in range(30):
        await world.post(taskType="few")
    for envelope, partition in zip(world.commands.envelopes, world.commands.partitions, strict=True):
        assert partition == partition_of(envelope, 2, 8)
    assert len(set(world.commands.partitions)) == 2


async def test_tasks_of_one_concurrency_key_go_to_one_partition(world: World) -> None:
    for _ in range(10):
        await world.post(concurrencyKey="k")
    assert len(set(world.commands.partitions)) == 1
