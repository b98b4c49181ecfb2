"""What a partition has appended: tried until it is acknowledged, and no longer than the partition is ours."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from owner_world import owner

from dispatcher import claims
from dispatcher.errands import ErrandRunner
from dispatcher.partition import Partition
from mayfly.errors import LogUnavailable
from mayfly.events import DeadLetter, DeferredRecord, Reason, decode_dead_letter, decode_record
from mayfly.task import Envelope, Failure, FailureType, Lane, decode_envelope
from mayfly.webhooks.notice import Notice, decode_notice

RECORD = DeferredRecord(Envelope("f", "a"), 7, 1, Reason.RETRY)
LETTER = DeadLetter("a", "q", Envelope("f", "a"), Failure(FailureType.ERROR, "no"), 0)
NOTICE = Notice("msg_a_7", "a", "default", "https://example.com/", msgspec.Raw(b'{"taskId":"a"}'))
DEADLINE_SECONDS = 30.0


class Topics:
    """Takes what is appended, after as many failures as a test wants."""

    def __init__(self) -> None:
        self.appended: list[tuple[Any, ...]] = []
        self.fails = 0
        self.tried = 0

    async def _append(self, *what: Any) -> None:
        self.tried += 1
        self.appended.append(what)
        if self.tried <= self.fails:
            raise LogUnavailable("it is there all the same")

    async def append_record(self, partition: int, key: str, value: bytes | None) -> None:
        await self._append(key, value)

    async def append_command(self, partition: int, lane: Lane, task_id: str, value: bytes) -> None:
        await self._append(lane, task_id, value)

    async def append_dead_letter(self, task_id: str, value: bytes) -> None:
        await self._append(task_id, value)

    async def append_notice(self, task_id: str, value: bytes) -> None:
        await self._append(task_id, value)


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> Topics:
    monkeypatch.setattr(claims, "BACKOFF_SECONDS", (0.0,))
    return Topics()


@pytest.fixture
async def errands(topics: Topics) -> AsyncIterator[ErrandRunner]:
    runner = ErrandRunner(topics)
    yield runner
    await runner.close()


@pytest.fixture
def partition() -> Partition:
    return owner()


async def all_run(errands: ErrandRunner) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while errands._running:
            await asyncio.sleep(0)


async def test_a_record_has_a_fresh_key_for_each_try(
    topics: Topics, errands: ErrandRunner, partition: Partition
) -> None:
    """A late copy under a key that was used would take the place of the record that is vouched for."""
    topics.fails = 2
    errands.keep(partition, RECORD)
    await all_run(errands)
    keys = [key for key, _ in topics.appended]
    assert len(set(keys)) == 3
    assert all(key.startswith("a/7/") for key in keys)
    assert [decode_record(value) for _, value in topics.appended] == [RECORD] * 3


async def test_a_tombstone_is_tried_until_it_is_acknowledged_and_then_told(
    topics: Topics, errands: ErrandRunner, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(partition, "tombstoned", lambda *what: told.append(what))
    topics.fails = 3
    errands.tombstone(partition, "k", "a")
    await all_run(errands)
    assert topics.appended == [("k", None)] * 4
    assert told == [("k", "a")]


async def test_a_release_is_appended_to_its_lane(
    topics: Topics, errands: ErrandRunner, partition: Partition
) -> None:
    task_id = "01a20d95-a793-7451-bb42-c188ec8c0cdd"
    envelope = Envelope("f", task_id, releases=7)
    errands.release(partition, Lane.LOW, envelope)
    await all_run(errands)
    ((lane, key, value),) = topics.appended
    assert (lane, key) == (Lane.LOW, task_id)
    assert decode_envelope(value, topic="t", partition=0, offset=0) == envelope


async def test_a_dead_letter_is_told_when_it_is_acknowledged(
    topics: Topics, errands: ErrandRunner, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(partition, "buried", told.append)
    topics.fails = 1
    errands.bury(partition, LETTER)
    await all_run(errands)
    assert [decode_dead_letter(value) for _, value in topics.appended] == [LETTER] * 2
    assert told == ["a"]


async def test_a_notice_is_told_when_it_is_acknowledged(
    topics: Topics, errands: ErrandRunner, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(partition, "notified", told.append)
    topics.fails = 1
    errands.notify(partition, NOTICE)
    await all_run(errands)
    assert [decode_notice(value) for _, value in topics.appended] == [NOTICE] * 2
    assert told == ["a"]


async def test_nothing_more_is_tried_for_a_partition_that_was_lost(
    topics: Topics, errands: ErrandRunner, partition: Partition
) -> None:
    """Whoever owns it next comes to the same errand by itself."""
    topics.fails = 10**9
    errands.keep(partition, RECORD)
    while topics.tried < 3:
        await asyncio.sleep(0)
    partition.drop()
    await all_run(errands)
    errands.release(partition, Lane.LOW, RECORD.envelope)
    await all_run(errands)
    assert {len(what) for what in topics.appended} == {2}, "records alone"


async def test_what_is_not_done_when_the_dispatcher_ends_is_let_go(
    topics: Topics, errands: ErrandRunner, partition: Partition
) -> None:
    topics.fails = 10**9
    errands.keep(partition, RECORD)
    while topics.tried < 1:
        await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await errands.close()
