"""A rebuild writes what the whole log says of a partition, whatever the owner does meanwhile."""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import NamedTuple

import pytest
from owner_world import NUMBER, command, owner

from dispatcher.partition import Partition
from dispatcher.rebuild import LATELY_SECONDS, Rebuild
from dispatcher.repeats import Repeats
from dispatcher.work import Work
from mayfly.events import CancelRequested, Claimed, Event, Finished, Purpose
from mayfly.retention import Retention
from mayfly.steps import Claim
from mayfly.task import (
    NO_FENCE,
    Envelope,
    Failure,
    FailureType,
    Lane,
    Outcome,
    Position,
    Status,
    encode,
    keyed_id,
)
from mayfly.view import Change, QueuedTask

PARTITION = NUMBER
ID = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"
NORMAL, EVENTS, LETTERS = "q.normal", "q.events", "letters"
NOW, DAY = int(time.time() * 1000), 86_400_000
LONG_AGO = NOW - int(LATELY_SECONDS * 2000)
KEPT = Retention(days=7, dead_letter_days=30)


class Entry(NamedTuple):
    topic: str
    partition: int
    offset: int
    key: str
    value: bytes | None
    timestamp: int = LONG_AGO


class World:
    def __init__(self, retention: Retention = KEPT) -> None:
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
            retention=retention,
        )

    def command(self, task_id: str, offset: int = 0, value: bytes | None = None, at: int = LONG_AGO) -> None:
        made = value if value is not None else encode(Envelope("echo", task_id))
        self.entries.append(Entry(NORMAL, PARTITION, offset, task_id, made, at))

    def event(self, offset: int, event: Event, at: int = LONG_AGO) -> None:
        self.entries.append(Entry(EVENTS, PARTITION, offset, event.task_id, encode(event), at))

    def letter(self, task_id: str, value: bytes | None) -> None:
        self.entries.append(Entry(LETTERS, 0, len(self.entries), task_id, value))

    def ended(self, task_id: str, fence: int, days: float, failure: Failure | None = None) -> None:
        """So many days ago."""
        at = NOW - int(days * DAY)
        self.command(task_id, fence, at=at)
        self.event(fence, claimed(task_id, fence), at)
        self.event(fence + 1, Finished(task_id, fence, 1, Outcome(at, at, failure=failure)), at)

    def failed(self, task_id: str, fence: int, days: float = 0.002) -> None:
        self.ended(task_id, fence, days, Failure(FailureType.ERROR, "no"))

    async def replay(self, places: Sequence[tuple[str, int]]) -> AsyncIterator[Sequence[Entry]]:
        self.asked.append(list(places))
        for entry in self.entries:
            if (entry.topic, entry.partition) in places:
                yield [entry]

    async def project(
        self, commands: Iterable[QueuedTask], changes: Iterable[Change], *, quiet: bool = False
    ) -> None:
        self.commands += commands
        self.changes += changes

    @property
    def shown(self) -> dict[str, Status | None]:
        """The tasks that have a hash, each with its status."""
        told: dict[str, Status | None] = {task.task_id: task.status for task in self.commands}
        return told | {change.task_id: change.status for change in self.changes if change.status}

    async def known(self, task_id: str) -> tuple[str | None, str | None]:
        of_task = [change for change in self.changes if change.task_id == task_id]
        fence = next((one.fields["fence"] for one in reversed(of_task) if "fence" in one.fields), None)
        return self.shown.get(task_id), fence

    async def written(self, partition: int) -> None: ...

    async def intact(self, partition: int) -> None: ...

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
    for offset, fence in ((7, 6), (8, 5), (9, 5)):
        world.event(offset, Finished(ID, fence, 1, Outcome(LONG_AGO, LONG_AGO)))
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
    world.failed("t", 0, days=-1)
    await world.rebuild.partition(PARTITION)
    assert world.buried == set()
    assert (LETTERS, 0) not in [place for places in world.asked for place in places]


# --- what was swept

