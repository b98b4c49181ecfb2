"""The projector: whatever the read model loses, and whenever, is noticed; what waits is written once."""

import asyncio
from collections.abc import Iterable

import pytest

from dispatcher.offsets import Checkpoint
from dispatcher.partition import Command, Partition
from dispatcher.projector import BATCH, Projector
from mayfly.errors import ReadModelUnavailable
from mayfly.task import Envelope, Lane, Position
from mayfly.view import Change, QueuedTask

PARTITION = 3


class Redis:
    """Keeps what was written; `answering` holds its answers back while it is cleared."""

    def __init__(self) -> None:
        self.there: dict[int, str] = {}
        self.tasks: list[str] = []
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.down = False

    async def project(
        self,
        commands: Iterable[QueuedTask],
        changes: Iterable[Change],
        *,
        queue: str,
        checkpoints: dict[int, tuple[str, str]],
    ) -> list[int]:
        if self.down:
            raise ReadModelUnavailable("down")
        self.asked += 1
        tasks = [task.task_id for task in commands]
        await self.answering.wait()
        self.tasks += tasks
        mismatched = [n for n, (before, _) in checkpoints.items() if self.there.get(n, "") != before]
        self.there |= {n: after for n, (_, after) in checkpoints.items() if n not in mismatched}
        return mismatched

    async def checkpoints(self, queue: str) -> dict[int, str]:
        return dict(self.there)

    async def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None: ...


class World:
    def __init__(self) -> None:
        self.redis = Redis()
        self.mismatches: list[int] = []
        self.projector = Projector(
            self.redis, queue="q", on_mismatch=self.mismatches.append, clock=lambda: 0.0
        )
        self.partition = Partition(
            PARTITION, queue="q", checkpoint=Checkpoint(), events_end=0, projection=self.projector
        )
        self.projector.assigned(self.partition, "")
        self._read = 0

    def read(self, count: int = 1) -> None:
        """Commands, none of which moves the checkpoint."""
        for _ in range(count):
            envelope = Envelope(task_type="f", task_id=f"t{self._read}")
            position = Position(Lane.NORMAL, self._read)
            self.partition.take_command(Command(envelope, PARTITION, position, at=0, size=1))
            self._read += 1


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_read_model_that_lost_a_write_is_noticed_although_no_checkpoint_moved(world: World) -> None:
    world.read()
    await world.projector.flush()
    backup = dict(world.redis.there)
    world.read()
    await world.projector.flush()
    world.redis.there = backup
    assert not world.mismatches
    world.read()
    await world.projector.flush()
    assert world.mismatches == [PARTITION]


async def test_a_flush_of_redis_in_the_middle_of_the_first_batches_is_noticed(world: World) -> None:
    world.read(2 * BATCH)
    world.redis.answering.clear()
    flushing = asyncio.create_task(world.projector.flush())
    while not world.redis.asked:
        await asyncio.sleep(0)
    world.redis.answering.set()
    while world.redis.asked < 2:
        world.redis.answering.clear()
        await asyncio.sleep(0)
    world.redis.there.clear()
    world.redis.answering.set()
    await flushing
    assert world.mismatches == [PARTITION]


async def test_what_is_written_is_a_checkpoint_that_a_consumer_can_start_from(world: World) -> None:
    world.read(BATCH + 1)
    await world.projector.flush()
    written, _, mark = world.redis.there[PARTITION].partition(" ")
    assert mark
    assert Checkpoint.decode(written) == world.partition.checkpoint()


async def test_two_who_flush_at_once_write_everything_once(world: World) -> None:
    """The one that runs, and the one that is asked for when the dispatcher stops."""
    world.redis.answering.clear()
    world.read()
    first = asyncio.create_task(world.projector.flush())
    await asyncio.sleep(0)
    world.read()
    second = asyncio.create_task(world.projector.flush())
    await asyncio.sleep(0)
    world.redis.answering.set()
    await asyncio.gather(first, second)
    assert world.redis.tasks == ["t0", "t1"]
    assert not world.mismatches
    assert not world.projector.waiting


async def test_what_a_read_model_that_is_down_did_not_take_is_written_when_it_is_back(world: World) -> None:
    world.read()
    world.redis.down = True
    with pytest.raises(ReadModelUnavailable):
        await world.projector.flush()
    world.read()
    world.redis.down = False
    await world.projector.flush()
    assert world.redis.tasks == ["t0", "t1"]
    assert not world.mismatches
