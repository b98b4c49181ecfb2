"""Limits over two gateways, on the real Redis."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
from gateway_process import PATIENCE, StartGateway, until
from redis.asyncio import Redis

from gateway.limits.bucket import filled
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.redis_limits import Counts
from mayfly.function import Function
from mayfly.identity.keys import new_credential
from mayfly.identity.usage import Count, Draw, Tally, Told
from mayfly.settings import Settings
from mayfly.task import Lane, new_task_id
from mayfly.view import QueuedTask

ADMIN = new_credential()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    async with Redis.from_url(settings.redis.get_secret_value(), decode_responses=True) as redis:
        yield redis


@pytest.fixture
async def gateways(settings: Settings) -> AsyncIterator[tuple[Counts, Counts]]:
    found = Counts(settings), Counts(settings)
    yield found
    for one in found:
        await one.close()


async def test_what_gateways_take_is_taken_from_one_bucket(
    gateways: tuple[Counts, Counts], redis: Redis
) -> None:
    name, rate, size = f"key:{uuid.uuid4().hex}", 0.001, 10.0
    began = time.monotonic()
    left = [
        (await one.exchange(Told(draws=(Draw(name, rate, size, spent),)))).tokens[name]
        for one, spent in ((gateways[0], 3), (gateways[1], 4), (gateways[0], 5), (gateways[1], 0))
    ]
    most = filled(0, time.monotonic() - began, rate, size) + 0.001
    for seen, wanted in zip(left, (7, 3, -2, -2), strict=True):
        assert wanted - 1e-5 <= seen <= wanted + most
    assert 0 < await redis.ttl(f"mayfly:limit:rate:{name}") <= 86_400
    await redis.delete(f"mayfly:limit:rate:{name}")
    heard = await gateways[0].exchange(Told(draws=(Draw(name, rate, size, 1),)))
    assert heard.tokens[name] == 9


async def test_bytes_of_a_day_are_the_sum_of_what_each_has_told(gateways: tuple[Counts, Counts]) -> None:
    name = f"key:{uuid.uuid4().hex}"
    sums = [
        (await one.exchange(Told(tallies=(Tally(name, day, own),)))).bytes[name]
        for one, day, own in (
            (gateways[0], 9, 2**40),
            (gateways[1], 9, 7),
            (gateways[1], 9, 7),
            (gateways[0], 9, 2**41),
            (gateways[0], 10, 1),
        )
    ]
    assert sums == [2**40, 2**40 + 7, 2**40 + 7, 2**41 + 7, 1]


async def test_tasks_are_counted_by_tenant_and_over_all(
    gateways: tuple[Counts, Counts], settings: Settings, redis: Redis
) -> None:
    tenants = [f"t-{uuid.uuid4().hex[:12]}" for _ in range(2)]
    read_model = ReadModel(settings)
    before = (await gateways[0].exchange(Told(everybody=True))).waiting
    for tenant, count in zip(tenants, (3, 2), strict=True):
        for _ in range(count):
            await read_model.queued(
                QueuedTask(
                    task_id=new_task_id(),
                    task_type="f",
                    queue=settings.queue,
                    priority=Lane.NORMAL,
                    partition=0,
                    offset=0,
                    created_at=1,
                    payload_bytes=4,
                    content_type="application/json",
                    tenant=tenant,
                )
            )
    await read_model.close()
    await redis.zadd(f"mayfly:tasks@{tenants[0]}:status:IN_PROGRESS", {"a": 1, "b": 2})
    heard = await gateways[0].exchange(Told(tenants=tuple(tenants), everybody=True))
    assert heard.tasks == {tenants[0]: Count(3, 2), tenants[1]: Count(2, 0)}
    assert before is not None
    assert heard.waiting is not None
    assert heard.waiting >= before + 5
    assert (await gateways[0].exchange(Told(tenants=("default",)))).waiting is None


async def test_a_limit_holds_over_two_gateways(
    start_gateway: StartGateway, settings: Settings, function: Function
) -> None:
    variables = {"MAYFLY_AUTH": "true", "MAYFLY_ADMIN_KEY": str(ADMIN)}
    processes = [start_gateway(**variables) for _ in range(2)]
    admin = {"authorization": f"Bearer {ADMIN}"}
    tenant = f"t-{uuid.uuid4().hex[:12]}"
    async with processes[0].client() as first, processes[1].client() as second:
        for http in (first, second):
            await until(http, "/readyz", 200)
        wanted = {"waitingTasks": 4, "requestsPerSecond": 1000}
        assert (await first.put(f"/tenants/{tenant}", json=wanted, headers=admin)).status_code == 200
        body = {"scopes": ["submit"], "tenant": tenant}
        key = (await first.post("/keys", json=body, headers=admin)).json()["key"]
        headers = {"authorization": f"Bearer {key}"}
        await known(second, headers)
        task = {"taskType": function.name, "payload": {}}
        for _ in range(2):
            for http in (first, second):
                answer = await eventually(202, http, task, headers)
                assert answer.headers["ratelimit-limit"] == "4"
        for http in (first, second):
            refused = await eventually(429, http, task, headers)
            assert refused.json()["limit"] == "waitingTasks"
            assert int(refused.headers["retry-after"]) >= 1
            assert (await http.get("/healthz")).status_code == 200


async def known(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """Once the other gateway has read of the key, and of its tenant before it, it says more than 401."""
    deadline = time.monotonic() + PATIENCE
    while (await http.get("/tasks", headers=headers)).status_code == 401:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def eventually(
    status: int, http: httpx.AsyncClient, task: dict[str, object], headers: dict[str, str]
) -> httpx.Response:
    """Once the counts were exchanged."""
    deadline = time.monotonic() + PATIENCE
    while (answer := await http.post("/tasks", json=task, headers=headers)).status_code != status:
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.1)
    return answer
