"""Submitting many tasks, and calling a function, as the client does it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from scripted import TASK_ID, ScriptedGateway

from mayfly.client import (
    ApiError,
    Client,
    Forbidden,
    TaskFailed,
    TooManyRequests,
    UnexpectedAnswer,
    WaitTimeout,
)
from mayfly.client.batches import CHUNK_BYTES, Payloads
from mayfly.task import IDEMPOTENCY_KEY, Status

BATCH = "01939c1a-0000-7000-8000-0000000000ba"
INVOKE = "POST /functions/echo/invoke"
ACCEPTED = {"status": 202, "task": {"taskId": TASK_ID, "status": "QUEUED"}}
REFUSED = {"status": 422, "problem": {"code": "invalid_payload", "detail": "no", "field": "payload.n"}}
UNTRIED = {"status": 503, "problem": {"code": "read_model_unavailable", "detail": "not tried"}}
IN_DOUBT = {"status": 503, "problem": {"code": "log_unavailable", "detail": "perhaps", "taskId": TASK_ID}}


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def client(gateway: ScriptedGateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


def answer(gateway: ScriptedGateway, *items: dict[str, Any], **rest: Any) -> None:
    gateway.answer("POST /tasks/batch", {"batchId": BATCH, "items": items, **rest})


def test_each_payload_is_a_line_with_the_options_of_all(gateway: ScriptedGateway, client: Client) -> None:
    answer(gateway, ACCEPTED, REFUSED)
    first, second = client.submit_many("echo", [1, {"n": "ä"}], tags=["a"], priority="low", retry=3)
    assert first.accepted().task_id == TASK_ID
    assert first.batch_id == BATCH
    assert second.error is not None
    assert (second.error.code, second.error.field) == ("invalid_payload", "payload.n")
    with pytest.raises(ApiError):
        second.accepted()
    [request] = gateway.requests
    said = {"taskType": "echo", "tags": ["a"], "priority": "low", "retry": {"maxAttempts": 3}}
    lines = [json.loads(line) for line in request.body.splitlines()]
    assert lines == [{**said, "payload": 1}, {**said, "payload": {"n": "ä"}}]
    assert request.headers["content-type"] == "application/x-ndjson"


def test_chunks_go_out_as_they_are_taken_each_under_a_key_of_its_own(
    gateway: ScriptedGateway, client: Client
) -> None:
    answer(gateway, ACCEPTED, ACCEPTED)
    answer(gateway, ACCEPTED)
    submitted = client.submit_many("echo", range(3), chunk=2, idempotency_key="import")
    next(submitted)
    assert len(gateway.requests) == 1
    assert len(list(submitted)) == 2
    assert [one.headers["idempotency-key"] for one in gateway.requests] == ["import", "import#1"]


def test_the_longest_key_is_one_for_every_chunk(gateway: ScriptedGateway, client: Client) -> None:
    for tasks in (2, 1, 2, 1):
        answer(gateway, *[ACCEPTED] * tasks)
    for _ in range(2):
        assert len(list(client.submit_many("echo", range(3), chunk=2, idempotency_key="k" * 200))) == 3
    first, second, *again = [one.headers["idempotency-key"] for one in gateway.requests]
    assert first == "k" * 200
    assert first != second
    assert IDEMPOTENCY_KEY.fullmatch(second)
    assert again == [first, second]


def test_items_that_could_not_be_accepted_are_tried_again_under_the_same_key(
    gateway: ScriptedGateway, client: Client
) -> None:
    answer(gateway, ACCEPTED, IN_DOUBT)
    answer(gateway, ACCEPTED, ACCEPTED)
    assert all(one.error is None for one in client.submit_many("echo", [1, 2]))
    first, second = gateway.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body


def test_an_item_that_stays_in_doubt_has_the_key(gateway: ScriptedGateway, client: Client) -> None:
    answer(gateway, ACCEPTED, IN_DOUBT)
    _, doubtful = client.submit_many("echo", [1, 2])
    assert doubtful.error is not None
    assert doubtful.error.task_id == TASK_ID
    assert doubtful.error.idempotency_key == gateway.requests[-1].headers["idempotency-key"]
    assert len(gateway.requests) == 3


def test_without_redis_the_key_is_kept_once_some_were_accepted(
    gateway: ScriptedGateway, client: Client
) -> None:
    answer(gateway, ACCEPTED, UNTRIED)
    gateway.refuse("POST /tasks/batch", 503, "read_model_unavailable", "Redis is away")
    first, second = client.submit_many("echo", [1, 2])
    assert first.accepted().task_id == TASK_ID
    assert second.error is not None
    assert second.error.code == "read_model_unavailable"
    assert len(gateway.requests) > 1
    assert len({one.headers["idempotency-key"] for one in gateway.requests}) == 1


def test_what_a_further_try_knows_less_of_is_as_it_was(gateway: ScriptedGateway, client: Client) -> None:
    answer(gateway, ACCEPTED, ACCEPTED, IN_DOUBT, REFUSED)
    answer(gateway, ACCEPTED, UNTRIED, UNTRIED, UNTRIED)
    answer(gateway, stopped={"status": 429, "code": "too_many_requests", "detail": "later"})
    first, second, doubtful, refused = client.submit_many("echo", range(4))
    assert first.accepted().task_id == second.accepted().task_id == TASK_ID
    assert doubtful.error is not None
    assert (doubtful.error.status, doubtful.error.task_id) == (503, TASK_ID)
    assert doubtful.error.idempotency_key == gateway.requests[0].headers["idempotency-key"]
    assert refused.error is not None
    assert refused.error.idempotency_key is None


def test_what_a_try_without_an_answer_may_have_made_is_in_doubt(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.refuse("POST /tasks/batch", 503, "log_unavailable", "perhaps", taskId=TASK_ID)
    answer(gateway, stopped={"status": 429, "code": "too_many_requests", "detail": "later"})
    [one] = client.submit_many("echo", [1])
    assert isinstance(one.error, TooManyRequests)
    assert one.error.idempotency_key == gateway.requests[0].headers["idempotency-key"]


@pytest.mark.parametrize("key", ["", "ü", "x" * 201])
def test_a_key_that_is_none_is_refused_before_anything_is_sent(
    gateway: ScriptedGateway, client: Client, key: str
) -> None:
    with pytest.raises(ValueError, match="1 to 200 printable"):
        client.submit("echo", idempotency_key=key)
    with pytest.raises(ValueError, match="1 to 200 printable"):
        list(client.submit_many("echo", [1], idempotency_key=key))
    assert not gateway.requests


def test_a_further_try_that_may_have_made_tasks_is_an_error_with_the_key(
    gateway: ScriptedGateway, client: Client
) -> None:
    answer(gateway, ACCEPTED, UNTRIED)
    gateway.answer("POST /tasks/batch", b"a proxy gave up", 502)
    with pytest.raises(UnexpectedAnswer) as caught:
        list(client.submit_many("echo", [1, 2]))
    assert caught.value.idempotency_key == gateway.requests[0].headers["idempotency-key"]


def test_without_redis_a_key_of_the_clients_own_is_let_go(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse("POST /tasks/batch", 503, "read_model_unavailable", "Redis is away")
    answer(gateway, ACCEPTED)
    assert [one.error for one in client.submit_many("echo", [1])] == [None]
    assert "idempotency-key" not in gateway.requests[1].headers


def test_what_the_gateway_did_not_read_is_an_error(gateway: ScriptedGateway, client: Client) -> None:
    answer(gateway, ACCEPTED, stopped={"code": "body_too_large", "detail": "too much"})
    first, second = client.submit_many("echo", [1, 2])
    assert first.error is None
    assert second.error is not None
    assert second.error.code == "body_too_large"


def test_a_chunk_is_bounded_in_bytes() -> None:
    large = "x" * (CHUNK_BYTES // 2)
    gathered = Payloads("echo", [large, large, 1], {})
    assert [len(gathered.take(10)) for _ in range(3)] == [1, 2, 0]


def test_a_payload_is_not_held_back_for_those_that_take_their_time() -> None:
    times = iter([0.0, 0.01, 0.2])
    gathered = Payloads("echo", "abc", {}, clock=lambda: next(times))
    assert len(gathered.take(10, 0.05)) == 2


@pytest.mark.parametrize(
    "options", [{"data": b"x"}, {"idempotency_key": "k", "idempotent": False}, {"delay": 1, "run_at": 1}]
)
def test_options_that_make_no_sense_are_refused_before_anything_is_sent(
    gateway: ScriptedGateway, client: Client, options: Any
) -> None:
    with pytest.raises(ValueError):
        list(client.submit_many("echo", [1], **options))
    assert not gateway.requests


def test_a_batch_is_counted(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(
        f"GET /batches/{BATCH}", {"batchId": BATCH, "tasks": 2, "ended": 1, "statuses": {"FAILED": 1}}
    )
    found = client.batch(BATCH)
    assert (found.tasks, found.ended, found.statuses[Status.FAILED]) == (2, 1, 1)


# --- calls


def test_a_call_gives_the_functions_result(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(INVOKE, {"n": 1})
    assert client.invoke("echo", {"n": 1}, timeout=5, tags=["a", "b"]) == {"n": 1}
    [request] = gateway.requests
    assert request.json == {"n": 1}
    assert request.query == [("wait", "30.000"), ("timeoutSeconds", "5"), ("tag", "a"), ("tag", "b")]
    assert "idempotency-key" in request.headers


def test_a_call_with_bytes_gives_bytes(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(INVOKE, b"\x89PNG", content_type="image/png")
    assert client.invoke("echo", data=b"\xff\xd8", content_type="image/jpeg") == b"\x89PNG"
    assert gateway.requests[0].body == b"\xff\xd8"
    assert gateway.requests[0].headers["content-type"] == "image/jpeg"


def test_a_call_that_takes_longer_is_waited_for(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(INVOKE, gateway.task("QUEUED"), 202)
    gateway.answer(f"GET /tasks/{TASK_ID}", gateway.task("COMPLETED"))
    gateway.answer(f"GET /tasks/{TASK_ID}/result", b"5", content_type="application/json")
    assert client.invoke("echo") == 5


def test_a_call_that_is_not_waited_for_any_longer_names_its_task(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.answer(INVOKE, gateway.task("QUEUED"), 202)
    gateway.answer(f"GET /tasks/{TASK_ID}", gateway.task("IN_PROGRESS"))
    with pytest.raises(WaitTimeout, match="after 0 s") as caught:
        client.invoke("echo", wait=0)
    assert caught.value.task.task_id == TASK_ID
    assert gateway.requests[0].query == [("wait", "0.000")]


def test_a_call_of_a_function_that_fails_raises_its_error(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse(INVOKE, 502, "function_failed", "no", taskId=TASK_ID)
    error = {"type": "Function.Error", "message": "no", "class": "ValueError"}
    gateway.answer(f"GET /tasks/{TASK_ID}", gateway.task("FAILED", error=error))
    with pytest.raises(TaskFailed) as caught:
        client.invoke("echo")
    assert caught.value.error_class == "ValueError"
    assert len(gateway.requests) == 2


def test_a_call_whose_function_fails_tells_why_where_its_task_cannot_be_read(
    gateway: ScriptedGateway, client: Client
) -> None:
    error = {"type": "Function.Error", "message": "no", "class": "ValueError"}
    gateway.refuse(INVOKE, 502, "function_failed", "no", taskId=TASK_ID, error=error)
    gateway.refuse(f"GET /tasks/{TASK_ID}", 403, "forbidden", "that takes the scope read")
    with pytest.raises(TaskFailed) as caught:
        client.invoke("echo")
    assert (caught.value.error_class, caught.value.message) == ("ValueError", "no")
    assert caught.value.task.task_id == TASK_ID


def test_a_call_whose_task_goes_on_unseen_names_it_and_its_key(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.answer(INVOKE, gateway.task("QUEUED"), 202)
    gateway.refuse(f"GET /tasks/{TASK_ID}", 403, "forbidden", "that takes the scope read")
    with pytest.raises(Forbidden) as caught:
        client.invoke("echo")
    assert caught.value.task_id == TASK_ID
    assert caught.value.idempotency_key == gateway.requests[0].headers["idempotency-key"]


def test_what_a_function_calls_json_and_is_none_is_bytes(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer(INVOKE, b"{", content_type="application/json; charset=utf-8")
    assert client.invoke("echo") == b"{"


def test_a_call_that_is_refused_raises_the_refusal(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse(INVOKE, 404, "unknown_function", "there is none")
    with pytest.raises(ApiError, match="there is none"):
        client.invoke("echo")
