"""The projector: whatever the read model loses, and whenever, is noticed; what waits is written once."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from owner_world import NUMBER, claimed, command, finished, owner, world

from dispatcher import projector
from dispatcher.consumer import UNKNOWN
from dispatcher.offsets import Checkpoint
from dispatcher.partition import Partition
from dispatcher.projector import BATCH, MAX_LIVE, Projector
from mayfly.errors import ReadModelUnavailable
from mayfly.task import Lane
from mayfly.view import Change, QueuedTask

DEADLINE_SECONDS = 30.0


class Redis:
    """Keeps what was written; `answering` holds its answers back while it is cleared."""

    def __init__(self) -> None:
        self.there: dict[int, str] = {}
        self.tokens: dict[int, str] = {}
        self.tasks: list[str] = []
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.down = False
        self.refused = 0
        self.logs: dict[str, str] = {}
        self.fractions: dict[str, float] = {}

    async def project(self, commands: Iterable[QueuedTask], changes: Iterable[Change]) -> None:
        if self.down:
            self.refused += 1
            raise ReadModelUnavailable("down")
        self.asked += 1
        tasks = [task.task_id for task in commands]
        await self.answering.wait()
        self.tasks += tasks

    async def mark(self, queue: str, partition: int, before: str, after: str) -> bool:
        if self.down:
            self.refused += 1
            raise ReadModelUnavailable("down")
        if self.there.get(partition, "") not in (before, after):
            return False
        self.there[partition] = after
        return True

    async def begin_rebuild(self, queue: str, partition: int, token: str) -> None:
        if self.down:
            raise ReadModelUnavailable("down")
        self.there.pop(partition, None)
        self.tokens[partition] = token

    async def end_rebuild(self, queue: str, partition: int, token: str, mark: str) -> bool:
        if self.tokens.get(partition) != token:
            return False
        del self.tokens[partition]
        self.there[partition] = mark
        return True

    async def marks(self, queue: str) -> dict[int, str]:
        if self.down:
            raise ReadModelUnavailable("down")
        await self.answering.wait()
        return dict(self.there)

    def flush(self) -> None:
        self.there.clear()
        self.tokens.clear()

    async def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None:
        self.fractions[task_id] = fraction

    async def append_log(self, task_id: str, fence: int, text: str) -> None:
        self.logs[task_id] = self.logs.get(task_id, "") + text


class World:
    def __init__(self) -> None:
        self.redis = Redis()
        self.rebuilds = 0
        self.breaks = 0
        self.rebuilt = asyncio.Event()
        self.rebuilt.set()
        self.time = 0.0
        self.projector = Projector(self.redis, queue="q", rebuild=self.rebuild, clock=lambda: self.time)
        self.partition = owner(world(self.projector))
        self.projector.assigned(self.partition, "")
        self._read = 0

    async def rebuild(self, partition: Partition) -> None:
        self.rebuilds += 1
        await self.rebuilt.wait()
        if self.rebuilds == self.breaks:
            raise RuntimeError("a bug")

    def read(self, count: int = 1) -> None:
        """Commands, none of which moves the checkpoint."""
        for _ in range(count):
            self.partition.take_command(command(f"t{self._read}", self._read))
            self._read += 1

    def finish(self) -> None:
        """A task comes and goes: the checkpoint moves."""
        self.read()
        task, offset, end = f"t{self._read - 1}", self._read - 1, self.partition.checkpoint().start
        self.partition.take_event(end, claimed(task, offset), 0)
        self.partition.take_event(end + 1, finished(task, end), 0)
        while self.partition.next(Lane.NORMAL):
            pass

    async def until_rebuilt(self) -> None:
        """And marked again."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not self.rebuilds or not self.redis.there or self.redis.tokens:
                await self.projector.settle()
                await asyncio.sleep(0)


@pytest.fixture(name="world")
async def _world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.projector.revoked(NUMBER)


async def test_a_read_model_that_lost_a_write_is_noticed_although_no_checkpoint_moved(world: World) -> None:
    world.read()
    await world.projector.settle()
    backup = dict(world.redis.there)
    world.read()
    await world.projector.settle()
    world.redis.there = backup
    assert not world.rebuilds
    world.read()
    await world.projector.settle()
    await world.until_rebuilt()
    assert world.rebuilds == 1


async def test_a_flush_of_redis_in_the_middle_of_the_first_batches_is_noticed(world: World) -> None:
    world.read(2 * BATCH)
    world.redis.answering.clear()
    settling = asyncio.create_task(world.projector.settle())
    while not world.redis.asked:
        await asyncio.sleep(0)
    world.redis.answering.set()
    while world.redis.asked < 2:
        world.redis.answering.clear()
        await asyncio.sleep(0)
    world.redis.flush()
    world.redis.answering.set()
    await settling
    await world.until_rebuilt()
    assert world.rebuilds == 1


async def test_a_flush_of_redis_during_a_rebuild_is_noticed(world: World) -> None:
    world.rebuilt.clear()
    world.read()
    await world.projector.settle()
    world.redis.flush()
    world.read()
    await world.projector.settle()
    while not world.rebuilds:
        await asyncio.sleep(0)
    assert not world.redis.there
    world.redis.flush()
    world.rebuilt.set()
    await world.until_rebuilt()
    assert world.rebuilds == 2


async def test_a_flush_of_redis_before_its_first_mark_is_noticed_by_whoever_asks(world: World) -> None:
    world.read()
    await world.projector.written(NUMBER)
    world.redis.flush()
    with pytest.raises(ReadModelUnavailable):
        await world.projector.intact(NUMBER)
    await world.until_rebuilt()
    await world.projector.intact(NUMBER)


