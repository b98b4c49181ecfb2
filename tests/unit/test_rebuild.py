"""A rebuild writes what the whole log says of a partition, whatever the owner does meanwhile."""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NamedTuple

import pytest

from dispatcher.rebuild import LATELY_SECONDS, Rebuild
from mayfly.events import Claimed, Event, Finished
from mayfly.task import Envelope, Failure, FailureType, Lane, Outcome, Status, encode
from mayfly.view import Change, QueuedTask

PARTITION = 3
ID = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"
NORMAL, EVENTS, LETTERS = "q.normal", "q.events", "letters"
LONG_AGO = int(time.time() * 1000) - int(LATELY_SECONDS * 2000)


class Entry(NamedTuple):
    topic: str
    partition: int
    offset: int
    key: str
    value: bytes | None
    timestamp: int = LONG_AGO


class World:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.asked: list[list[tuple[str, int]]] = []
        self.commands: list[QueuedTask] = []
        self.changes: list[Change] = []
        self.buried: set[str] = set()
        self.rebuild = Rebuild(
            self.replay,
            self,
            queue="q",
            lane_topics={Lane.NORMAL: NORMAL},
            events_topic=EVENTS,
            dead_letter_topic=LETTERS,
        )

    def command(self, task_id: str, offset: int = 0, value: bytes | None = None) -> None:
        made = value if value is not None else encode(Envelope("echo", task_id))
        self.entries.append(Entry(NORMAL, PARTITION, offset, task_id, made))

    def event(self, offset: int, event: Event, at: int = LONG_AGO) -> None:
        self.entries.append(Entry(EVENTS, PARTITION, offset, event.task_id, encode(event), at))

    def letter(self, task_id: str, value: bytes | None) -> None:
        self.entries.append(Entry(LETTERS, 0, len(self.entries), task_id, value))

    def failed(self, task_id: str, fence: int, at: int = LONG_AGO) -> None:
        self.command(task_id, fence)
        self.event(fence, claimed(task_id, fence))
        outcome = Outcome(1, 2, failure=Failure(FailureType.ERROR, "no"))
        self.event(fence + 1, Finished(task_id, fence, 1, outcome), at)

    async def replay(self, places: Sequence[tuple[str, int]]) -> AsyncIterator[Sequence[Entry]]:
        self.asked.append(list(places))
        for entry in self.entries:
            if (entry.topic, entry.partition) in places:
                yield [entry]

    async def project(self, commands: Iterable[QueuedTask], changes: Iterable[Change]) -> None:
        self.commands += commands
        self.changes += changes

    async def not_dead(self, task_ids: Iterable[str]) -> None:
        self.buried |= set(task_ids)


def claimed(task_id: str, command: int, nonce: str = "n") -> Claimed:
    return Claimed(task_id, Lane.NORMAL, command, 1, "d", nonce)


@pytest.fixture
def world() -> World:
    return World()


async def test_commands_and_the_events_that_count_are_written_and_void_ones_are_not(world: World) -> None:
    world.command(ID)
    world.event(5, claimed(ID, 0))
    world.event(6, claimed(ID, 0, "another's"))
    world.event(7, Finished(ID, 6, 1, Outcome(1, 2)))
    world.event(8, Finished(ID, 5, 1, Outcome(3, 4)))
    world.event(9, Finished(ID, 5, 1, Outcome(5, 6)))
    await world.rebuild.partition(PARTITION)
    assert world.asked == [[(NORMAL, PARTITION), (EVENTS, PARTITION)]]
    assert [(task.task_id, task.partition, task.offset) for task in world.commands] == [(ID, PARTITION, 0)]
    assert [(change.offset, change.status) for change in world.changes] == [
        (5, Status.IN_PROGRESS),
        (8, Status.COMPLETED),
    ]


async def test_a_command_that_is_none_is_shown_as_the_owner_shows_it(world: World) -> None:
    world.command("t", value=b"{")
    await world.rebuild.partition(PARTITION)
    assert len(world.commands) == 1


async def test_what_is_no_event_is_passed_over(world: World) -> None:
    world.entries.append(Entry(EVENTS, PARTITION, 0, "t", b"nonsense"))
    world.failed("t", 1)
    await world.rebuild.partition(PARTITION)
    assert [change.status for change in world.changes] == [Status.IN_PROGRESS, Status.FAILED]


async def test_a_failure_whose_letter_is_gone_is_no_dead_letter(world: World) -> None:
    world.failed("purged", 0)
    world.failed("never purged", 10)
    world.failed("driven again", 20)
    for task_id in ("purged", "never purged"):
        world.letter(task_id, b"{}")
    world.letter("purged", None)
    await world.rebuild.partition(PARTITION)
    assert world.buried == {"purged", "driven again"}


async def test_a_failure_of_this_minute_is_one_although_its_letter_is_not_there_yet(world: World) -> None:
    world.failed("t", 0, at=int(time.time() * 1000) + 3_600_000)
    await world.rebuild.partition(PARTITION)
    assert world.buried == set()
    assert (LETTERS, 0) not in [place for places in world.asked for place in places]
