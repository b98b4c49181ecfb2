"""Writing the audit log: one record after the other, and a new chain where one may be there or not."""

import asyncio

import pytest
from gateway_world import AuditTopic

from gateway.refusals import MOST_KINDS, Refusals
from mayfly.errors import LogUnavailable
from mayfly.identity import trail
from mayfly.identity.chain import Entry, Verifier
from mayfly.identity.trail import Trail


def whole(topic: AuditTopic) -> bool:
    verifier = Verifier()
    return not [one for place, value in enumerate(topic.records) for one in verifier.take(place, value)]


async def test_records_of_two_writers_that_write_at_once_are_whole() -> None:
    topic = AuditTopic()
    writers = Trail(topic), Trail(topic)
    await asyncio.gather(*(writers[number % 2].write(Entry("a", str(number))) for number in range(40)))
    assert sorted(entry.target for entry in topic.entries) == sorted(map(str, range(40)))
    assert len({entry.writer for entry in topic.entries}) == 2
    assert all(entry.at for entry in topic.entries)
    assert whole(topic)


async def test_after_an_append_that_failed_a_new_chain_begins() -> None:
    topic = AuditTopic()
    writer = Trail(topic)
    await writer.write(Entry("a"))
    topic.down = "timed out"
    with pytest.raises(LogUnavailable):
        await writer.write(Entry("b"))
    topic.down = ""
    await writer.write(Entry("c"))
    first, last = topic.entries
    assert (last.action, last.number, last.after) == ("c", 0, 0)
    assert first.writer != last.writer
    assert whole(topic)


class Ambiguous(AuditTopic):
    """Takes the record, and says nothing."""

    async def append(self, value: bytes) -> None:  # type: ignore[override]
        await super().append(value)
        raise LogUnavailable("no acknowledgement in time")


async def test_a_record_that_came_although_it_was_not_acknowledged_does_not_break_a_chain() -> None:
    topic, lossy = AuditTopic(), Ambiguous()
    lossy.records = topic.records
    writer = Trail(topic)
    await writer.write(Entry("a"))
    writer._topic = lossy
    with pytest.raises(LogUnavailable):
        await writer.write(Entry("b"))
    writer._topic = topic
    await writer.write(Entry("c"))
    assert [entry.action for entry in topic.entries] == ["a", "b", "c"]
    assert whole(topic)


async def test_who_waits_while_the_log_fails_is_refused_with_the_one_before() -> None:
    topic = AuditTopic()
    gate = asyncio.Event()
    tries = 0

    async def append(value: bytes) -> None:
        nonlocal tries
        tries += 1
        await gate.wait()
        raise LogUnavailable("timed out")

    topic.append = append  # type: ignore[method-assign, assignment]
    writer = Trail(topic)
    waiting = [asyncio.create_task(writer.write(Entry("a"))) for _ in range(5)]
    while tries == 0:
        await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, LogUnavailable) for answer in answers)
    assert tries == 1


async def test_more_than_may_wait_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "MOST_WAITING", 3)
    topic = AuditTopic()
    writer = Trail(topic)
    answers = await asyncio.gather(*(writer.write(Entry("a")) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(answer, LogUnavailable) for answer in answers) == 2
    assert len(topic.records) == 3


# --- refusals


class Told:
    """What was written, and a window that ends when the test says so."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.over = asyncio.Event()
        self.down = False
        self.refusals = Refusals(self.write, sleep=self.sleep)

    async def write(self, entry: Entry) -> None:
        if self.down:
            raise LogUnavailable("away")
        self.entries.append(entry)

    async def sleep(self, seconds: float) -> None:
        await self.over.wait()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.entries) < count:
                await asyncio.sleep(0)


def refusal(address: str = "10.0.0.1", **fields: str) -> Entry:
    return Entry("access.refused", outcome="refused", address=address, **fields)  # type: ignore[arg-type]


async def test_a_flood_is_one_record_and_then_how_many_more_there_were() -> None:
    told = Told()
    for number in range(1000):
        told.refusals.note(refusal(request_id=str(number)))
    await told.until(1)
    assert (told.entries[0].count, told.entries[0].request_id) == (1, "0")
    told.over.set()
    await told.until(2)
    assert told.entries[1] == Entry("access.refused", outcome="refused", address="10.0.0.1", count=999)


async def test_a_flood_from_everywhere_is_counted_as_one_kind() -> None:
    told = Told()
    for number in range(10 * MOST_KINDS):
        told.refusals.note(refusal(f"10.0.{number // 250}.{number % 250}"))
    await told.until(MOST_KINDS)
    await told.refusals.close()
    assert len(told.entries) == MOST_KINDS + 1
    assert told.entries[-1].count == 9 * MOST_KINDS


async def test_what_was_counted_is_told_at_the_end() -> None:
    told = Told()
    for _ in range(3):
        told.refusals.note(refusal())
    await told.refusals.close()
    assert [entry.count for entry in told.entries] == [1, 2]
    await told.refusals.close()
    assert len(told.entries) == 2


async def test_a_log_that_is_away_costs_nobody_anything() -> None:
    told = Told()
    told.down = True
    told.refusals.note(refusal())
    told.refusals.note(refusal())
    await told.refusals.close()
    assert told.entries == []
