"""The audit log on a real Kafka: written by several, read in pieces, and a copy that was touched is found."""

import asyncio
import json
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import pytest
from cli_command import MAYFLY
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from mayfly.adapters import kafka_trail
from mayfly.adapters.kafka import Log, client_config, ensure_topics
from mayfly.adapters.kafka_trail import TrailTopic
from mayfly.audit.trail import verify
from mayfly.identity import chain
from mayfly.identity.chain import Entry, Link
from mayfly.identity.trail import Trail
from mayfly.settings import Settings
from tests.conftest import LiveStack


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[Log]:
    await ensure_topics(settings)
    started = Log(settings)
    await started.start()
    yield started
    await started.close()


@pytest.fixture
async def topic(settings: Settings, log: Log) -> AsyncIterator[TrailTopic]:
    made = TrailTopic(settings, log)
    yield made
    await made.close()


async def test_what_several_wrote_is_read_back_in_pieces_and_is_whole(
    settings: Settings, topic: TrailTopic
) -> None:
    before = (await topic.bounds()).end
    writers = [Trail(topic) for _ in range(3)]
    await asyncio.gather(*(writers[number % 3].write(Entry("a", str(number))) for number in range(60)))
    bounds = await topic.bounds()
    assert bounds.end == before + 60
    placed = []
    for start in range(before, bounds.end, 7):
        placed += await topic.read(start, min(start + 7, bounds.end))
    assert [one.offset for one in placed] == list(range(before, bounds.end))
    records = [record for one in placed if (record := chain.read(one.value)) is not None]
    assert {int(record.target) for record in records} == set(range(60))
    last = placed[-1]
    assert await topic.last() == chain.link(last.offset, last.value)
    report = await verify(settings)
    assert (report.found, report.trouble) == (0, None), report
    assert report.records >= 60
    place, _, digest = report.head.partition(":")
    assert (await verify(settings, Link(int(place), digest))).found == 0
    assert (await verify(settings, Link(int(place), "0" * 64))).found == 1


async def test_records_are_found_by_the_time_when_they_were_appended(topic: TrailTopic) -> None:
    writer = Trail(topic)
    await writer.write(Entry("before"))
    [before] = await topic.read((await topic.bounds()).end - 1, (await topic.bounds()).end)
    while time.time_ns() // 1_000_000 <= before.timestamp:
        await asyncio.sleep(0.001)
    await writer.write(Entry("after"))
    bounds = await topic.bounds(since=before.timestamp + 1)
    assert bounds.start == before.offset + 1
    assert (await topic.bounds(until=before.timestamp + 1)).end == before.offset + 1
    future = int(time.time() * 1000) + 3_600_000
    ahead = await topic.bounds(since=future)
    assert ahead.start == ahead.end == (await topic.bounds(until=future)).end


async def test_a_chain_begins_at_what_another_one_left(topic: TrailTopic) -> None:
    await Trail(topic).write(Entry("first"))
    seen = await topic.last()
    await Trail(topic).write(Entry("second"))
    [placed] = await topic.read(seen.place + 1, seen.place + 2)
    record = chain.read(placed.value)
    assert record is not None
    assert (record.number, record.after, record.hash) == (0, seen.place, seen.sha256)


async def copied(settings: Settings, log: Log, values: Sequence[bytes | None]) -> str:
    """A topic of that name has these."""
    name = f"copy-{uuid.uuid4().hex}"
    admin = AdminClient(client_config(settings))
    await asyncio.to_thread(admin.create_topics([NewTopic(name, 1)])[name].result, 30)
    for value in values:
        await log.append(name, value, partition=0)
    return name


async def test_a_copy_that_was_touched_is_found_and_where(
    settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: list[bytes] = []

    class Placed(NamedTuple):
        offset: int

    class Memory:
        async def append(self, value: bytes) -> Placed:
            values.append(value)
            return Placed(len(values) - 1)

        async def last(self) -> Link:
            return chain.link(len(values) - 1, values[-1]) if values else chain.BEGINNING

    writers = [Trail(Memory()) for _ in range(2)]
    for number in range(10):
        await writers[number % 2].write(Entry("key.create", str(number), "user:ana"))
    touched: dict[str, tuple[list[bytes], int | None]] = {
        "as it was": (values, None),
        "changed": ([*values[:4], values[4].replace(b"ana", b"bob"), *values[5:]], 4),
        "removed": ([*values[:4], *values[5:]], 5),
        "moved": ([*values[:4], values[6], values[5], values[4], *values[7:]], 4),
        "put in": ([*values[:4], values[0], *values[4:]], 4),
    }
    for what, (copy, place) in touched.items():
        monkeypatch.setattr(kafka_trail, "AUDIT_TOPIC", await copied(settings, log, copy))
        report = await verify(settings)
        assert report.trouble is None
        assert report.records == len(copy)
        assert [one.place for one in report.findings][:1] == ([] if place is None else [place]), what


async def test_the_command_proves_it(stack_parts: LiveStack, topic: TrailTopic) -> None:
    await Trail(topic).write(Entry("a"))
    command = [*MAYFLY, "audit-log", "verify", "--json", "--dir", str(stack_parts.directory)]
    done = await asyncio.to_thread(subprocess.run, command, stdout=subprocess.PIPE, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["found"]) == (0, 0), report
    assert report["records"] > 0


async def test_without_kafka_nothing_is_proved(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_trail, "READ_SECONDS", 0.5)
    report = await verify(settings.model_copy(update={"kafka": "127.0.0.1:9"}))
    assert report.trouble
    assert report.records == 0
