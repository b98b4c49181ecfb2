"""Keys, cancels, re-runs, dead letters and streams, on the real Kafka and Redis."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from gateway_process import PATIENCE, StartGateway, commands, finish, queue, until
from msgspec.structs import replace
from redis.asyncio import Redis

from mayfly.adapters import kafka, kafka_catalog
from mayfly.adapters.kafka_commands import CommandReader
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.redis_reads import CANCELS, log_key
from mayfly.events import CancelRequested, Claimed, Event, Finished, decode_event
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.task import Failure, FailureType, Lane, Outcome, keyed_id, new_task_id
from mayfly.view import QueuedTask, Reservation, claimed, finished

HASH = "ab" * 32


@pytest.fixture
async def read_model(settings: Settings) -> AsyncIterator[ReadModel]:
    model = ReadModel(settings)
    yield model
    await model.close()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    async with Redis.from_url(settings.redis.get_secret_value(), decode_responses=True) as redis:
        yield redis


def task(settings: Settings, task_type: str = "f") -> QueuedTask:
    return QueuedTask(
        task_id=new_task_id(),
        task_type=task_type,
        queue=settings.queue,
        priority=Lane.NORMAL,
        partition=3,
        offset=0,
        created_at=int(time.time() * 1000),
        payload_bytes=4,
        content_type="application/json",
    )


async def begin(read_model: ReadModel, of: QueuedTask, fence: int) -> None:
    event = Claimed(of.task_id, Lane.NORMAL, 0, 1, "d", "n")
    change = claimed(event, partition=3, offset=fence, at=of.created_at)
    await read_model.project([of], [change])


async def fail(read_model: ReadModel, of: QueuedTask, at: int, failure: FailureType) -> None:
    outcome = Outcome(at - 1, at, failure=Failure(failure, "it broke"))
    change = finished(Finished(of.task_id, 5, 1, outcome), partition=3, offset=6)
    await read_model.project([of], [change])


# --- reservations


async def test_of_many_who_reserve_an_id_at_once_one_does(read_model: ReadModel) -> None:
    task_id = new_task_id()
    assert await read_model.reservation(task_id) is None
    wanted = [Reservation(f"{one:064x}", one, "default") for one in range(8)]
    found = await asyncio.gather(*(read_model.reserve(task_id, one) for one in wanted))
    assert len(set(found)) == 1
    assert await read_model.reservation(task_id) == found[0]


async def test_a_reservation_ends_unless_its_task_comes_to_the_log(
    read_model: ReadModel, redis: Redis, settings: Settings
) -> None:
    keyed = replace(task(settings), request_sha256=HASH)
    reservation = Reservation(HASH, keyed.partition, keyed.queue)
    await read_model.reserve(keyed.task_id, reservation)
    assert await read_model.reservation(keyed.task_id) == reservation
    key = f"mayfly:idempotency:{keyed.task_id}"
    assert await redis.ttl(key) > 0
    await read_model.queued(keyed)
    assert await redis.ttl(key) == -1
    assert await read_model.reservation(keyed.task_id) == reservation
    await redis.set(key, f"{HASH}:5")
    assert await read_model.reservation(keyed.task_id) == Reservation(HASH, 5, None), "an older gateway's"


async def test_a_key_that_comes_again_is_one_command(
    start_gateway: StartGateway, settings: Settings, function: Function, redis: Redis
) -> None:
    body = {"taskType": function.name, "payload": {"width": 3}}
    headers = {"idempotency-key": settings.queue}
    async with start_gateway().client() as http:
        await until(http, "/readyz", 200)
        answers = [await http.post("/tasks", json=body, headers=headers) for _ in range(3)]
        assert {answer.json()["taskId"] for answer in answers} == {keyed_id("default", settings.queue)}
        assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", "true"]
        other = await http.post("/tasks", json={**body, "name": "n"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
        # Its hash is gone and the reservation is not: as after an append that nobody acknowledged.
        task_id = answers[0].json()["taskId"]
        await redis.delete(f"mayfly:task:{task_id}")
        again = await http.post("/tasks", json=body, headers=headers)
        assert (again.status_code, again.json()["taskId"]) == (202, task_id)
        record = await redis.hgetall(f"mayfly:task:{task_id}")
    partition = record["command"].split(":")[1]
    reserved = f"{record['requestSha256']}:{partition}:{record['queue']}"
    assert await redis.get(f"mayfly:idempotency:{task_id}") == reserved


async def test_a_queue_without_a_dispatcher_takes_tasks(
    start_gateway: StartGateway, settings: Settings, function: Function
) -> None:
    log = kafka.Log(settings)
    await log.start()
    elsewhere = Function(f"{function.name}-x", "image", "1", queue=f"{settings.queue}-x")
    await kafka_catalog.publish(log, elsewhere)
    await log.close()
    async with start_gateway().client() as http:
        await until(http, f"/functions/{elsewhere.name}", 200)
        await until(http, "/readyz", 200)
        body = {"taskType": function.name, "payload": {}, "queue": elsewhere.queue}
        answer = await http.post("/tasks", json=body)
        assert answer.status_code == 202, answer.text
    there = settings.model_copy(update={"queue": elsewhere.queue})
    assert set(commands(there, Lane.NORMAL, 1)) == {answer.json()["taskId"]}


# --- commands that are read again


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[CommandReader]:
    await kafka.ensure_topics(settings)
    reader = CommandReader(settings)
    yield reader
    await reader.close()


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[kafka.Log]:
    log = kafka.Log(settings)
    await log.start()
    yield log
    await log.close()


async def test_a_command_is_read_from_its_place(
    settings: Settings, reader: CommandReader, log: kafka.Log
) -> None:
    queue = settings.queue
    values = {}
    for number in range(20):
        lane, partition = (Lane.HIGH, Lane.LOW)[number % 2], number % 3
        value = b"%d" % number + b"x" * 100_000
        appended = await log.append(kafka.lane_topic(queue, lane), value, partition=partition)
        values[lane, partition, appended.offset] = value
    places = list(values)
    found = await asyncio.gather(*(reader.read_command(queue, *place) for place in places))
    assert dict(zip(places, found, strict=True)) == values


async def test_a_place_that_has_no_command_gives_none(
    settings: Settings, reader: CommandReader, log: kafka.Log
) -> None:
    topic = kafka.lane_topic(settings.queue, Lane.NORMAL)
    for _ in range(3):
        await log.append(topic, b"x", partition=2)
    assert await reader.read_command(settings.queue, Lane.NORMAL, 2, 3) is None
    assert await reader.read_command(settings.queue, Lane.NORMAL, 2, 300) is None
    assert await reader.read_command(settings.queue, Lane.NORMAL, 1, 0) is None
    assert await reader.read_command(settings.queue, Lane.NORMAL, settings.partitions, 0) is None
    admin = AdminClient(kafka.client_config(settings))
    for one in admin.delete_records([TopicPartition(topic, 2, 2)]).values():
        await asyncio.to_thread(one.result)
    assert await reader.read_command(settings.queue, Lane.NORMAL, 2, 1) is None
    assert await reader.read_command(settings.queue, Lane.NORMAL, 2, 2) == b"x"


async def test_a_task_is_run_again_from_the_log_and_from_the_store(
    start_gateway: StartGateway, settings: Settings, function: Function
) -> None:
    async with start_gateway().client() as http:
        await until(http, "/readyz", 200)
        small = await http.post("/tasks", json={"taskType": function.name, "payload": {"width": 3}})
        data, kind = b"\x00" * 200_000, {"content-type": "image/png"}
        large = await http.post(f"/tasks?taskType={function.name}", content=data, headers=kind)
        ids = [answer.json()["taskId"] for answer in (small, large)]
        reruns = [await http.post(f"/tasks/{task_id}/rerun") for task_id in ids]
        assert [answer.status_code for answer in reruns] == [202, 202], [one.text for one in reruns]
        assert [answer.json()["rerunOf"] for answer in reruns] == ids
    placed = commands(settings, Lane.NORMAL, 4)
    first, second = (placed[answer.json()["taskId"]][1] for answer in reruns)
    assert (bytes(first.payload), first.rerun_of) == (b'{"width":3}', ids[0])
    assert second.payload_ref is not None
    assert (second.payload_ref.size, second.content_type) == (len(data), "image/png")


# --- cancels


def last_event(settings: Settings, partition: int) -> Event | None:
    consumer = Consumer({"bootstrap.servers": settings.kafka, "group.id": "reader"})
    place = TopicPartition(kafka.events_topic(settings.queue), partition)
    _, end = consumer.get_watermark_offsets(place, PATIENCE)
    consumer.assign([TopicPartition(place.topic, partition, end - 1)])
    deadline = time.monotonic() + PATIENCE
    while (message := consumer.poll(0.2)) is None:
        assert time.monotonic() < deadline
    consumer.close()
    value = message.value()
    assert isinstance(value, bytes)
    return decode_event(value)


async def test_a_cancel_is_in_the_log_and_told_to_who_listens(
    start_gateway: StartGateway, settings: Settings, function: Function, redis: Redis
) -> None:
    async with start_gateway().client() as http, redis.pubsub() as subscription:
        await subscription.subscribe(CANCELS)
        await until(http, "/readyz", 200)
        task_id = (
            await http.post("/tasks", json={"taskType": function.name, "payload": {}, "priority": "low"})
        ).json()["taskId"]
        answer = await http.post(f"/tasks/{task_id}/cancel")
        assert (answer.status_code, answer.json()) == (202, {"taskId": task_id, "status": "QUEUED"})
        lane, partition, offset = (await redis.hget(f"mayfly:task:{task_id}", "command")).split(":")
        event = await asyncio.to_thread(last_event, settings, int(partition))
        assert event == CancelRequested(task_id, Lane(lane), int(offset))
        async with asyncio.timeout(PATIENCE):
            while (message := await subscription.get_message(timeout=10)) is None or (
                message["data"] != task_id
            ):
                pass


# --- dead letters


async def test_dead_letters_are_found_by_type_failure_and_time(
    read_model: ReadModel, settings: Settings
) -> None:
    kind, other = f"f-{settings.queue}", f"g-{settings.queue}"
    tasks = [task(settings, kind), task(settings, kind), task(settings, other)]
    for number, one in enumerate(tasks):
        failure = FailureType.TIMEOUT if number else FailureType.ERROR
        await fail(read_model, one, at=1000 + number, failure=failure)
    first, second, third = (one.task_id for one in tasks)

    async def listed(**filters: object) -> list[str]:
        records, _ = await read_model.dead_letters(**filters)  # type: ignore[arg-type]
        found = [record["taskId"] for record in records]
        assert await read_model.dead_letter_ids(**filters) == found[::-1]  # type: ignore[arg-type]
        return found

    assert await listed(task_type=kind) == [second, first]
    assert await listed(task_type=kind, error_type="Function.Timeout") == [second]
    assert await listed(task_type=kind, since=1001) == [second]
    assert await listed(task_type=kind, until=1001) == [first]
    assert await listed(task_type=other, since=1002, until=1003) == [third]
    assert await listed(since=1000, until=1003) == [third, second, first]
    page, cursor = await read_model.dead_letters(since=1000, until=1003, limit=2)
    rest, _ = await read_model.dead_letters(since=1000, until=1003, cursor=cursor, limit=2)
    assert [record["taskId"] for record in page + rest] == [third, second, first]
    assert await read_model.has_dead_letter(first)
    await read_model.forget_dead_letter(first)
    assert not await read_model.has_dead_letter(first)
    assert await listed(task_type=kind) == [second]


async def test_a_redriven_letter_runs_once_and_is_purged_from_the_topic(
    start_gateway: StartGateway,
    settings: Settings,
    function: Function,
    read_model: ReadModel,
    log: kafka.Log,
) -> None:
    async with start_gateway().client() as http:
        await until(http, "/readyz", 200)
        body = {"taskType": function.name, "payload": {"width": 3}}
        task_id = (await http.post("/tasks", json=body)).json()["taskId"]
        await log.append(kafka.DEAD_LETTER_TOPIC, b"{}", key=task_id)
        outcome = Outcome(1, 2, failure=Failure(FailureType.ERROR, "it broke"))
        change = finished(Finished(task_id, 5, 1, outcome), partition=3, offset=6)
        await read_model.project([], [change])
        letters = (await http.get(f"/dead-letters?taskType={function.name}")).json()["tasks"]
        assert [one["taskId"] for one in letters] == [task_id]
        answers = [await http.post("/dead-letters/redrive", json={"taskIds": [task_id]}) for _ in range(2)]
        new_id = keyed_id("redrive", task_id)
        for answer in answers:
            assert answer.json() == {
                "redriven": [{"taskId": task_id, "newTaskId": new_id}],
                "failed": [],
                "remaining": 0,
            }
        assert (await http.get(f"/dead-letters?taskType={function.name}")).json()["tasks"] == []
        assert (await http.get(f"/tasks/{new_id}")).json()["rerunOf"] == task_id
    assert set(commands(settings, Lane.NORMAL, 2)) == {task_id, new_id}
    assert (await asyncio.to_thread(letters_of, settings, task_id)) == [b"{}", None]


def letters_of(settings: Settings, task_id: str) -> list[bytes | None]:
    """The values under that key, up to the one that takes it away."""
    consumer = Consumer({"bootstrap.servers": settings.kafka, "group.id": "reader"})
    consumer.assign([TopicPartition(kafka.DEAD_LETTER_TOPIC, 0, 0)])
    found: list[bytes | None] = []
    deadline = time.monotonic() + PATIENCE
    while None not in found:
        assert time.monotonic() < deadline
        message = consumer.poll(0.2)
        if message is not None and message.key() == task_id.encode():
            value = message.value()
            found.append(value if isinstance(value, bytes) else None)
    consumer.close()
    return found


# --- streams


async def test_a_stream_tells_what_is_projected_and_logged_as_it_happens(
    start_gateway: StartGateway, settings: Settings, read_model: ReadModel, redis: Redis
) -> None:
    one = task(settings)
    await read_model.queued(one)
    async with start_gateway().client() as http:
        await until(http, "/readyz", 200)
        async with http.stream("GET", f"/tasks/{one.task_id}/events") as answer:
            assert answer.status_code == 200
            events = read_events(answer)
            assert (await anext(events))[1]["status"] == "QUEUED"
            await begin(read_model, one, fence=5)
            assert (await anext(events))[1]["status"] == "IN_PROGRESS"
            place = await redis.xadd(log_key(one.task_id), {"fence": "5", "text": "hello\nworld\n"})
            await tell(redis, one.task_id)
            assert await anext(events) == ("log", {"text": "hello\nworld\n"}, place)
            assert (await http.get(f"/tasks/{one.task_id}/logs")).text == "hello\nworld\n"
            await read_model.progress(one.task_id, 5, 0.5, "half")
            await tell(redis, one.task_id)
            name, shown, _ = await anext(events)
            assert (name, shown["progress"]) == ("status", {"fraction": 0.5, "message": "half"})
            await finish(read_model, settings, one.task_id, size=1)
            assert (await anext(events))[1]["status"] == "COMPLETED"
            assert await anext(events, None) is None
        after = {"last-event-id": place}
        again = await http.get(f"/tasks/{one.task_id}/events", headers=after)
        assert "hello" not in again.text
        assert again.text.count("event: status") == 1


async def test_a_stream_that_is_open_does_not_hold_up_a_gateway_that_stops(
    start_gateway: StartGateway, settings: Settings, read_model: ReadModel
) -> None:
    task_id, process = new_task_id(), start_gateway()
    await queue(read_model, settings, task_id)
    async with process.client() as http:
        await until(http, "/readyz", 200)
        async with http.stream("GET", f"/tasks/{task_id}/events") as answer:
            events = read_events(answer)
            assert (await anext(events))[0] == "status"
            assert await asyncio.to_thread(process.end) == 0
            assert await anext(events, None) is None
    assert "Traceback" not in process.errors


async def test_the_log_is_read_in_pieces_and_from_any_place(read_model: ReadModel, redis: Redis) -> None:
    task_id = new_task_id()
    assert await read_model.log_chunks(task_id) == []
    places = [
        await redis.xadd(log_key(task_id), {"fence": "5", "text": f"{number}\n"}) for number in range(7)
    ]
    found = await read_model.log_chunks(task_id, count=3)
    assert [(one.id, one.fence, one.text) for one in found] == [
        (place, 5, f"{number}\n") for number, place in enumerate(places[:3])
    ]
    rest = await read_model.log_chunks(task_id, found[-1].id, 100)
    assert [one.text for one in rest] == ["3\n", "4\n", "5\n", "6\n"]
    await redis.delete(log_key(task_id))


async def tell(redis: Redis, task_id: str) -> None:
    await redis.publish("mayfly:changes", json.dumps({"taskId": task_id, "status": "IN_PROGRESS"}))


async def read_events(answer: httpx.Response) -> AsyncIterator[tuple[str, dict[str, object], str]]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line and "data" in fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id", "")
        if not line:
            fields = {}
            continue
        name, _, value = line.partition(": ")
        fields[name] = value
