"""What is promised of a task's life in seconds: releases, cancels, recovery, a rebuild, and floods."""

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx
import msgspec
import redis

from benchmarks.stage import PATIENCE, Report, Stack, until
from mayfly.adapters.kafka import Log, lane_topic
from mayfly.client import Client
from mayfly.placement import partition_of
from mayfly.settings import Settings
from mayfly.stack import environment
from mayfly.stack.stack import settings_of
from mayfly.task import Envelope, Lane, Status, encode, new_task_id

STATUSES: Final = 10_000
FLOOD: Final = 100_000


def measure(stack: Stack, client: Client, report: Report) -> None:
    settings = settings_of(environment(stack.directory))
    releases(client, report)
    cancels(client, report)
    gateway(stack, client, report)
    rebuild(client, settings, report)
    flood(client, settings, report)


def releases(client: Client, report: Report) -> None:
    late = []
    for number in range(5):
        task = client.wait(client.submit("echo", number, delay=1.5).task_id, timeout=PATIENCE)
        assert task.started_at is not None
        assert task.run_at is not None
        late.append((task.started_at - task.run_at).total_seconds())
    report.seconds("a delayed task runs after it is due: worst of 5", max(late), at_most=1)


def cancels(client: Client, report: Report) -> None:
    scheduled = client.submit("echo", 1, delay=3600).task_id
    began = time.monotonic()
    client.cancel(scheduled)
    assert client.wait(scheduled, timeout=PATIENCE).status is Status.CANCELLED
    report.seconds("a scheduled task is CANCELLED after the request", time.monotonic() - began, at_most=1)
    running = client.submit("accept-nap", 600).task_id
    until(lambda: client.get(running).status is Status.IN_PROGRESS, "it runs")
    began = time.monotonic()
    client.cancel(running)
    assert client.wait(running, timeout=PATIENCE).status is Status.CANCELLED
    report.seconds("a running task is CANCELLED after the request", time.monotonic() - began, at_most=4)


def gateway(stack: Stack, client: Client, report: Report) -> None:
    os.kill(stack.part(client.url), signal.SIGKILL)
    began = time.monotonic()
    with httpx.Client(base_url=client.url, trust_env=False, timeout=5) as http:

        def answers() -> bool:
            try:
                return http.get("/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        until(answers, "the gateway is back")
    report.seconds("a gateway that was killed by -9 is ready again", time.monotonic() - began, at_most=3)


def rebuild(client: Client, settings: Settings, report: Report) -> None:
    """Statuses of two kinds, made without a container each: scheduled, and cancelled."""

    def make(number: int) -> str:
        task_id = client.submit("echo", number, delay=7200, idempotent=False).task_id
        if number % 2:
            client.cancel(task_id)
        return task_id

    with ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(make, range(STATUSES)))
    database = redis.Redis.from_url(settings.redis.get_secret_value(), decode_responses=True)

    def hashes() -> dict[str, dict[str, str]]:
        pipeline = database.pipeline(transaction=False)
        for task_id in ids:
            pipeline.hgetall(f"mayfly:task:{task_id}")
        return dict(zip(ids, pipeline.execute(), strict=True))

    def settled() -> bool:
        cancelled = sum(one.get("status") == "CANCELLED" for one in hashes().values())
        waiting = sum("dueAt" in one for one in hashes().values() if one.get("status") == "SCHEDULED")
        return (cancelled, waiting) == (STATUSES // 2, STATUSES // 2)

    until(settled, "every task has come to its status")
    before = hashes()
    database.flushall()
    began = time.monotonic()
    until(lambda: client.rebuild_state().complete, "the read model is there again")
    seconds = time.monotonic() - began
    same = sum(before[task_id] == found for task_id, found in hashes().items())
    report.seconds(f"{STATUSES:,} statuses are rebuilt after a FLUSHALL", seconds, at_most=10)
    report.add("hashes that are as they were before", f"{STATUSES:,}", f"{same:,}", same == STATUSES)
    database.close()


def flood(client: Client, settings: Settings, report: Report) -> None:
    """Tasks of a function that runs one at a time, and then one of another function behind them all."""
    seconds = asyncio.run(_flood(settings))
    report.add(f"{FLOOD:,} tasks of a function with concurrency = 1 appended", "", f"{seconds:.1f} s")
    other = client.submit("echo", "behind", idempotent=False).task_id
    report.seconds(
        "a task behind them, in any partition, runs after its POST",
        _start(client, other),
        at_most=2,
    )
    partition = partition_of(
        Envelope(task_type="accept-single", task_id=new_task_id()), 1, settings.partitions
    )
    behind = asyncio.run(_append_echo(settings, partition))
    began = time.monotonic()
    report.add("one in their own partition, right behind them", "", f"{_start(client, behind, began):.2f} s")
    again = asyncio.run(_append_echo(settings, partition))
    report.seconds(
        "one in their own partition, once they wait for their turn",
        _start(client, again, time.monotonic()),
        at_most=2,
    )


def _start(client: Client, task_id: str, began: float | None = None) -> float:
    began = time.monotonic() if began is None else began

    def ended() -> bool:
        try:
            return client.get(task_id).ended
        except Exception:  # noqa: BLE001 - what was appended by hand is unknown until it was read
            return False

    until(ended, "it has run")
    return time.monotonic() - began


async def _flood(settings: Settings) -> float:
    log = Log(settings)
    await log.start()
    began = time.monotonic()
    at_once = asyncio.Semaphore(2000)

    async def one() -> None:
        async with at_once:
            envelope = Envelope(
                task_type="accept-single", task_id=new_task_id(), payload=msgspec.Raw(b"0.01")
            )
            partition = partition_of(envelope, 1, settings.partitions)
            topic = lane_topic(settings.queue, Lane.NORMAL)
            await log.append(topic, encode(envelope), key=envelope.task_id, partition=partition)

    await asyncio.gather(*(one() for _ in range(FLOOD)))
    seconds = time.monotonic() - began
    await log.close()
    return seconds


def _single() -> Envelope:
    return Envelope(task_type="accept-single", task_id=new_task_id(), payload=msgspec.Raw(b"0.01"))


async def _append_echo(settings: Settings, partition: int) -> str:
    log = Log(settings)
    await log.start()
    envelope = Envelope(task_type="echo", task_id=new_task_id(), payload=msgspec.Raw(b"1"))
    topic = lane_topic(settings.queue, Lane.NORMAL)
    await log.append(topic, encode(envelope), key=envelope.task_id, partition=partition)
    await log.close()
    return envelope.task_id
