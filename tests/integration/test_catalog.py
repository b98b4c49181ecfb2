"""The catalog on a real Kafka: what somebody accepted a task for is never unknown to who runs it."""

import uuid
from collections.abc import AsyncIterator

import pytest

from mayfly.adapters.kafka import FUNCTIONS_TOPIC, Log, ensure_topics
from mayfly.adapters.kafka_catalog import Catalog, publish
from mayfly.function import Function
from mayfly.settings import Settings


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[Log]:
    await ensure_topics(settings)
    started = Log(settings)
    await started.start()
    yield started
    await started.close()


@pytest.fixture
async def catalog(log: Log, settings: Settings) -> AsyncIterator[Catalog]:
    started = Catalog(settings)
    await started.start()
    yield started
    await started.close()


def function(version: str) -> Function:
    return Function(f"f{uuid.uuid4().hex[:8]}", f"image:{version}", version)


async def test_a_function_is_found_as_soon_as_its_entry_is_acknowledged(log: Log, catalog: Catalog) -> None:
    for number in range(20):
        one = function(str(number))
        await publish(log, one)
        assert await catalog.find(one.name, 0) == one


async def test_a_task_that_was_accepted_for_a_new_version_does_not_run_on_the_old_one(
    log: Log, catalog: Catalog, settings: Settings
) -> None:
    old = function("old")
    await publish(log, old)
    assert await catalog.find(old.name, 0) == old
    new = Function(old.name, "image:new", "new")
    await publish(log, new)
    accepting = Catalog(settings)
    await accepting.start()
    assert accepting.get(old.name) == new
    assert await catalog.find(old.name, accepting.revision) == new
    await accepting.close()


async def test_a_function_that_nobody_deployed_is_none_after_a_look_at_the_topics_end(
    catalog: Catalog,
) -> None:
    assert await catalog.find("never-deployed", 10**12) is None


async def test_an_entry_that_is_none_changes_nothing_but_how_far_the_topic_was_read(
    log: Log, catalog: Catalog
) -> None:
    one = function("1")
    await publish(log, one)
    await log.append(FUNCTIONS_TOPIC, b"garbage", key=one.name)
    assert await catalog.find(one.name, 10**12) == one
