"""Uploads: a place in the store, and tasks whose payload is what was put there."""

import hashlib
from collections.abc import AsyncIterator

import pytest
from gateway_world import NOW, World, check_problem

from mayfly.task import BlobRef, Envelope, encode, new_task_id

DATA = b"bytes of a picture"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.http.aclose()


async def created(world: World, **body: object) -> str:
    answer = await world.http.post("/uploads", json={"size": len(DATA), **body})
    assert answer.status_code == 201, answer.text
    upload_id: str = answer.json()["uploadId"]
    return upload_id


async def put(world: World, data: bytes = DATA, content_type: str = "image/png", sha256: str = "") -> str:
    upload_id = await created(world)
    world.blobs.upload("default", upload_id, data, content_type, sha256)
    return upload_id


async def test_an_upload_has_a_place_of_its_tenant_for_a_quarter_of_an_hour(world: World) -> None:
    answer = await world.http.post("/uploads", json={"size": 3, "contentType": "image/png"})
    told = answer.json()
    assert set(told) == {"uploadId", "method", "url", "headers", "expiresAt"}
    assert told["method"] == "PUT"
    assert told["url"] == f"http://store/uploads/default/{told['uploadId']}?for=900&size=3"
    assert told["headers"] == {"content-type": "image/png"}
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 422, "invalid_body", "size"),
        ({"size": -1}, 422, "invalid_body", "size"),
        ({"size": 1, "contentType": "a/b\r\nx: y"}, 422, "invalid_body", "contentType"),
        ({"size": 1, "sha256": "AB"}, 422, "invalid_body", "sha256"),
        ({"size": 5 * 2**30 + 1}, 413, "payload_too_large", "size"),
    ],
)
async def test_an_upload_that_cannot_be_is_refused(
    world: World, body: dict[str, object], status: int, code: str, field: str
) -> None:
    check_problem(await world.http.post("/uploads", json=body), status, code, field)


async def test_a_task_gets_a_copy_of_its_upload_with_its_type_and_its_promised_hash(world: World) -> None:
    upload = await put(world, sha256=DIGEST)
    answer = await world.http.post("/tasks", json={"taskType": "echo", "upload": upload})
    assert answer.status_code == 202, answer.text
    task_id = answer.json()["taskId"]
    (envelope,) = world.commands.envelopes
    assert envelope.payload_ref == BlobRef(f"payloads/{task_id}", len(DATA), DIGEST)
    assert (envelope.content_type, envelope.upload) == ("image/png", upload)
    assert envelope.payload_sha256 == DIGEST
    assert world.blobs.objects[f"payloads/{task_id}"] == DATA
    task = (await world.http.get(f"/tasks/{task_id}")).json()
    assert task["upload"] == upload


async def test_what_is_put_there_later_reaches_no_task_that_was_accepted(world: World) -> None:
    upload = await put(world)
    first = (await world.http.post("/tasks", json={"taskType": "echo", "upload": upload})).json()["taskId"]
    world.blobs.upload("default", upload, b"another one", "image/png")
    assert world.blobs.objects[f"payloads/{first}"] == DATA


async def test_an_upload_to_which_nothing_was_put_is_unknown_and_so_is_another_tenants(world: World) -> None:
    nothing, theirs = await created(world), new_task_id()
    world.blobs.upload("acme", theirs, DATA, "image/png")
    for upload in (nothing, theirs):
        answer = await world.http.post("/tasks", json={"taskType": "echo", "upload": upload})
        problem = check_problem(answer, 404, "unknown_upload", "upload")
        assert "POST /uploads" in problem["detail"]
    assert world.commands.records == []


async def test_one_that_is_written_anew_while_it_is_copied_is_refused(world: World) -> None:
    upload, copy = await put(world), world.blobs.copy

    async def late(key: str, to: str) -> None:
        world.blobs.upload("default", upload, DATA + b"!", "image/png")
        await copy(key, to)

    world.blobs.copy = late  # type: ignore[method-assign]
    answer = await world.http.post("/tasks", json={"taskType": "echo", "upload": upload})
    check_problem(answer, 409, "upload_changed", "upload")
    assert world.commands.records == []


@pytest.mark.parametrize("upload", ["", "../default/x", "0193F5A0-0000-7000-8000-000000000001", 1])
async def test_what_is_no_id_of_an_upload_is_refused(world: World, upload: object) -> None:
    answer = await world.http.post("/tasks", json={"taskType": "echo", "upload": upload})
    check_problem(answer, 422, "invalid_task", "upload")