YOUNG, OLD, DEAD, LONG_DEAD, PURGED, PURGED_LATELY, WAITS = (keyed_id("t", str(n)) for n in range(7))


async def test_a_log_that_is_younger_than_the_retention_is_read_once(world: World) -> None:
    world.ended(YOUNG, 0, 6)
    await world.rebuild.partition(PARTITION)
    assert world.asked == [[(NORMAL, PARTITION), (EVENTS, PARTITION)]]
    assert world.shown == {YOUNG: Status.COMPLETED}


async def test_what_ended_longer_ago_than_it_is_kept_stays_away(world: World) -> None:
    world.ended(YOUNG, 0, 6)
    world.ended(OLD, 10, 8)
    world.command(OLD, 11, at=NOW - 7 * DAY - DAY // 2)
    world.event(12, claimed(OLD, 10, "late"), NOW - 7 * DAY - DAY // 2)
    world.failed(DEAD, 20, 8)
    world.letter(DEAD, b"{}")
    world.failed(PURGED, 30, 8)
    world.failed(PURGED_LATELY, 40, 6)
    world.failed(LONG_DEAD, 50, 31)
    world.command(WAITS, 60, at=NOW - 300 * DAY)
    world.event(60, claimed(WAITS, 60), NOW - 300 * DAY)
    await world.rebuild.partition(PARTITION)
    assert world.shown == {
        YOUNG: Status.COMPLETED,
        DEAD: Status.FAILED,
        PURGED_LATELY: Status.FAILED,
        WAITS: Status.IN_PROGRESS,
    }
    assert world.buried == {PURGED_LATELY}


async def test_what_is_kept_for_ever_comes_back_however_old_it_is() -> None:
    world = World(Retention(0, 0))
    world.ended(OLD, 0, 8000)
    await world.rebuild.partition(PARTITION)
    assert world.shown == {OLD: Status.COMPLETED}


async def test_of_an_id_that_was_used_anew_only_the_second_task_is_written(world: World) -> None:
    world.ended(ID, 0, 20)
    world.command(ID, 1, at=NOW - 12 * DAY)
    world.event(5, CancelRequested(ID, Lane.NORMAL, 1), NOW - 11 * DAY)
    world.event(6, claimed(ID, 1), NOW - 10 * DAY)
    world.event(7, claimed(ID, 1, "another's"), NOW - 10 * DAY)
    world.event(8, Finished(ID, 6, 1, Outcome(0, NOW - DAY)), NOW - DAY)
    await world.rebuild.partition(PARTITION)
    assert [task.offset for task in world.commands] == [1]
    assert [(change.offset, change.status) for change in world.changes] == [
        (5, None),
        (6, Status.IN_PROGRESS),
        (8, Status.COMPLETED),
    ]


async def test_a_task_whose_key_was_swept_and_used_anew_runs_although_redis_was_flushed(
    world: World,
) -> None:
    """Its owner asks Redis whether the task has come and gone."""
    task_id = keyed_id("default", "order 7")
    world.ended(task_id, 0, 8)
    world.command(task_id, 1, at=NOW)
    partition = owner(events_end=2)
    for offset, entry in enumerate(one for one in world.entries if one.topic == EVENTS):
        partition.take_event(offset, None, entry.timestamp)
    again = command(task_id, 1, repeatable=True)
    partition.take_command(again)
    work = partition.next(Lane.NORMAL)
    assert work is not None
    await world.rebuild.partition(PARTITION)
    assert await Repeats(world, world).may_claim(partition, work)


async def test_a_task_that_has_come_and_gone_does_not_run_again_after_a_flush(world: World) -> None:
    task_id = keyed_id("default", "order 7")
    world.ended(task_id, 0, 6)
    await world.rebuild.partition(PARTITION)
    partition: Partition = owner(events_end=0)
    partition.take_command(command(task_id, 0, repeatable=True))
    work = Work(task_id, Position(Lane.NORMAL, 0), Claim(NO_FENCE, 1, 0), Purpose.RUN)
    assert not await Repeats(world, world).may_claim(partition, work)
