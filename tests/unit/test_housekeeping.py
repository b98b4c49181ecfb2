"""A sweep takes away what is too old, the bytes before the status that leads to them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import pytest

from dispatcher.housekeeping import BATCH, DAY_MS, Housekeeping
from mayfly.errors import BlobsUnavailable

NOW = 1_795_521_600.0


class Old(NamedTuple):
    task_id: str
    keys: tuple[str, ...] = ()
    dead_letter: bool = False


@dataclass
class World:
    """All three parts, and the order of what was done to them."""

    ended: dict[str, tuple[int, Old]] = field(default_factory=dict)
    did: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    down: bool = False
    trimmed: int = 0
    later: float = 0.0
    uploaded: dict[str, float] = field(default_factory=dict)
    """By key, hours ago."""

    async def older(self, prefix: str, before: datetime) -> Sequence[str]:
        at = {key: NOW - hours * 3600 for key, hours in self.uploaded.items()}
        return [key for key, put in at.items() if key.startswith(prefix) and put < before.timestamp()]

    def end(self, task_id: str, days_ago: float, *, dead_letter: bool = False) -> None:
        at = int(NOW * 1000 - days_ago * DAY_MS)
        self.ended[task_id] = (at, Old(task_id, (f"results/{task_id}", f"logs/{task_id}"), dead_letter))

    async def ended_before(self, at: int, dead_before: int, most: int) -> Sequence[Old]:
        found = [
            old for ended, old in self.ended.values() if ended < (dead_before if old.dead_letter else at)
        ]
        return found[:most]

    async def trim_events(self, before: int) -> None:
        self.trimmed = before

    async def remove(self, task_ids: Iterable[str]) -> None:
        ids = tuple(task_ids)
        self.did.append(("remove", ids))
        for task_id in ids:
            del self.ended[task_id]

    async def delete(self, keys: Sequence[str]) -> None:
        if self.down:
            raise BlobsUnavailable("S3 is away")
        self.did.append(("delete", tuple(keys)))

    async def append_dead_letter(self, task_id: str, value: bytes | None) -> None:
        assert value is None
        self.did.append(("tombstone", (task_id,)))

    def house(self, days: float = 7, dead_letter_days: float = 30) -> Housekeeping:
        return Housekeeping(
            self,
            self,
            self,
            days=days,
            dead_letter_days=dead_letter_days,
            upload_hours=24,
            now=lambda: NOW + self.later,
        )


@pytest.fixture
def world() -> World:
    return World()


async def test_what_ended_long_ago_goes_and_what_ended_lately_stays(world: World) -> None:
    world.end("old", 7.001)
    world.end("young", 6.999)
    assert await world.house().sweep() == 1
    assert set(world.ended) == {"young"}
    assert await world.house().sweep() == 0


async def test_what_was_told_more_than_an_hour_ago_goes(world: World) -> None:
    await world.house(days=0).sweep()
    assert world.trimmed == int(NOW - 3600) * 1000


async def test_the_bytes_go_before_the_status_that_leads_to_them(world: World) -> None:
    world.end("old", 8)
    await world.house().sweep()
    assert world.did == [("delete", ("results/old", "logs/old")), ("remove", ("old",))]


async def test_a_store_that_is_away_leaves_the_status_for_the_next_sweep(world: World) -> None:
    world.end("old", 8)
    world.down = True
    with pytest.raises(BlobsUnavailable):
        await world.house().sweep()
    assert set(world.ended) == {"old"}
    world.down = False
    assert await world.house().sweep() == 1


async def test_a_dead_letter_has_a_time_of_its_own_and_goes_from_its_topic_too(world: World) -> None:
    world.end("letter", 8, dead_letter=True)
    assert await world.house().sweep() == 0
    world.end("letter", 31, dead_letter=True)
    assert await world.house().sweep() == 1
    assert [what for what, _ in world.did] == ["delete", "tombstone", "remove"]


async def test_however_many_there_are_one_sweep_takes_them_all(world: World) -> None:
    for number in range(BATCH * 2 + 1):
        world.end(f"task {number}", 8)
    assert await world.house().sweep() == BATCH * 2 + 1
    assert world.ended == {}


async def test_zero_days_keep_for_ever(world: World) -> None:
    world.end("task", 10_000)
    world.end("letter", 10_000, dead_letter=True)
    assert await world.house(days=0, dead_letter_days=0).sweep() == 0
    assert await world.house(days=0).sweep() == 1
    assert set(world.ended) == {"task"}


async def test_an_upload_goes_an_hour_after_the_day_in_which_it_can_be_used(world: World) -> None:
    world.uploaded = {"uploads/default/old": 25.1, "uploads/default/young": 24.9, "payloads/old": 99.0}
    house = world.house()
    await house.sweep()
    assert world.did == [("delete", ("uploads/default/old",))]


async def test_what_a_dead_dispatcher_left_of_remote_sandboxes_goes_once_none_can_run(world: World) -> None:
    world.uploaded = {"remote/a/in/0": 26.1, "remote/b/in/0": 25.9}
    await world.house().sweep()
    assert world.did == [("delete", ("remote/a/in/0",))]


async def test_uploads_are_looked_for_once_an_hour_and_again_where_the_store_was_away(world: World) -> None:
    house, world.down = world.house(), True
    world.uploaded = {"uploads/default/old": 30.0}
    with pytest.raises(BlobsUnavailable):
        await house.sweep()
    world.down = False
    await house.sweep()
    world.uploaded = {"uploads/default/late": 30.0}
    await house.sweep()
    assert world.did == [("delete", ("uploads/default/old",))]
    world.later = 3601
    await house.sweep()
    assert world.did[1:] == [("delete", ("uploads/default/late",))]
