"""The audit on real parts: tasks as the services would have left them, then damage of every part's own."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from cli_command import MAYFLY
from pydantic import SecretStr
from redis.asyncio import Redis

from mayfly.adapters.kafka import (
    DEAD_LETTER_TOPIC,
    Log,
    deferred_topic,
    ensure_topics,
    events_topic,
    lane_topic,
)
from mayfly.adapters.redis import ReadModel, task_key
from mayfly.adapters.s3 import Blobs
from mayfly.audit.__main__ import audit
from mayfly.audit.ledger import Ledger
from mayfly.audit.log import LogReader
from mayfly.audit.report import Kind, Report
from mayfly.events import Claimed, DeadLetter, DeferredRecord, Event, Finished, Reason
from mayfly.retention import FOR_EVER
from mayfly.settings import Settings
from mayfly.task import (
    Envelope,
    Failure,
    FailureType,
    Lane,
    Outcome,
    Result,
    Status,
    encode,
    new_task_id,
)
from mayfly.view import claimed, finished, queued
from tests.conftest import LiveStack

AT = 1_795_524_976_123
BROKEN = Outcome(AT, AT + 1, failure=Failure(FailureType.ERROR, "no"))


@dataclass
class World:
    settings: Settings
    environment: dict[str, str]
    log: Log
    model: ReadModel
    blobs: Blobs
    redis: Any

    async def accept(self, tenant: str = "default") -> tuple[str, int, int]:
        """The task's id, and its command's partition and offset."""
        envelope = Envelope("echo", new_task_id(), tenant=tenant)
        topic = lane_topic(self.settings.queue, Lane.NORMAL)
        at = await self.log.append(topic, encode(envelope), key=envelope.task_id)
        await self.model.queued(
            queued(
                envelope,
                queue=self.settings.queue,
                lane=Lane.NORMAL,
                partition=at.partition,
                offset=at.offset,
                at=at.timestamp,
            )
        )
        return envelope.task_id, at.partition, at.offset

    async def append(self, event: Event, partition: int) -> int:
        topic = events_topic(self.settings.queue)
        return (await self.log.append(topic, encode(event), key=event.task_id, partition=partition)).offset

    async def claim(self, task_id: str, partition: int, offset: int) -> int:
        event = Claimed(task_id, Lane.NORMAL, offset, 1, "d", "n")
        fence = await self.append(event, partition)
        await self.claimed(task_id, partition, offset, fence)
        return fence

    async def claimed(self, task_id: str, partition: int, offset: int, fence: int) -> None:
        """Redis follows."""
        event = Claimed(task_id, Lane.NORMAL, offset, 1, "d", "n")
        change = claimed(event, partition=partition, offset=fence, at=AT)
        await self.model.project([], [change])

    async def end(
        self, outcome: Outcome | None = None, *, dead_letter: bool = True, tenant: str = "default"
    ) -> tuple[str, int, int]:
        """A task from its command to its outcome: its id, its partition and its fence."""
        task_id, partition, offset = await self.accept(tenant)
        fence = await self.claim(task_id, partition, offset)
        if outcome is None:
            blob = await self.blobs.put(f"results/{task_id}/1-{fence}", b'"done"', "application/json")
            outcome = Outcome(AT, AT + 1, Result(blob))
        event = Finished(task_id, fence, 1, outcome)
        at = await self.append(event, partition)
        change = finished(event, partition=partition, offset=at)
        await self.model.project([], [change])
        if outcome.failure and dead_letter:
            letter = DeadLetter(task_id, self.settings.queue, Envelope("echo", task_id), outcome.failure, AT)
            await self.log.append(DEAD_LETTER_TOPIC, encode(letter), key=task_id)
        return task_id, partition, fence

    async def audit(self, *, settle: float = 0.0, **changes: Any) -> Report:
        """Of this queue, with other settings where they are given."""
        # Its tasks ended when they were told to: none is to be taken for swept.
        kept = {"retention_days": 0.0, "dead_letter_retention_days": 0.0, **changes}
        return await audit(self.settings.model_copy(update=kept), only=self.settings.queue, settle=settle)

    def command(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*MAYFLY, "audit", "--queue", self.settings.queue, *arguments],
            env={**self.environment, "MAYFLY_RETENTION_DAYS": "0", **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def delete(self, key: str) -> None:
        self.blobs._admin().delete_object(Bucket=self.settings.s3_bucket, Key=key)

    async def set_status(self, task_id: str, status: Status) -> None:
        await self.redis.hset(task_key(task_id), "status", status.value)


@pytest.fixture
async def world(settings: Settings, stack_parts: LiveStack) -> AsyncIterator[World]:
    await ensure_topics(settings)
    others = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    log, model = Log(settings), ReadModel(settings)
    await log.start()
    async with Redis.from_url(settings.redis.get_secret_value(), decode_responses=True) as redis:
        yield World(settings, others | stack_parts.environment, log, model, Blobs(settings), redis)
    await log.close()
    await model.close()


async def test_a_queue_in_order_is_clean_and_counted(world: World) -> None:
    await world.accept()
    await world.claim(*await world.accept())
    for _ in range(5):
        await world.end()
    await world.end(BROKEN)
    report = await world.audit(settle=5)
    assert report.clean, report
    (queue,) = report.queues
    assert (queue.accepted, queue.waiting, queue.running) == (8, 1, 1)
    assert (queue.completed, queue.failed, queue.attempts) == (5, 1, 7)
    assert (report.hashes, report.results, report.result_bytes) == (8, 5, 30)


async def test_each_damage_is_found_and_named(world: World) -> None:
    tasks = [await world.end() for _ in range(8)]
    ids = [task_id for task_id, _, _ in tasks]
    keys = [f"results/{task_id}/1-{fence}" for task_id, _, fence in tasks]
    failed, *_ = await world.end(BROKEN)
    world.delete(keys[0])
    await world.blobs.put(keys[1], b'"DONE"', "application/json")
    await world.set_status(ids[2], Status.FAILED)
    await world.set_status(ids[3], Status.IN_PROGRESS)
    await world.redis.delete(task_key(ids[4]))
    await world.append(Finished(ids[5], tasks[5][2], 1, BROKEN), tasks[5][1])
    record = DeferredRecord(Envelope("echo", ids[6]), tasks[6][2], 1, Reason.RETRY)
    topic = deferred_topic(world.settings.queue)
    await world.log.append(topic, encode(record), key="k", partition=tasks[6][1])
    made_up, forged = new_task_id(), new_task_id()
    copied = await world.redis.hgetall(task_key(ids[7]))
    await world.redis.hset(task_key(made_up), mapping=copied)
    await world.append(Claimed(forged, Lane.NORMAL, 0, 1, "d", "n"), 0)
    report = await world.audit()
    assert {off.task_id: off.kind for off in report.findings} == {
        ids[0]: Kind.RESULT_GONE,
        ids[1]: Kind.RESULT_DIFFERENT,
        ids[2]: Kind.DIFFERENT,
        ids[3]: Kind.BEHIND,
        ids[4]: Kind.MISSING,
        ids[5]: Kind.CONTRADICTED,
        ids[6]: Kind.LEFT_RECORD,
        made_up: Kind.UNKNOWN,
        forged: Kind.UNACCEPTED,
    }
    assert failed not in {off.task_id for off in report.findings}


async def test_tenants_tasks_are_proved_like_any_and_one_under_another_tenant_is_found(world: World) -> None:
    ids = {}
    for tenant in ("default", "acme", "zeta"):
        waits, _, _ = await world.accept(tenant)
        await world.claim(*await world.accept(tenant))
        done, *_ = await world.end(tenant=tenant)
        failed, *_ = await world.end(BROKEN, tenant=tenant)
        ids[tenant] = (waits, done, failed)
    report = await world.audit(settle=5)
    assert report.clean, report
    assert report.queues[0].accepted == 12
    await world.redis.hset(task_key(ids["acme"][0]), "tenant", "zeta")
    await world.redis.hdel(task_key(ids["acme"][1]), "tenant")
    await world.redis.hset(task_key(ids["default"][2]), "tenant", "acme")
    report = await world.audit()
    assert {off.task_id: (off.kind, off.detail) for off in report.findings} == {
        ids["acme"][0]: (Kind.DIFFERENT, "tenant zeta there, acme in the log"),
        ids["acme"][1]: (Kind.DIFFERENT, "tenant default there, acme in the log"),
        ids["default"][2]: (Kind.DIFFERENT, "tenant acme there, default in the log"),
    }


async def test_a_dead_letter_that_was_never_written_is_missed_and_one_that_was_purged_is_not(
    world: World,
) -> None:
    purged, *_ = await world.end(BROKEN)
    await world.log.append(DEAD_LETTER_TOPIC, None, key=purged)  # type: ignore[arg-type]
    task_id, *_ = await world.end(BROKEN, dead_letter=False)
    report = await world.audit()
    assert [(off.kind, off.task_id) for off in report.findings] == [(Kind.NO_DEAD_LETTER, task_id)]


async def test_what_was_off_for_a_moment_is_not_if_there_is_time_to_settle(world: World) -> None:
    task_id, partition, offset = await world.accept()
    fence = await world.append(Claimed(task_id, Lane.NORMAL, offset, 1, "d", "n"), partition)
    before = await world.audit()
    assert before.found == {"behind": 1}, before
    auditing = asyncio.create_task(world.audit(settle=200))
    await asyncio.sleep(0)
    await world.claimed(task_id, partition, offset, fence)
    assert (await auditing).clean


async def test_a_part_that_does_not_answer_is_named_and_nothing_is_called_proved(world: World) -> None:
    await world.end()
    reports = await asyncio.gather(
        world.audit(kafka="127.0.0.1:1"),
        world.audit(redis=SecretStr("redis://127.0.0.1:1/0")),
        world.audit(s3_endpoint="http://127.0.0.1:1"),
    )
    for report, part in zip(reports, ("Kafka", "Redis", "S3"), strict=True):
        assert part in (report.trouble or "")
        assert not report.clean


async def test_the_command_shows_what_is_off_and_what_it_means(world: World) -> None:
    task_id, _, fence = await world.end()
    world.delete(f"results/{task_id}/1-{fence}")
    done = world.command()
    assert done.returncode == 1, done.stderr
    assert f"{world.settings.queue}\t1\t0\t0\t1\t0\t0\t1\t0" in done.stdout
    assert "result-gone\t1\tS3 does not have the result that the outcome names" in done.stdout
    assert task_id in done.stdout


async def test_the_command_says_as_json_that_all_is_well_or_which_part_does_not_answer(world: World) -> None:
    await world.end()
    done = world.command("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queues"][0]["completed"] == 1
    done = world.command("--json", MAYFLY_REDIS="redis://127.0.0.1:1/0")
    assert done.returncode == 2
    assert "Redis does not answer" in json.loads(done.stdout)["trouble"]


async def test_what_is_appended_while_the_log_is_read_is_met_by_the_next_reading(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {(await world.accept())[0] for _ in range(24)}
    reader, ledger = LogReader(world.settings, only=world.settings.queue), Ledger(FOR_EVER)
    whole, step = reader._ends, 0

    def ends() -> dict[tuple[str, int], int]:
        return {slot: min(end, step) for slot, end in whole().items()}

    monkeypatch.setattr(reader, "_ends", ends)
    met = await asyncio.to_thread(reader.read, ledger)
    for step in range(1, max(whole().values()) + 1):  # noqa: B007 - `ends` reads it
        # The broker sends all that there is, and says that the end was come to.
        met |= await asyncio.to_thread(reader.read, ledger)
    # The dead letters are everybody's.
    assert met >= tasks
