"""The log of a queue that begins: a broker names itself a partition's leader before it takes records for it.

What comes in between it refuses, and librdkafka sends it again. Where a later request is taken first, by a
partition that knows nothing of the producer yet, the earlier ones are refused for good, and told as if they
were there.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import KafkaError, KafkaException

from mayfly.adapters import kafka
from mayfly.adapters.kafka import Log, ensure_topics, lane_topic, replay
from mayfly.errors import LogUnavailable
from mayfly.settings import Settings
from mayfly.task import Lane

QUEUES = 6
RECORDS = 50


async def begin(settings: Settings, log: Log) -> tuple[set[bytes], set[bytes]]:
    """What was acknowledged of what comes for a new queue at once, and what is there."""
    own = settings.model_copy(update={"queue": f"begins-{uuid.uuid4().hex[:8]}"})
    topic = lane_topic(own.queue, Lane.NORMAL)
    acknowledged = set()

    async def append(record: bytes) -> None:
        # Each makes the topics, as each process does that finds them missing.
        await ensure_topics(own)
        try:
            await log.append(topic, record, key=record.decode())
        except LogUnavailable:
            return
        acknowledged.add(record)

    await asyncio.gather(*(append(b"%d" % number) for number in range(RECORDS)))
    places = [(topic, number) for number in range(own.partitions)]
    there = {entry.value async for batch in replay(own, places) for entry in batch}
    return acknowledged, there


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[Log]:
    started = Log(settings)
    await started.start()
    yield started
    await started.close()


async def test_what_is_acknowledged_is_there_although_no_partition_was_waited_for(
    settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "offsets", lambda *_, **__: {})
    for _ in range(QUEUES):
        acknowledged, there = await begin(settings, log)
        assert acknowledged <= there


async def test_a_partition_that_nobody_serves_holds_up_none_of_the_others(
    settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offsets(*_: object, **__: object) -> None:
        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))

    monkeypatch.setattr(kafka, "offsets", offsets)
    await ensure_topics(settings)
    await log.append(lane_topic(settings.queue, Lane.NORMAL), b"1", key="1")


async def test_once_the_topics_are_made_every_record_is_taken(settings: Settings, log: Log) -> None:
    acknowledged, there = await begin(settings, log)
    assert len(acknowledged) == RECORDS
    assert acknowledged == there