async def test_a_mark_that_changes_while_it_is_looked_at_is_no_loss(world: World) -> None:
    world.read()
    await world.projector.settle()
    world.redis.answering.clear()
    looking = asyncio.create_task(world.projector.intact(NUMBER))
    await asyncio.sleep(0)
    world.finish()
    settling = asyncio.create_task(world.projector.settle())
    await asyncio.sleep(0)
    world.redis.answering.set()
    await asyncio.gather(looking, settling)
    assert not world.rebuilds


async def test_who_asks_while_redis_is_known_to_be_away_is_told_at_once(world: World) -> None:
    """It holds a slot while it waits."""
    world.redis.down = True
    running = asyncio.create_task(world.projector.run())
    world.read()
    while not world.redis.refused:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    refused = world.redis.refused
    with pytest.raises(ReadModelUnavailable):
        await world.projector.written(NUMBER)
    assert world.redis.refused == refused
    running.cancel()


async def test_no_checkpoint_is_committed_that_is_older_than_one_that_was(world: World) -> None:
    """What the newer one made superfluous may be gone: a record, of which the older one knows no more."""
    world.finish()
    await world.projector.settle()
    world.finish()
    world.redis.down = True
    running = asyncio.create_task(world.projector.run())
    while (ahead := world.projector.checkpoint(world.partition)) != world.partition.checkpoint():
        await asyncio.sleep(0)
    running.cancel()
    world.redis.down = False
    back = asyncio.create_task(world.projector.run())
    while world.projector.waiting:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
        assert world.projector.checkpoint(world.partition) in (None, ahead)
    back.cancel()
    await world.projector.settle()
    assert world.projector.checkpoint(world.partition) == ahead


@pytest.mark.parametrize("mark", ["garbage", "1:~", "9:from a newer version mark", UNKNOWN])
async def test_a_read_model_whose_mark_cannot_be_read_is_written_again(mark: str, world: World) -> None:
    partition = owner(checkpoint=Checkpoint(5, {Lane.NORMAL: (3, (1,))}), events_end=5)
    world.redis.there[NUMBER] = mark
    world.projector.assigned(partition, mark)
    await world.until_rebuilt()
    assert world.rebuilds == 1


async def test_a_read_model_that_is_behind_the_checkpoint_is_written_again(world: World) -> None:
    behind = Checkpoint(5, {Lane.NORMAL: (3, (1, 2))})
    partition = owner(checkpoint=Checkpoint(5, {Lane.NORMAL: (3, (1,))}), events_end=5)
    world.redis.there[NUMBER] = behind.encode() + " 0123abcd"
    world.projector.assigned(partition, world.redis.there[NUMBER])
    await world.until_rebuilt()
    assert world.rebuilds == 1


async def test_a_read_model_that_is_as_far_as_the_checkpoint_is_left_as_it_is(world: World) -> None:
    origin = Checkpoint(5, {Lane.NORMAL: (3, (1,))})
    world.redis.there[NUMBER] = origin.encode() + " 0123abcd"
    partition = owner(checkpoint=origin, events_end=5)
    world.projector.assigned(partition, world.redis.there[NUMBER])
    await world.projector.settle()
    assert world.projector.checkpoint(partition) == partition.checkpoint()
    assert not world.rebuilds


async def test_what_is_committed_is_what_the_read_model_was_told(world: World) -> None:
    world.finish()
    await world.projector.settle()
    told = world.partition.checkpoint()
    world.finish()
    assert world.projector.checkpoint(world.partition) == told
    await world.projector.settle()
    assert world.projector.checkpoint(world.partition) == world.partition.checkpoint() != told


async def test_what_is_written_is_a_checkpoint_that_a_consumer_can_start_from(world: World) -> None:
    world.read(BATCH + 1)
    await world.projector.settle()
    written, _, mark = world.redis.there[NUMBER].partition(" ")
    assert mark
    assert Checkpoint.decode(written) == world.partition.checkpoint()


async def test_a_partition_is_marked_although_more_to_write_keeps_coming(world: World) -> None:
    """Or nothing would be committed under load."""

    async def more(commands: Iterable[QueuedTask], changes: Iterable[Change]) -> None:
        world.read()

    world.redis.project = more  # type: ignore[method-assign]
    world.finish()
    told = world.partition.checkpoint()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await world.projector.settle()
    assert world.projector.checkpoint(world.partition) == told


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
    assert not world.rebuilds
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
    assert not world.rebuilds


async def test_what_is_only_for_watchers_does_not_pile_up_while_redis_is_away(world: World) -> None:
    for number in range(10 * MAX_LIVE):
        world.projector.log(f"t{number}", number, "a line")
        world.projector.progress(f"t{number}", number, 0.5, "half")
    world.projector.log(f"t{number}", number, ", and more")
    await world.projector.flush()
    assert len(world.redis.logs) == len(world.redis.fractions) == MAX_LIVE
    assert world.redis.logs[f"t{number}"] == "a line, and more"


async def test_a_rebuild_that_breaks_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "BROKEN_SECONDS", 0.0)
    world.breaks = 1
    world.finish()
    await world.projector.settle()
    world.redis.flush()
    world.finish()
    await world.until_rebuilt()
    assert world.rebuilds == 2


async def test_it_ends_when_told_although_there_is_news_in_that_moment(world: World) -> None:
    running = asyncio.create_task(world.projector.run())
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not world.redis.there:
            await asyncio.sleep(0)
    # It waits for news by now: all that it had is written, and nothing there holds its answers back.
    for _ in range(100):
        await asyncio.sleep(0)
    world.projector.log("t0", 0, "a line")
    running.cancel()
    await asyncio.wait({running}, timeout=DEADLINE_SECONDS)
    assert running.cancelled()
