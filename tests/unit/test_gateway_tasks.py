import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_world import World, check_problem

from gateway.models import Accepted, Task, TaskList
from gateway.waiting import Waiters
from mayfly.placement import murmur2_partition
from mayfly.settings import KIB
from mayfly.task import Lane, is_task_id

TASK = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"
OTHER = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f13"
MAX = 300 * KIB


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(payload_bytes=MAX)
    async with world.http:
        yield world


# --- what is accepted


async def test_a_posted_task_is_in_the_log_before_it_is_answered(world: World) -> None:
    answer = await world.post(
        payload={"a": 1}, name="first", priority="high", timeoutSeconds=2, tags=["x", "y", "x"]
    )
    assert answer.status_code == 202
    accepted = Accepted.model_validate(answer.json())
    assert is_task_id(accepted.task_id)
    assert answer.headers["location"] == f"/tasks/{accepted.task_id}"
    [(queue, lane, key, _)] = world.commands.records
    assert (queue, lane, key) == ("default", Lane.HIGH, accepted.task_id)
    [envelope] = world.commands.envelopes
    assert (envelope.task_id, envelope.task_type) == (accepted.task_id, "echo")
    assert (envelope.name, envelope.timeout_seconds, envelope.tags) == ("first", 2.0, ("x", "y"))


