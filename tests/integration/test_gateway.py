"""The gateway as a process of its own, on the real Kafka, Redis and S3."""

import asyncio
import os
import socket
import time
import uuid
from datetime import datetime

import httpx
import pytest
from gateway_process import PATIENCE, StartGateway, commands, finish, queue, until

from mayfly.adapters import kafka, kafka_catalog
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.function import Function
from mayfly.placement import murmur2_partition
from mayfly.settings import Settings
from mayfly.task import Lane, new_task_id


async def test_a_posted_task_is_a_command_in_its_partition_and_is_shown(
    start_gateway: StartGateway, settings: Settings, function: Function
) -> None:
    async with start_gateway().client() as http:
        await until(http, "/readyz", 200)
        body = {
            "taskType": function.name,
            "payload": {"width": 3},
            "priority": "high",
            "tags": [settings.queue],
        }
        answers = [await http.post("/tasks", json=body) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {202}
        ids = [answer.json()["taskId"] for answer in answers]
        placed = commands(settings, Lane.HIGH, 20)
        assert set(placed) == set(ids)
        for task_id, (partition, envelope) in placed.items():
            assert partition == murmur2_partition(task_id, settings.partitions)
            assert (envelope.task_id, bytes(envelope.payload)) == (task_id, b'{"width":3}')
        task = (await http.get(f"/tasks/{ids[0]}")).json()
        assert (task["status"], task["queue"], task["priority"]) == ("QUEUED", settings.queue, "high")
        assert abs(time.time() - datetime.fromisoformat(task["createdAt"]).timestamp()) < 3600
        listed = (await http.get(f"/tasks?tag={settings.queue}&limit=15")).json()
        rest = (await http.get(f"/tasks?tag={settings.queue}&cursor={listed['nextCursor']}")).json()
        assert [task["taskId"] for task in listed["tasks"] + rest["tasks"]] == ids[::-1]


async def test_a_function_that_is_deployed_while_it_runs_is_taken_at_once(
    start_gateway: StartGateway, settings: Settings
) -> None:
    await kafka.ensure_topics(settings)
    log = kafka.Log(settings)
    await log.start()
    async with start_gateway().client() as http:
        await until(http, "/readyz", 200)
        name = f"f-{uuid.uuid4().hex[:12]}"
        assert (await http.post("/tasks", json={"taskType": name, "payload": 1})).status_code == 422
        await kafka_catalog.publish(log, Function(name, "image", "1", queue=settings.queue))
        await until(http, f"/functions/{name}", 200)
        assert (await http.post("/tasks", json={"taskType": name, "payload": 1})).status_code == 202
        assert f"payload.{name}" in (await http.get("/openapi.json")).text
    await log.close()


async def test_a_large_payload_is_in_the_store_before_its_command_is_in_the_log(
    start_gateway: StartGateway, settings: Settings, function: Function
) -> None:
    async with start_gateway().client() as http:
        await until(http, "/readyz", 200)
        data = os.urandom(5_000_000)
        headers = {"content-type": "application/octet-stream"}
        answer = await http.post(f"/tasks?taskType={function.name}", content=data, headers=headers)
        task_id = answer.json()["taskId"]
    [(_, envelope)] = commands(settings, Lane.NORMAL, 1).values()
    assert envelope.payload_ref is not None
    assert (envelope.payload_ref.key, envelope.payload_ref.size) == (f"payloads/{task_id}", len(data))
    assert await Blobs(settings).get(envelope.payload_ref.key) == data


async def test_a_result_streams_from_the_store_with_its_content_type(
    start_gateway: StartGateway, settings: Settings
) -> None:
    read_model, blobs, task_id = ReadModel(settings), Blobs(settings), new_task_id()
    async with start_gateway().client() as http:
        await until(http, "/readyz", 200)
        data = os.urandom(3_000_000)
        await blobs.put(f"results/{task_id}/1-5", data, "image/png")
        await finish(read_model, settings, task_id, size=len(data))
        answer = await http.get(f"/tasks/{task_id}/result")
        assert answer.content == data
        assert answer.headers["content-type"] == "image/png"
        head = await http.head(f"/tasks/{task_id}/result")
        assert (head.headers["content-length"], head.content) == (str(len(data)), b"")
    await read_model.close()


async def test_whoever_waits_hears_of_the_end_from_the_read_model(
    start_gateway: StartGateway, settings: Settings
) -> None:
    read_model, task_id = ReadModel(settings), new_task_id()
    async with start_gateway().client() as http:
        await until(http, "/readyz", 200)
        await queue(read_model, settings, task_id)
        waiting = asyncio.create_task(http.get(f"/tasks/{task_id}?wait=60"))
        await finish(read_model, settings, task_id, size=1)
        assert (await waiting).json()["status"] == "COMPLETED"
    await read_model.close()


# --- parts that are not there


async def missing(http: httpx.AsyncClient) -> set[str]:
    parts = (await until(http, "/readyz", 503)).json()["parts"]
    return {name for name, state in parts.items() if state != "ready"}


def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_without_kafka_it_lives_says_what_is_missing_and_accepts_nothing(
    start_gateway: StartGateway,
) -> None:
    async with start_gateway(MAYFLY_KAFKA=f"127.0.0.1:{dead_port()}").client() as http:
        assert (await http.get("/healthz")).status_code == 200
        assert await missing(http) == {"log", "catalog"}
        answer = await http.post("/tasks", json={"taskType": "echo", "payload": 1})
        assert (answer.status_code, answer.json()["code"]) == (503, "catalog_unavailable")


async def test_without_redis_tasks_are_accepted_and_reads_answer_503(
    start_gateway: StartGateway, settings: Settings, function: Function
) -> None:
    async with start_gateway(MAYFLY_REDIS=f"redis://127.0.0.1:{dead_port()}/0").client() as http:
        await until(http, f"/functions/{function.name}", 200)
        answer = await http.post("/tasks", json={"taskType": function.name, "payload": {}})
        assert answer.status_code == 202
        assert set(commands(settings, Lane.NORMAL, 1)) == {answer.json()["taskId"]}
        read = await http.get(answer.headers["location"])
        assert (read.status_code, read.json()["code"]) == (503, "read_model_unavailable")
        deadline = time.monotonic() + PATIENCE
        while await missing(http) != {"readModel"}:
            assert time.monotonic() < deadline


# --- the process


async def test_sigterm_answers_what_is_under_way_and_ends_with_0(
    start_gateway: StartGateway, settings: Settings
) -> None:
    process, read_model, task_id = start_gateway(), ReadModel(settings), new_task_id()
    await queue(read_model, settings, task_id)
    await read_model.close()
    async with process.client() as http:
        await until(http, "/readyz", 200)
        waiting = asyncio.create_task(http.get(f"/tasks/{task_id}?wait=60"))
        await until(http, "/healthz", 200)
        assert await asyncio.to_thread(process.end) == 0
        assert (await waiting).json()["status"] == "QUEUED"
    assert "Traceback" not in process.errors


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"MAYFLY_HOST": "0.0.0.0"}, "MAYFLY_AUTH is off"),
        ({"MAYFLY_PORT": "high"}, "MAYFLY_PORT"),
        ({"MAYFLY_HOST": "127.0.0.1", "MAYFLY_PORT": "taken"}, "Address already in use"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_and_not_a_traceback(
    start_gateway: StartGateway, variables: dict[str, str], says: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = start_gateway(**{name: value.replace("taken", port) for name, value in variables.items()})
        assert process.popen.wait(PATIENCE) == 2
    assert says in process.errors
    assert len(process.errors.splitlines()) == 1


async def test_a_partition_count_that_is_not_the_logs_stops_it(
    start_gateway: StartGateway, settings: Settings
) -> None:
    await kafka.ensure_topics(settings)
    process = start_gateway(MAYFLY_PARTITIONS=str(settings.partitions + 1))
    assert await asyncio.to_thread(process.popen.wait, PATIENCE) == 2
    assert "a live queue's partitions never change" in process.errors
    assert "Traceback" not in process.errors


# --- what a careless or hostile client sends


def exchange(url: str, sent: bytes) -> bytes:
    """What comes back for these bytes, until the gateway closes the connection."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


POST = b"POST /tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"421"),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: a.example\r\n\r\n", b"421"),
        (POST + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n", b"413"),
        (POST + b"Content-Length: 99999999\r\n\r\n{", b"413"),
        (POST + b"Content-Length: -1\r\n\r\n{}", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
    ],
)
async def test_a_request_that_is_no_proper_one_is_refused(
    start_gateway: StartGateway, sent: bytes, answer: bytes
) -> None:
    process = start_gateway()
    async with process.client() as http:
        await until(http, "/healthz", 200)
        received = await asyncio.to_thread(exchange, process.url, sent)
        assert received.split(b" ")[1] == answer, received
        assert (await http.get("/healthz")).status_code == 200
    assert "Traceback" not in process.errors


async def test_a_body_that_is_cut_off_queues_nothing_and_breaks_nothing(
    start_gateway: StartGateway, settings: Settings, function: Function
) -> None:
    process = start_gateway()
    async with process.client() as http:
        await until(http, "/readyz", 200)
        whole = f'{{"taskType": "{function.name}", "payload": {{}}}}'.encode()
        head = POST + b"Content-Length: %d\r\n\r\n" % (len(whole) + 1)
        await asyncio.to_thread(exchange, process.url, head + whole)
        assert (
            await http.post("/tasks", content=whole, headers={"content-type": "application/json"})
        ).is_success
        assert len(commands(settings, Lane.NORMAL, 1)) == 1
        assert 'code="499"' in (await http.get("/metrics")).text
    assert "Traceback" not in process.errors
