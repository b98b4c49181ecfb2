import dataclasses
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import msgspec
import pytest
from scripted import TASK_ID, ScriptedGateway

from mayfly.client import (
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    FailureType,
    RetryPolicy,
    TaskFailed,
    UnexpectedAnswer,
    Unreachable,
    WaitTimeout,
    blocking,
    calls,
    submission,
)
from mayfly.client.transport import of_place
from mayfly.client.wire import Answer, Pause, Request
from mayfly.task import Status

TASK = f"/tasks/{TASK_ID}"
BATCH = "01939c1a-0000-7000-8000-0000000000ba"


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


def free_url() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


# --- submitting


def test_a_payload_is_posted_with_the_options_that_were_given_and_no_others(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    task = client.submit(
        "echo", {"text": "Grüße"}, name="first", priority="high", timeout=2.5, tags=["a", "b"]
    )
    assert task.task_id == TASK_ID
    assert task.status is Status.QUEUED
    [request] = gateway.requests
    assert request.json == {
        "taskType": "echo",
        "payload": {"text": "Grüße"},
        "name": "first",
        "priority": "high",
        "timeoutSeconds": 2.5,
        "tags": ["a", "b"],
    }
    assert request.headers["content-type"] == "application/json"
    assert request.query == []


def test_a_task_without_a_payload_carries_null(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    client.submit("echo")
    assert gateway.requests[0].json == {"taskType": "echo", "payload": None}


def test_bytes_are_posted_as_they_are_with_the_options_in_the_query(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    client.submit("thumbnail", data=b"\xff\xd8", content_type="image/jpeg", timeout=5, tags=["x", "y"])
    [request] = gateway.requests
    assert request.body == b"\xff\xd8"
    assert request.headers["content-type"] == "image/jpeg"
    assert request.query == [
        ("taskType", "thumbnail"),
        ("timeoutSeconds", "5"),
        ("tag", "x"),
        ("tag", "y"),
    ]


def test_empty_data_is_data(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    client.submit("wordcount", data=b"", content_type="text/plain")
    assert gateway.requests[0].headers["content-type"] == "text/plain"
    assert gateway.requests[0].body == b""


def test_a_payload_and_data_exclude_each_other(client: Client) -> None:
    with pytest.raises(ValueError, match="not both"):
        client.submit("echo", {"a": 1}, data=b"x")


@pytest.mark.parametrize("payload", [float("nan"), {1, 2}, object(), b"bytes"])
def test_a_payload_that_json_cannot_hold_is_refused_before_anything_is_sent(
    gateway: ScriptedGateway, client: Client, payload: Any
) -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        client.submit("echo", payload)
    assert gateway.requests == []


def test_a_refusal_is_an_error_with_the_problem_as_attributes(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.refuse("POST /tasks", 422, "invalid_payload", "9 is over the maximum of 8", field="payload.width")
    with pytest.raises(ApiError, match=r"payload\.width: 9 is over the maximum of 8") as caught:
        client.submit("echo", {"width": 9})
    assert (caught.value.status, caught.value.code, caught.value.field) == (
        422,
        "invalid_payload",
        "payload.width",
    )


def keys(gateway: ScriptedGateway) -> list[str | None]:
    return [request.headers.get("idempotency-key") for request in gateway.requests]


def test_what_a_task_waits_for_and_how_it_is_tried_is_posted_in_the_gateways_words(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.answer("POST /tasks", gateway.task("SCHEDULED"), 202)
    task = client.submit(
        "echo",
        delay=timedelta(minutes=10),
        ttl=30,
        retry=RetryPolicy(max_attempts=3, max_delay=5, never_on=(FailureType.TIMEOUT,)),
        queue="gpu",
        redeliver=False,
        concurrency_key="customer-7",
    )
    assert task.status is Status.SCHEDULED
    assert gateway.requests[0].json == {
        "taskType": "echo",
        "payload": None,
        "delaySeconds": 600,
        "ttlSeconds": 30,
        "retry": {"maxAttempts": 3, "maxDelay": 5, "neverOn": ["Function.Timeout"]},
        "queue": "gpu",
        "redeliver": False,
        "concurrencyKey": "customer-7",
    }


def test_beside_bytes_the_same_goes_into_the_query(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer("POST /tasks", gateway.task("SCHEDULED"), 202)
    at = datetime(2026, 12, 1, 9, tzinfo=timezone(timedelta(hours=1)))
    client.submit("echo", data=b"x", run_at=at, retry=3, redeliver=True, queue="gpu")
    assert gateway.requests[0].query == [
        ("taskType", "echo"),
        ("runAt", "2026-12-01T08:00:00+00:00"),
        ("queue", "gpu"),
        ("redeliver", "true"),
        ("retry", '{"maxAttempts":3}'),
    ]


def test_a_time_without_a_zone_is_refused_before_anything_is_sent(
    gateway: ScriptedGateway, client: Client
) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        client.submit("echo", run_at=datetime(2026, 12, 1))
    with pytest.raises(ValueError, match="not both"):
        client.submit("echo", run_at=datetime(2026, 12, 1, tzinfo=UTC), delay=1)
    assert gateway.requests == []


# --- submitting once, however often it is sent


def test_a_submission_whose_answer_is_lost_is_sent_again_under_the_same_key(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.lose("POST /tasks")
    gateway.refuse("POST /tasks", 503, "log_unavailable", "not acknowledged", taskId=TASK_ID, retry_after="0")
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    assert client.submit("echo", 1).task_id == TASK_ID
    first, second, third = gateway.requests
    assert first.body == second.body == third.body
    assert len(set(keys(gateway))) == 1
    assert keys(gateway)[0]


def test_every_submission_has_a_key_of_its_own(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    client.submit("echo", 1)
    client.submit("echo", 1)
    assert len(set(keys(gateway))) == 2


def test_a_key_of_the_callers_is_sent_as_it_is(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    client.submit("echo", data=b"x", idempotency_key="order-7")
    assert keys(gateway) == ["order-7"]


def test_a_submission_that_stays_in_doubt_names_the_task_and_the_key_that_make_it_safe_to_repeat(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.refuse("POST /tasks", 503, "log_unavailable", "not acknowledged", taskId=TASK_ID, retry_after="0")
    with pytest.raises(ApiError) as caught:
        client.submit("echo")
    assert caught.value.task_id == TASK_ID
    assert keys(gateway) == [caught.value.idempotency_key] * 3


def test_a_key_that_cannot_be_honoured_is_let_go_of_while_nothing_can_have_been_accepted(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.refuse("POST /tasks", 503, "read_model_unavailable", "Redis is away", retry_after="2")
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    assert client.submit("echo").task_id == TASK_ID
    first, second = keys(gateway)
    assert first is not None
    assert second is None


def test_without_its_key_a_submission_is_not_sent_twice(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse("POST /tasks", 503, "read_model_unavailable", "Redis is away")
    gateway.refuse("POST /tasks", 503, "log_unavailable", "not acknowledged", taskId=TASK_ID, retry_after="0")
    with pytest.raises(ApiError, match="not acknowledged") as caught:
        client.submit("echo")
    assert caught.value.task_id == TASK_ID
    assert caught.value.idempotency_key is None
    assert len(gateway.requests) == 2


def test_a_key_is_kept_when_an_earlier_try_may_have_been_accepted() -> None:
    call = submission.submit("echo")
    headers = {"content-type": "application/problem+json"}
    first = next(call)
    assert call.throw(Unreachable("http://x", "cut")) == Pause(0.1)
    assert next(call) == first
    away = Answer(503, headers, b'{"code": "read_model_unavailable"}')
    assert call.send(away) == Pause(0.5)
    assert next(call) == first
    with pytest.raises(ApiError, match="read_model_unavailable") as caught:
        call.send(away)
    assert isinstance(first, Request)
    assert caught.value.idempotency_key == first.headers["idempotency-key"]


def test_a_key_of_the_callers_is_never_let_go_of(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse("POST /tasks", 503, "read_model_unavailable", "Redis is away", retry_after="0")
    with pytest.raises(ApiError, match="Redis is away"):
        client.submit("echo", idempotency_key="order-7")
    assert keys(gateway) == ["order-7"] * 3


def test_a_submission_that_need_not_be_idempotent_has_no_key_and_is_sent_once(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.refuse("POST /tasks", 503, "log_unavailable", "not acknowledged", taskId=TASK_ID, retry_after="1")
    with pytest.raises(ApiError) as caught:
        client.submit("echo", idempotent=False)
    assert (caught.value.task_id, caught.value.retry_after) == (TASK_ID, 1)
    assert keys(gateway) == [None]
    with pytest.raises(ValueError, match="leave one of the two out"):
        client.submit("echo", idempotent=False, idempotency_key="order-7")


def test_a_gateway_that_was_never_reached_leaves_no_doubt() -> None:
    with Client(free_url()) as client, pytest.raises(Unreachable) as caught:
        client.submit("echo")
    assert not caught.value.sent
    assert caught.value.idempotency_key is None


def test_a_key_that_was_used_for_another_request_is_refused(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse("POST /tasks", 409, "idempotency_conflict", "another request", taskId=TASK_ID)
    with pytest.raises(ApiError) as caught:
        client.submit("echo", 2, idempotency_key="order-7")
    assert (caught.value.status, caught.value.code) == (409, "idempotency_conflict")
    assert len(gateway.requests) == 1


# --- what becomes of a task afterwards


def test_cancelling_is_asked_for_again_where_the_answer_is_lost(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.lose(f"POST {TASK}/cancel")
    gateway.answer(f"POST {TASK}/cancel", gateway.task("IN_PROGRESS"), 202)
    assert client.cancel(TASK_ID).status is Status.IN_PROGRESS
    assert len(gateway.requests) == 2


def test_a_task_that_has_ended_is_not_cancelled(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse(f"POST {TASK}/cancel", 409, "task_finished", "It is COMPLETED.")
    with pytest.raises(ApiError) as caught:
        client.cancel(TASK_ID)
    assert caught.value.code == "task_finished"


def test_a_rerun_is_another_task_and_is_asked_for_once(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(f"POST {TASK}/rerun", {"taskId": "new", "status": "QUEUED", "rerunOf": TASK_ID}, 202)
    gateway.lose(f"POST {TASK}/rerun")
    task = client.rerun(TASK_ID)
    assert (task.task_id, task.rerun_of) == ("new", TASK_ID)
    assert gateway.requests[0].body == b""
    with pytest.raises(Unreachable):
        client.rerun(TASK_ID, latest=True)
    assert len(gateway.requests) == 2
    assert gateway.requests[1].json == {"latest": True}


def test_the_attempts_of_a_task_are_typed(gateway: ScriptedGateway, client: Client) -> None:
    failed = {
        "attempt": 1,
        "startedAt": "2026-11-24T12:00:00.000Z",
        "finishedAt": "2026-11-24T12:00:01.000Z",
        "dispatcher": "d-1",
        "error": {"type": "Function.Error", "message": "no"},
    }
    waiting = gateway.task(
        "RETRYING", attempt=1, attempts=[failed], dueAt="2026-11-24T12:01:00Z", ttlSeconds=60.0
    )
    gateway.answer(f"GET {TASK}", waiting | {"cancelRequestedAt": "2026-11-24T12:00:30Z"})
    task = client.get(TASK_ID)
    [attempt] = task.attempts
    assert attempt.error is not None
    assert (attempt.attempt, attempt.error.type) == (1, "Function.Error")
    assert task.due_at == datetime(2026, 11, 24, 12, 1, tzinfo=UTC)
    assert task.cancel_requested_at is not None


def test_the_log_of_one_attempt_is_asked_for_by_its_number(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(f"GET {TASK}/logs", b"first\n", content_type="text/plain")
    assert client.logs(TASK_ID, attempt=1) == "first\n"
    assert gateway.requests[0].query == [("attempt", "1")]


# --- reading


def test_every_field_of_a_task_has_its_type(gateway: ScriptedGateway, client: Client) -> None:
    answer = gateway.task(
        "FAILED",
        queue="default",
        priority="low",
        attempt=2,
        tags=["a"],
        createdAt="2026-11-24T12:00:00.123Z",
        progress={"fraction": 0.5, "message": "half"},
        timeoutSeconds=60.0,
        error={
            "type": "Function.Error",
            "message": "no",
            "class": "ValueError",
            "traceback": "Traceback…",
            "exitCode": 1,
        },
        someday="unknown keys are passed over",
    )
    gateway.answer(f"GET {TASK}", answer)
    task = client.get(TASK_ID)
    assert task.created_at == datetime(2026, 11, 24, 12, 0, 0, 123_000, tzinfo=UTC)
    assert task.tags == ("a",)
    assert task.progress is not None
    assert task.progress.fraction == 0.5
    assert task.error is not None
    assert (task.error.error_class, task.error.exit_code) == ("ValueError", 1)
    assert task.ended
    assert not task.succeeded


def test_a_task_cannot_be_changed(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("QUEUED"))
    with pytest.raises(AttributeError):
        client.get(TASK_ID).status = Status.COMPLETED  # type: ignore[misc]


def test_an_id_cannot_leave_its_place_in_the_path(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse("GET /tasks/..%2Fworkers", 404, "unknown_task", "no such task")
    with pytest.raises(ApiError, match="no such task"):
        client.get("../workers")


def test_waiting_polls_until_the_end(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("QUEUED"))
    gateway.answer(f"GET {TASK}", gateway.task("IN_PROGRESS"))
    gateway.answer(f"GET {TASK}", gateway.task("CANCELLED"))
    assert client.wait(TASK_ID).status is Status.CANCELLED
    assert [request.query for request in gateway.requests] == [[("wait", "30")]] * 3


def test_waiting_ends_with_the_task_as_last_seen_when_the_time_is_over(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("IN_PROGRESS"))
    with pytest.raises(WaitTimeout, match="IN_PROGRESS after 0 s") as caught:
        client.wait(TASK_ID, timeout=0)
    assert caught.value.task.status is Status.IN_PROGRESS
    assert isinstance(caught.value, TimeoutError)
    assert gateway.requests[0].query == []


def test_a_long_poll_never_asks_for_more_time_than_is_left() -> None:
    now = iter([0.0, 0.0, 31.0, 31.0, 40.0])
    call = calls.wait(TASK_ID, 40, clock=lambda: next(now))
    running = Answer(200, {}, msgspec.json.encode({"taskId": TASK_ID, "status": "IN_PROGRESS"}))
    first = next(call)
    second = call.send(running)
    assert [dict(step.params)["wait"] for step in (first, second) if isinstance(step, Request)] == ["30", "9"]
    with pytest.raises(WaitTimeout):
        call.send(running)


@pytest.mark.parametrize("value", [{"a": [1]}, "text", 0, None, False, []])
def test_a_small_result_comes_with_the_status(gateway: ScriptedGateway, client: Client, value: Any) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("COMPLETED", result=value))
    assert client.result(TASK_ID) == value
    assert len(gateway.requests) == 1


def test_a_large_result_is_fetched_and_decoded(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("COMPLETED", resultContentType="application/json"))
    gateway.answer(f"GET {TASK}/result", b"[1, 2]", content_type="application/json; charset=utf-8")
    assert client.result(TASK_ID) == [1, 2]


def test_a_result_of_another_type_is_bytes(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("COMPLETED", resultContentType="image/png"))
    gateway.answer(f"GET {TASK}/result", b"\x89PNG", content_type="image/png")
    assert client.result(TASK_ID) == b"\x89PNG"
    assert client.result_bytes(TASK_ID) == (b"\x89PNG", "image/png")


def test_a_failed_task_has_no_result_but_the_functions_own_error(
    gateway: ScriptedGateway, client: Client
) -> None:
    error = {"type": "Function.Error", "message": "too wide", "class": "ValueError", "traceback": "File …"}
    gateway.answer(f"GET {TASK}", gateway.task("FAILED", error=error))
    with pytest.raises(TaskFailed, match=r"Function\.Error: ValueError: too wide") as caught:
        client.result(TASK_ID)
    assert caught.value.type == "Function.Error"
    assert caught.value.message == "too wide"
    assert caught.value.traceback == "File …"
    assert caught.value.task.task_id == TASK_ID


def test_a_cancelled_task_has_no_result_either(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(f"GET {TASK}", gateway.task("CANCELLED"))
    with pytest.raises(TaskFailed, match=r"Task\.Cancelled"):
        client.result(TASK_ID)


def test_logs_are_text_whatever_bytes_the_function_wrote(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(f"GET {TASK}/logs", b"one\ntw\xff\n", content_type="text/plain")
    assert client.logs(TASK_ID) == "one\ntw�\n"


def test_listing_follows_the_cursor_as_far_as_it_is_taken(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(
        "GET /tasks", {"tasks": [gateway.task("QUEUED"), gateway.task("FAILED")], "nextCursor": "c1"}
    )
    gateway.answer("GET /tasks", {"tasks": [gateway.task("COMPLETED")], "nextCursor": None})
    tasks = client.list(status="FAILED", task_type="echo", tag="t", limit=2)
    assert next(tasks).status is Status.QUEUED
    assert len(gateway.requests) == 1
    assert [task.status for task in tasks] == [Status.FAILED, Status.COMPLETED]
    assert gateway.requests[0].query == [
        ("status", "FAILED"),
        ("taskType", "echo"),
        ("tag", "t"),
        ("limit", "2"),
    ]
    assert ("cursor", "c1") in gateway.requests[1].query


def test_functions_and_workers_are_typed(gateway: ScriptedGateway, client: Client) -> None:
    function = {
        "name": "echo",
        "version": "ab12",
        "image": "mayfly/echo:ab12",
        "contract": "python",
        "limits": {"timeoutSeconds": 5, "memoryMib": 64},
        "schema": {"type": "object"},
        "deployedAt": "2026-11-24T12:00:00Z",
    }
    worker = {"id": "w", "queue": "default", "slots": 2, "running": 1, "host": "h"}
    gateway.answer("GET /functions", {"functions": [function]})
    gateway.answer("GET /workers", {"workers": [worker]})
    [info] = client.functions()
    assert (info.name, info.limits.memory_mib, info.limits.pids) == ("echo", 64, 128)
    [found] = client.workers()
    assert (found.slots, found.running) == (2, 1)


# --- many at once


def scripted_tasks(gateway: ScriptedGateway, results: list[Any], *sizes: int) -> None:
    """Batches of those sizes, and what becomes of their tasks: "refuse" is refused, "fail" fails."""
    numbers = iter(range(len(results)))
    for size in sizes or [1] * len(results):
        items: list[dict[str, Any]] = []
        for number in (next(numbers) for _ in range(size)):
            task_id, value = TASK_ID[:-1] + str(number), results[number]
            problem = {"code": "invalid_payload", "detail": "no", "field": "payload"}
            accepted = {"status": 202, "task": {"taskId": task_id, "status": "QUEUED"}}
            items.append({"status": 422, "problem": problem} if value == "refuse" else accepted)
            failed = {"status": "FAILED", "error": {"type": "Function.Error", "message": "no"}}
            done = {"status": "COMPLETED", "result": value}
            gateway.answer(
                f"GET /tasks/{task_id}", {"taskId": task_id} | (failed if value == "fail" else done)
            )
        gateway.answer("POST /tasks/batch", {"batchId": BATCH, "items": items})


def posted(gateway: ScriptedGateway) -> list[list[Any]]:
    """The payloads of each batch."""
    sent = [request for request in gateway.requests if request.method == "POST"]
    return [[json.loads(line)["payload"] for line in request.body.split(b"\n")] for request in sent]


def test_map_gives_the_results_in_the_payloads_order(gateway: ScriptedGateway, client: Client) -> None:
    scripted_tasks(gateway, ["a", "b", "c"])
    assert list(client.map("echo", ["a", "b", "c"], concurrency=1)) == ["a", "b", "c"]
    assert posted(gateway) == [["a"], ["b"], ["c"]]


def test_map_submits_in_batches(gateway: ScriptedGateway, client: Client) -> None:
    scripted_tasks(gateway, ["a", "b", "c"], 3)
    assert list(client.map("echo", ["a", "b", "c"])) == ["a", "b", "c"]
    assert posted(gateway) == [["a", "b", "c"]]
    keys = {request.headers.get("idempotency-key") for request in gateway.requests[:1]}
    assert None not in keys


def test_map_takes_no_more_payloads_than_it_has_tasks_under_way(
    gateway: ScriptedGateway, client: Client
) -> None:
    scripted_tasks(gateway, ["a", "b", "c", "d"], 2, 1, 1)
    taken = []

    def payloads() -> Iterator[str]:
        for payload in "abcd":
            taken.append(payload)
            yield payload

    results = client.map("echo", payloads(), concurrency=2)
    next(results)
    assert taken == ["a", "b"]
    assert len(list(results)) == 3


@pytest.mark.parametrize(("what", "error"), [("fail", TaskFailed), ("refuse", ApiError)])
def test_map_raises_the_failure_in_its_turn(
    gateway: ScriptedGateway, client: Client, what: str, error: type[Exception]
) -> None:
    scripted_tasks(gateway, ["a", what, "c"])
    results = client.map("echo", ["a", "b", "c"], concurrency=1)
    assert next(results) == "a"
    with pytest.raises(error):
        next(results)
    assert sum(request.method == "POST" for request in gateway.requests) == 2


def test_map_leaves_nobody_waiting_for_what_its_caller_left(
    gateway: ScriptedGateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "LOOK_SECONDS", 0.01)
    items = [{"status": 202, "task": gateway.task("QUEUED")}] * 2
    gateway.answer("POST /tasks/batch", {"batchId": TASK_ID, "items": items})
    gateway.answer(f"GET /tasks/{TASK_ID}", gateway.task("COMPLETED", result=1))
    gateway.answer(f"GET /tasks/{TASK_ID}", gateway.task("IN_PROGRESS"))
    results = client.map("echo", "ab")
    assert next(results) == 1
    watchers = [thread for thread in threading.enumerate() if thread.name.startswith("mayfly-map")]
    assert watchers
    results.close()
    for watcher in watchers:
        watcher.join(60)
        assert not watcher.is_alive()


# --- what goes wrong on the way


def test_a_gateway_that_is_not_there_is_named() -> None:
    url = free_url()
    with Client(url) as client, pytest.raises(Unreachable, match=f"{url}: nothing listens there"):
        client.get(TASK_ID)


def test_a_get_waits_out_a_503_as_long_as_it_asks(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse("GET /workers", 503, "read_model_unavailable", "Redis is away", retry_after="0")
    gateway.answer("GET /workers", {"workers": []})
    assert client.workers() == ()
    assert len(gateway.requests) == 2


def test_a_503_that_stays_is_raised_after_three_tries(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse("GET /workers", 503, "read_model_unavailable", "Redis is away", retry_after="0")
    with pytest.raises(ApiError, match="Redis is away"):
        client.workers()
    assert len(gateway.requests) == 3


@pytest.mark.parametrize(("asked", "pause"), [("3", 3.0), (None, 0.1), ("soon", 0.1)])
def test_the_pause_is_what_retry_after_asks_for(asked: str | None, pause: float) -> None:
    headers = {"content-type": "application/problem+json"} | ({"retry-after": asked} if asked else {})
    call = calls.workers()
    next(call)
    assert call.send(Answer(503, headers, b'{"code": "away"}')) == Pause(pause)


def test_a_503_that_asks_for_too_long_is_raised_at_once() -> None:
    call = calls.workers()
    next(call)
    with pytest.raises(ApiError):
        call.send(Answer(503, {"content-type": "application/json", "retry-after": "60"}, b'{"code": "away"}'))


def test_a_get_whose_connection_fails_is_tried_again() -> None:
    reading = calls.get(TASK_ID)
    first = next(reading)
    assert reading.throw(Unreachable("http://x", "cut")) == Pause(0.1)
    assert next(reading) == first


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"<html>"), (200, b"<html>"), (200, b'{"workers": 3}'), (302, b""), (500, b"{}")],
)
def test_something_else_at_the_url_is_said_to_be_no_gateway(
    gateway: ScriptedGateway, client: Client, status: int, body: bytes
) -> None:
    gateway.answer("GET /workers", body, status, content_type="application/json")
    with pytest.raises(UnexpectedAnswer, match="is it a Mayfly gateway"):
        client.workers()


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "nonsense"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ClientError, match="URL"):
        Client(url)


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAYFLY_URL", "http://10.1.2.3:99")
    with Client() as client:
        assert client.url == "http://10.1.2.3:99"
    monkeypatch.delenv("MAYFLY_URL")
    with Client() as client:
        assert client.url == "http://127.0.0.1:8080"


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", free_url())
    gateway.answer("GET /workers", {"workers": []})
    with Client(gateway.url) as client:
        assert client.workers() == ()


@pytest.mark.parametrize(
    ("url", "verifies"),
    [
        ("http://127.0.0.1:8080", False),
        ("http://localhost", False),
        ("https://127.0.0.1:8443", True),
        ("http://10.1.2.3", True),
        ("https://gateway.example", True),
    ],
)
def test_certificates_are_verified_wherever_tls_could_be_spoken(url: str, verifies: bool) -> None:
    assert of_place(httpx.URL(url))["verify"] is verifies


# --- asyncio: the same calls, driven otherwise


async def test_the_async_client_submits_waits_and_fetches(
    gateway: ScriptedGateway, async_client: AsyncClient
) -> None:
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    gateway.answer(f"GET {TASK}", gateway.task("IN_PROGRESS"))
    gateway.answer(f"GET {TASK}", gateway.task("COMPLETED"))
    gateway.answer(f"GET {TASK}/result", b'{"a": 1}', content_type="application/json")
    gateway.answer(f"GET {TASK}/logs", b"line\n", content_type="text/plain")
    task = await async_client.submit("echo", {"a": 1}, tags=["t"])
    assert (await async_client.wait(task.task_id)).succeeded
    assert await async_client.result(task.task_id) == {"a": 1}
    assert (await async_client.result_bytes(task.task_id)).content_type == "application/json"
    assert await async_client.logs(task.task_id) == "line\n"


async def test_the_async_client_maps_in_order(gateway: ScriptedGateway, async_client: AsyncClient) -> None:
    scripted_tasks(gateway, ["a", "b", "c"])
    assert [value async for value in async_client.map("echo", "abc", concurrency=1)] == ["a", "b", "c"]


async def test_the_async_client_lists_page_by_page(
    gateway: ScriptedGateway, async_client: AsyncClient
) -> None:
    gateway.answer("GET /tasks", {"tasks": [gateway.task("QUEUED")], "nextCursor": "c1"})
    gateway.answer("GET /tasks", {"tasks": [gateway.task("COMPLETED")], "nextCursor": None})
    gateway.answer("GET /functions", {"functions": []})
    gateway.answer("GET /workers", {"workers": []})
    assert [task.status async for task in async_client.list(tag="t")] == [Status.QUEUED, Status.COMPLETED]
    assert await async_client.functions() == ()
    assert await async_client.workers() == ()


async def test_the_async_client_names_a_gateway_that_is_not_there() -> None:
    async with AsyncClient(free_url()) as client:
        with pytest.raises(Unreachable, match="nothing listens there"):
            await client.get(TASK_ID)


async def test_the_async_client_waits_out_a_503(gateway: ScriptedGateway, async_client: AsyncClient) -> None:
    gateway.refuse(f"GET {TASK}", 503, "away", "Redis is away", retry_after="0")
    gateway.answer(f"GET {TASK}", gateway.task("QUEUED"))
    assert (await async_client.get(TASK_ID)).status is Status.QUEUED


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient)


def test_requests_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request("GET", "/").method = "POST"  # type: ignore[misc]