async def test_a_json_payload_reaches_the_log_as_the_bytes_that_were_sent(world: World) -> None:
    body = b'{"payload": { "n": 1.10, "e": "\\u00e9",\n "z":1E2 }, "taskType": "echo"}'
    answer = await world.http.post("/tasks", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 202
    [envelope] = world.commands.envelopes
    assert bytes(envelope.payload) == b'{ "n": 1.10, "e": "\\u00e9",\n "z":1E2 }'


async def test_a_task_is_shown_as_queued_at_once(world: World) -> None:
    task_id = (await world.post(payload=[1, 2], tags=["t"])).json()["taskId"]
    answer = await world.http.get(f"/tasks/{task_id}")
    task = Task.model_validate(answer.json())
    assert (task.status, task.created_at, task.tags) == ("QUEUED", "2026-11-24T12:00:00.123Z", ["t"])
    partition = murmur2_partition(task_id, 8)
    assert world.commands.partitions == [partition]
    assert world.read_model.hashes[task_id]["command"] == f"normal:{partition}:0"


async def test_a_function_has_its_tasks_in_its_own_queue(world: World) -> None:
    assert (await world.post(taskType="thumbnail", payload={"width": 3})).status_code == 202
    assert world.commands.records[0][0] == "big"


async def test_a_payload_of_null_is_a_payload(world: World) -> None:
    assert (await world.post(payload=None)).status_code == 202
    assert bytes(world.commands.envelopes[0].payload) == b"null"


async def test_bytes_are_taken_with_their_content_type_and_their_particulars_in_the_query(
    world: World,
) -> None:
    answer = await world.http.post(
        "/tasks?taskType=echo&name=photo&priority=low&timeoutSeconds=1.5&tag=a&tag=b",
        content=b"\xff\xd8\x00",
        headers={"content-type": "image/jpeg"},
    )
    assert answer.status_code == 202
    [envelope] = world.commands.envelopes
    assert base64.b64decode(envelope.payload_base64 or "") == b"\xff\xd8\x00"
    assert (envelope.content_type, envelope.name, envelope.timeout_seconds) == ("image/jpeg", "photo", 1.5)
    assert envelope.tags == ("a", "b")
    assert world.commands.records[0][1] is Lane.LOW


@pytest.mark.parametrize("size", [64 * KIB, 64 * KIB + 1, MAX])
async def test_a_payload_over_64_kib_goes_to_the_store_and_by_reference(world: World, size: int) -> None:
    text = "x" * (size - 2)
    task_id = (await world.post(payload=text)).json()["taskId"]
    [envelope] = world.commands.envelopes
    if size <= 64 * KIB:
        assert json.loads(bytes(envelope.payload)) == text
        assert world.blobs.objects == {}
    else:
        assert envelope.payload_ref is not None
        assert (envelope.payload_ref.key, envelope.payload_ref.size) == (f"payloads/{task_id}", size)
        assert json.loads(world.blobs.objects[f"payloads/{task_id}"]) == text
        assert bytes(envelope.payload) == b""


async def test_large_bytes_go_to_the_store_too(world: World) -> None:
    headers = {"content-type": "application/octet-stream"}
    data = b"\x00" * (64 * KIB + 1)
    answer = await world.http.post("/tasks?taskType=echo", content=data, headers=headers)
    assert world.blobs.objects == {f"payloads/{answer.json()['taskId']}": data}


async def test_a_payload_may_nest_to_32_levels(world: World) -> None:
    payload: list[Any] = []
    for _ in range(31):
        payload = [payload]
    assert (await world.post(payload=payload)).status_code == 202
    check_problem(await world.post(payload=[payload]), 400, "too_deep", "payload" + "[0]" * 32)


# --- what is refused

JSON = "application/json"


def task_body(payload: str = "null", task_type: str = "echo", rest: str = "") -> bytes:
    return f'{{"taskType": "{task_type}", "payload": {payload}{rest}}}'.encode()


BAD_BODIES = [
    # body, content type, status, code, field
    (b"", JSON, 400, "malformed_json", None),
    (b"{", JSON, 400, "malformed_json", None),
    (b"{'taskType': 'echo'}", JSON, 400, "malformed_json", None),
    (task_body() + b"x", JSON, 400, "malformed_json", None),
    (b"\xef\xbb\xbf" + task_body(), JSON, 400, "invalid_encoding", None),
    (b'{"taskType": "\xff"}', JSON, 400, "invalid_encoding", None),
    (task_body('"\\ud800"'), JSON, 400, "invalid_encoding", None),
    (task_body("NaN"), JSON, 400, "invalid_number", None),
    (task_body("[-Infinity]"), JSON, 400, "invalid_number", None),
    (task_body("1e400"), JSON, 400, "invalid_number", None),
    (task_body('{"id": 9007199254740993}'), JSON, 400, "invalid_number", "payload.id"),
    (task_body(rest=', "taskType": "echo"'), JSON, 400, "duplicate_key", "taskType"),
    (task_body('[{"a": 1, "a": 1}]'), JSON, 400, "duplicate_key", "payload[0].a"),
    (task_body("[" * 33 + "]" * 33), JSON, 400, "too_deep", "payload" + "[0]" * 32),
    (b"[]", JSON, 422, "invalid_task", None),
    (b"null", JSON, 422, "invalid_task", None),
    (b"{}", JSON, 422, "invalid_task", "taskType"),
    (b'{"taskType": "echo"}', JSON, 422, "invalid_task", "payload"),
    (b'{"taskType": 7, "payload": 1}', JSON, 422, "invalid_task", "taskType"),
    (task_body(rest=', "callback": "http://x"'), JSON, 422, "invalid_task", "callback"),
    (task_body(rest=', "priority": "urgent"'), JSON, 422, "invalid_task", "priority"),
    (task_body(rest=', "name": ""'), JSON, 422, "invalid_task", "name"),
    (task_body(rest=', "name": "a\\nb"'), JSON, 422, "invalid_task", "name"),
    (task_body(rest=f', "name": "{"x" * 201}"'), JSON, 422, "invalid_task", "name"),
    (task_body(rest=', "timeoutSeconds": 0'), JSON, 422, "invalid_task", "timeoutSeconds"),
    (task_body(rest=', "timeoutSeconds": "5"'), JSON, 422, "invalid_task", "timeoutSeconds"),
    (task_body(rest=', "timeoutSeconds": true'), JSON, 422, "invalid_task", "timeoutSeconds"),
    (task_body(rest=', "timeoutSeconds": 86401'), JSON, 422, "invalid_task", "timeoutSeconds"),
    (task_body(rest=', "tags": "a"'), JSON, 422, "invalid_task", "tags"),
    (task_body(rest=', "tags": ["a", 2]'), JSON, 422, "invalid_task", "tags[1]"),
    (
        task_body(rest=f', "tags": {json.dumps([str(i) for i in range(17)])}'),
        JSON,
        422,
        "invalid_task",
        "tags",
    ),
    (task_body(task_type="ehco"), JSON, 422, "unknown_task_type", "taskType"),
    (task_body(task_type=""), JSON, 422, "unknown_task_type", "taskType"),
    (task_body(task_type="../echo"), JSON, 422, "unknown_task_type", "taskType"),
    (task_body(task_type="gone"), JSON, 422, "unknown_task_type", "taskType"),
    (task_body(task_type="broken"), JSON, 500, "broken_function", None),
    (task_body("[]", "thumbnail"), JSON, 422, "invalid_payload", "payload"),
    (task_body("{}", "thumbnail"), JSON, 422, "invalid_payload", "payload.width"),
    (task_body('{"width": "3"}', "thumbnail"), JSON, 422, "invalid_payload", "payload.width"),
    (task_body('{"width": 0}', "thumbnail"), JSON, 422, "invalid_payload", "payload.width"),
    (task_body('{"width": 1, "hight": 2}', "thumbnail"), JSON, 422, "invalid_payload", "payload.hight"),
    (
        task_body('{"width": 1, "items": [{"name": 1}, {}]}', "thumbnail"),
        JSON,
        422,
        "invalid_payload",
        "payload.items[1].name",
    ),
    (task_body(json.dumps("x" * (MAX - 1))), JSON, 413, "payload_too_large", "payload"),
    (task_body(json.dumps("x" * (MAX + 16 * KIB))), JSON, 413, "body_too_large", None),
    (task_body(), "", 415, "unsupported_media_type", "Content-Type"),
    (task_body(), "json", 415, "unsupported_media_type", "Content-Type"),
    (task_body(), "text/plain", 415, "unsupported_media_type", "Content-Type"),
    (task_body(), "Text/Plain; charset=utf-8", 415, "unsupported_media_type", "Content-Type"),
    (b"taskType=echo", "application/x-www-form-urlencoded", 415, "unsupported_media_type", "Content-Type"),
    (b"--x", "multipart/form-data; boundary=x", 415, "unsupported_media_type", "Content-Type"),
    (task_body(), "application/json; charset=latin-1", 415, "unsupported_media_type", "Content-Type"),
]


@pytest.mark.parametrize(("body", "content_type", "status", "code", "field"), BAD_BODIES)
async def test_a_bad_body_gets_its_answer_and_nothing_is_queued(
    world: World, body: bytes, content_type: str, status: int, code: str, field: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await world.http.post("/tasks", content=body, headers=headers)
    check_problem(answer, status, code, field)
    assert world.commands.records == []
    assert world.blobs.objects == {}


@pytest.mark.parametrize(
    ("query", "status", "code", "field"),
    [
        ("", 400, "invalid_parameter", "taskType"),
        ("taskType=nobody", 422, "unknown_task_type", "taskType"),
        ("taskType=thumbnail", 415, "unsupported_media_type", "Content-Type"),
        ("taskType=echo&taskType=echo", 400, "invalid_parameter", "taskType"),
        ("taskType=echo&task=1", 400, "invalid_parameter", "task"),
        ("taskType=echo&timeoutSeconds=soon", 400, "invalid_parameter", "timeoutSeconds"),
        ("taskType=echo&timeoutSeconds=nan", 400, "invalid_parameter", "timeoutSeconds"),
        ("taskType=echo&priority=urgent", 400, "invalid_parameter", "priority"),
        ("taskType=echo&tag=", 400, "invalid_parameter", "tags[0]"),
    ],
)
async def test_bad_particulars_of_bytes_get_their_answer(
    world: World, query: str, status: int, code: str, field: str
) -> None:
    headers = {"content-type": "application/octet-stream"}
    answer = await world.http.post(f"/tasks?{query}", content=b"x", headers=headers)
    check_problem(answer, status, code, field)
    assert world.commands.records == []


async def test_particulars_in_the_query_are_refused_beside_json(world: World) -> None:
    answer = await world.http.post("/tasks?taskType=echo", json={"taskType": "echo", "payload": 1})
    check_problem(answer, 400, "invalid_parameter", "taskType")


async def test_an_unknown_task_type_is_answered_with_the_likely_one(world: World) -> None:
    assert 'Did you mean "echo"?' in (await world.post(taskType="ehco")).json()["detail"]


async def test_a_body_that_never_ends_is_cut_at_the_limit(world: World) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 64 * KIB
            yield b" " * 64 * KIB

    answer = await world.http.post("/tasks", content=endless(), headers={"content-type": JSON})
    check_problem(answer, 413, "body_too_large", None)
    assert answer.headers["connection"] == "close"
    assert sent <= MAX + 128 * KIB


# --- when a part is down


async def test_a_task_whose_append_is_ambiguous_is_answered_503_with_its_id(world: World) -> None:
    world.commands.down = "timed out"
    answer = await world.post()
    problem = check_problem(answer, 503, "log_unavailable", None)
    assert is_task_id(problem["taskId"])
    assert problem["taskId"] in problem["detail"]
    assert int(answer.headers["retry-after"]) > 0


async def test_a_read_model_that_is_down_does_not_fail_a_post(world: World) -> None:
    world.read_model.down = "refused"
    assert (await world.post()).status_code == 202
    assert len(world.commands.records) == 1


async def test_a_read_model_that_hangs_does_not_hold_a_post(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.announcing.PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("gateway.announcing.MAX_WAITING", 2)
    world.read_model.hangs = True
    answers = await asyncio.gather(*(world.post() for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert len(world.commands.records) == 10


async def test_tasks_that_come_together_are_shown_by_few_writes(world: World) -> None:
    answers = await asyncio.gather(*(world.post() for _ in range(50)))
    assert set(world.read_model.hashes) == {answer.json()["taskId"] for answer in answers}
    assert sum(world.read_model.batches) == 50
    assert len(world.read_model.batches) < 50


async def test_a_store_that_is_down_fails_a_large_payload_before_it_is_queued(world: World) -> None:
    world.blobs.down = "refused"
    answer = await world.post(payload="x" * 70 * KIB)
    check_problem(answer, 503, "blobs_unavailable", None)
    assert world.commands.records == []


async def test_a_catalog_that_was_not_read_yet_cannot_call_a_function_unknown(world: World) -> None:
    world.catalog.read = False
    answer = await world.post(taskType="new")
    check_problem(answer, 503, "catalog_unavailable", None)
    assert answer.headers["retry-after"]
    assert (await world.post(taskType="echo")).status_code == 202


@pytest.mark.parametrize("path", [f"/tasks/{TASK}", f"/tasks/{TASK}/result", "/tasks", "/workers"])
async def test_reads_answer_503_while_the_read_model_is_down(world: World, path: str) -> None:
    world.read_model.down = "Connection refused to redis.internal"
    answer = await world.http.get(path)
    problem = check_problem(answer, 503, "read_model_unavailable", None)
    assert answer.headers["retry-after"]
    assert "redis.internal" not in problem["detail"]


# --- reading


async def test_a_finished_task_has_its_result_in_it_and_links_to_the_bytes(world: World) -> None:
    result = '{"big": 18446744073709551617, "f": 1.10}'
    world.task(
        TASK,
        status="COMPLETED",
        attempt="2",
        startedAt="2026-11-24T12:00:01.000Z",
        finishedAt="2026-11-24T12:00:02.000Z",
        dispatcher="d1",
        image="mayfly/echo:1",
        resultKey=f"results/{TASK}/2-7",
        resultSize=str(len(result)),
        resultContentType=JSON,
        result=result,
        logKey="logs/x",
        logSize="3",
        timeoutSeconds="1.5",
        fence="7",
        position="0:9",
        command="normal:0:1",
        name="n",
    )
    answer = await world.http.get(f"/tasks/{TASK}")
    assert f'"result":{result}' in answer.text
    task = Task.model_validate(answer.json())
    assert (task.attempt, task.timeout_seconds, task.result_size) == (2, 1.5, len(result))
    assert (task.result_url, task.logs_url) == (f"/tasks/{TASK}/result", f"/tasks/{TASK}/logs")


async def test_a_failed_task_says_why(world: World) -> None:
    world.task(
        TASK,
        status="FAILED",
        errorType="Function.ExitCode",
        errorMessage="it exited",
        errorClass="ValueError",
        errorTraceback="Traceback ...",
        errorExitCode="3",
    )
    task = Task.model_validate((await world.http.get(f"/tasks/{TASK}")).json())
    assert task.error is not None
    assert task.error.model_dump() == {
        "type": "Function.ExitCode",
        "message": "it exited",
        "exception": "ValueError",
        "traceback": "Traceback ...",
        "exit_code": 3,
    }


async def test_a_running_task_shows_its_progress(world: World) -> None:
    world.task(TASK, status="IN_PROGRESS", progress="0.25", progressMessage="reading")
    answer = await world.http.get(f"/tasks/{TASK}")
    assert answer.json()["progress"] == {"fraction": 0.25, "message": "reading"}


@pytest.mark.parametrize("task_id", [OTHER, "1", TASK.upper(), f"{TASK}x", "%00", "..%2f"])
async def test_an_id_that_no_task_has_is_404(world: World, task_id: str) -> None:
    world.task(TASK)
    answer = await world.http.get(f"/tasks/{task_id}")
    assert answer.status_code == 404
    assert answer.json()["code"] in ("unknown_task", "not_found")


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "1e1", "", "x", "0x1", "060"])
async def test_a_wait_that_is_not_0_to_60_seconds_is_refused(world: World, wait: str) -> None:
    world.task(TASK)
    check_problem(await world.http.get(f"/tasks/{TASK}?wait={wait}"), 400, "invalid_parameter", "wait")


async def test_whoever_waits_is_answered_as_soon_as_the_task_ends(world: World) -> None:
    world.task(TASK, status="IN_PROGRESS")
    following = asyncio.create_task(world.gateway.waiters.follow())
    reading = asyncio.create_task(world.http.get(f"/tasks/{TASK}?wait=60", timeout=60))
    while world.read_model.reads[TASK] < 2:
        await asyncio.sleep(0)
    world.task(TASK, status="COMPLETED")
    world.read_model.told.put_nowait((OTHER, "COMPLETED"))
    world.read_model.told.put_nowait((TASK, "COMPLETED"))
    assert (await asyncio.wait_for(reading, 2)).json()["status"] == "COMPLETED"
    assert len(world.gateway.waiters) == 0
    following.cancel()


async def test_an_end_that_nobody_told_of_is_found_all_the_same(world: World) -> None:
    waiters = Waiters(world.read_model, recheck_seconds=0.01)
    world.task(TASK)
    waiting = asyncio.create_task(waiters.until_terminal(TASK, 60, _nobody_left))
    while len(waiters) == 0:
        await asyncio.sleep(0)
    world.task(TASK, status="FAILED")
    record = await asyncio.wait_for(waiting, 10)
    assert record is not None
    assert record["status"] == "FAILED"


async def test_a_subscription_that_broke_is_made_anew_and_everybody_reads_again(world: World) -> None:
    waiters = Waiters(world.read_model, recheck_seconds=60)
    following = asyncio.create_task(waiters.follow())
    world.task(TASK)
    waiting = asyncio.create_task(waiters.until_terminal(TASK, 60, _nobody_left))
    while len(waiters) == 0:
        await asyncio.sleep(0)
    world.task(TASK, status="COMPLETED")
    world.read_model.told.put_nowait(None)
    assert await asyncio.wait_for(waiting, 10) == world.read_model.hashes[TASK]
    following.cancel()


async def test_a_wait_that_runs_out_is_answered_with_the_task_as_it_is(world: World) -> None:
    world.task(TASK, status="IN_PROGRESS")
    answer = await world.http.get(f"/tasks/{TASK}?wait=0.02")
    assert answer.json()["status"] == "IN_PROGRESS"


async def test_nobody_is_kept_waiting_by_a_gateway_that_stops(world: World) -> None:
    world.task(TASK)
    waiting = asyncio.create_task(world.http.get(f"/tasks/{TASK}?wait=60", timeout=60))
    while len(world.gateway.waiters) == 0:
        await asyncio.sleep(0)
    world.gateway.waiters.close()
    assert (await asyncio.wait_for(waiting, 2)).json()["status"] == "QUEUED"


async def _nobody_left() -> bool:
    return False


# --- lists


async def test_a_list_has_tasks_and_the_next_cursor(world: World) -> None:
    world.task(TASK)
    world.read_model.next_cursor = "next"
    answer = await world.http.get("/tasks?status=QUEUED&taskType=echo&tag=t&cursor=c&limit=7")
    found = TaskList.model_validate(answer.json())
    assert ([task.task_id for task in found.tasks], found.next_cursor) == ([TASK], "next")
    assert world.read_model.asked == [
        {"tenant": "default", "status": "QUEUED", "task_type": "echo", "tag": "t", "cursor": "c", "limit": 7}
    ]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=DONE", "status"),
        ("status=queued", "status"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=broken", "cursor"),
        ("sort=name", "sort"),
    ],
)
async def test_a_bad_filter_is_refused_by_name(world: World, query: str, field: str) -> None:
    check_problem(await world.http.get(f"/tasks?{query}"), 400, "invalid_parameter", field)


# --- results and logs


def finished(world: World, data: bytes, content_type: str) -> None:
    world.blobs.objects["results/r"] = data
    world.task(
        TASK,
        status="COMPLETED",
        resultKey="results/r",
        resultSize=str(len(data)),
        resultContentType=content_type,
    )


async def test_a_result_is_given_as_its_bytes_with_its_content_type(world: World) -> None:
    data = bytes(range(256)) * 20
    finished(world, data, "image/png")
    answer = await world.http.get(f"/tasks/{TASK}/result")
    assert answer.content == data
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-length"] == str(len(data))


async def test_head_of_a_result_tells_its_size_without_the_bytes(world: World) -> None:
    finished(world, b"12345", "image/png")
    answer = await world.http.head(f"/tasks/{TASK}/result")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "5", b"")


async def test_a_page_that_a_function_made_cannot_act_as_the_gateway(world: World) -> None:
    finished(world, b"<script>fetch('/tasks')</script>", "text/html")
    headers = (await world.http.get(f"/tasks/{TASK}/result")).headers
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("claimed", ["text/html\r\nset-cookie: a=b", "nonsense", "", "a/b\x00", "tëxt/html"])
async def test_a_content_type_that_is_none_becomes_octet_stream(world: World, claimed: str) -> None:
    finished(world, b"x", claimed)
    answer = await world.http.get(f"/tasks/{TASK}/result")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("fields", "path", "status", "code"),
    [
        ({"status": "QUEUED"}, "result", 409, "task_not_finished"),
        ({"status": "SCHEDULED"}, "logs", 409, "task_not_finished"),
        ({"status": "FAILED"}, "result", 404, "no_result"),
        ({"status": "COMPLETED", "resultKey": "results/lost"}, "result", 410, "blob_gone"),
        ({"status": "COMPLETED", "logKey": "logs/lost"}, "logs", 410, "blob_gone"),
    ],
)
async def test_bytes_that_are_not_there_say_why(
    world: World, fields: dict[str, str], path: str, status: int, code: str
) -> None:
    world.task(TASK, **fields)
    check_problem(await world.http.get(f"/tasks/{TASK}/{path}"), status, code, None)


async def test_logs_are_plain_text_and_tell_what_was_dropped(world: World) -> None:
    world.blobs.objects["logs/l"] = b"<b>hello</b>\n"
    world.task(TASK, status="FAILED", logKey="logs/l", logSize="13", logDropped="7")
    answer = await world.http.get(f"/tasks/{TASK}/logs")
    assert answer.text == "<b>hello</b>\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["mayfly-log-dropped"] == "7"


async def test_a_task_that_wrote_nothing_has_an_empty_log(world: World) -> None:
    world.task(TASK, status="COMPLETED")
    answer = await world.http.get(f"/tasks/{TASK}/logs")
    assert (answer.status_code, answer.text) == (200, "")