async def test_a_payload_and_an_upload_exclude_each_other(world: World) -> None:
    upload = await put(world)
    answer = await world.post(upload=upload, payload=1)
    check_problem(answer, 422, "invalid_task", "upload")


async def test_a_function_with_a_schema_takes_no_upload(world: World) -> None:
    upload = await put(world, b"{}", "application/json")
    answer = await world.http.post("/tasks", json={"taskType": "thumbnail", "upload": upload})
    check_problem(answer, 415, "unsupported_media_type", "upload")


async def test_with_a_key_the_same_upload_is_the_same_task_even_once_it_is_gone(world: World) -> None:
    upload, other = await put(world), await put(world)
    headers = {"idempotency-key": "once"}
    body = {"taskType": "echo", "upload": upload}
    first = await world.http.post("/tasks", json=body, headers=headers)
    world.blobs.objects.pop(f"uploads/default/{upload}")
    again = await world.http.post("/tasks", json=body, headers=headers)
    assert again.json()["taskId"] == first.json()["taskId"]
    assert again.headers["idempotent-replayed"] == "true"
    conflict = await world.http.post("/tasks", json=body | {"upload": other}, headers=headers)
    check_problem(conflict, 409, "idempotency_conflict", "Idempotency-Key")
    assert len(world.commands.records) == 1


async def test_a_re_run_has_a_copy_of_its_own_after_the_upload_is_gone(world: World) -> None:
    upload = await put(world, sha256=DIGEST)
    first = (await world.http.post("/tasks", json={"taskType": "echo", "upload": upload})).json()["taskId"]
    world.blobs.objects.pop(f"uploads/default/{upload}")
    answer = await world.http.post(f"/tasks/{first}/rerun")
    assert answer.status_code == 202, answer.text
    second = world.commands.envelopes[1]
    assert second.payload_ref == BlobRef(f"payloads/{second.task_id}", len(DATA), DIGEST)
    assert (second.upload, second.rerun_of, second.content_type) == (upload, first, "image/png")
    world.blobs.objects.pop(f"payloads/{first}")
    check_problem(await world.http.post(f"/tasks/{first}/rerun"), 410, "input_gone", None)


async def test_a_dead_letter_with_an_upload_is_redriven(world: World) -> None:
    upload = await put(world)
    first = (await world.http.post("/tasks", json={"taskType": "echo", "upload": upload})).json()["taskId"]
    world.read_model.hashes[first]["status"] = "FAILED"
    world.read_model.letters[first] = NOW
    answer = (await world.http.post("/dead-letters/redrive", json={"taskIds": [first]})).json()
    (redriven,) = answer["redriven"]
    assert world.blobs.objects[f"payloads/{redriven['newTaskId']}"] == DATA


async def test_tasks_of_a_batch_may_have_uploads(world: World) -> None:
    upload = await put(world)
    batch = [{"taskType": "echo", "upload": upload}, {"taskType": "echo", "upload": await created(world)}]
    answer = (await world.http.post("/tasks/batch", json=batch)).json()
    assert [item["status"] for item in answer["items"]] == [202, 404]


async def test_while_the_store_is_away_there_is_no_upload_and_no_task_of_one(world: World) -> None:
    upload = await put(world)
    world.blobs.down = "away"
    answer = await world.http.post("/tasks", json={"taskType": "echo", "upload": upload})
    check_problem(answer, 503, "blobs_unavailable", None)


async def test_a_result_has_a_url_at_which_it_is_saved_under_the_tasks_name(world: World) -> None:
    task_id = new_task_id()
    world.task(
        task_id, status="COMPLETED", resultKey="results/a", resultSize="1", resultContentType="image/png"
    )
    check_problem(await world.http.get(f"/tasks/{task_id}/result/url"), 410, "blob_gone", None)
    world.blobs.objects["results/a"] = b"x"
    answer = await world.http.get(f"/tasks/{task_id}/result/url")
    assert answer.json()["url"] == (
        f'http://store/results/a?for=900&type=image/png&as=attachment; filename="{task_id}.png"'
    )
    assert answer.headers["cache-control"] == "no-store"
    world.task(task_id, status="QUEUED")
    check_problem(await world.http.get(f"/tasks/{task_id}/result/url"), 409, "task_not_finished", None)


def test_an_envelope_without_an_upload_is_what_it_was() -> None:
    assert b"upload" not in encode(Envelope("echo"))
