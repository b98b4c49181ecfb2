"""Which command is taken up next, and where: slots, shared by the lanes by weight.

A lane with nothing to do lends its share to the others, so none of them starves and no slot idles.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

import structlog

from dispatcher.buffers import Command
from dispatcher.chores import Chores
from dispatcher.executor import Executor
from dispatcher.liveness import Liveness
from dispatcher.partition import Partition
from dispatcher.work import Work
from mayfly.steps import Held
from mayfly.task import Lane
from mayfly.waking import woken

log = structlog.get_logger(__name__)


class LaneShares:
    """Smooth weighted round robin: each turn credits every lane that has work by its weight, and the richest
    goes and pays the sum."""

    def __init__(self) -> None:
        self._credit = dict.fromkeys(Lane, 0)

    def turn(self, with_work: list[Lane]) -> Lane:
        for lane in with_work:
            self._credit[lane] += lane.weight
        winner = max(with_work, key=lambda lane: self._credit[lane])
        self._credit[winner] -= sum(lane.weight for lane in with_work)
        return winner


class Scheduler:
    """Fills `slots` from the partitions that it is told of."""

    def __init__(
        self,
        slots: int,
        *,
        executor: Executor,
        chores: Chores,
        liveness: Liveness,
        interval: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.slots = slots
        self.partitions: dict[int, Partition] = {}
        self.running: dict[asyncio.Task[None], Work] = {}
        """Attempts. What needs no slot is in `chores`."""
        self.chores: set[asyncio.Task[None]] = set()
        self._executor = executor
        self._chores = chores
        self._liveness = liveness
        self._interval = interval
        self._clock = clock
        self._look_at = 0.0
        self._to_take_over: list[tuple[Partition, Command, Held]] = []
        self._shares = LaneShares()
        self._last = dict.fromkeys(Lane, -1)
        """The partition that was served last, by lane."""
        self._wake = asyncio.Event()
        self._stopped = False

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def run(self) -> None:
        """Start what can be started, whenever something has changed, and now and then to see who is gone."""
        while not self._stopped:
            self._wake.clear()
            self._fill()
            await woken(self._wake, self._pause())

    async def drain(self, seconds: float) -> set[asyncio.Task[None]]:
        """Claim nothing more, and let what runs finish. Returns what did not, in so many seconds."""
        self._stopped = True
        self._wake.set()
        busy = {*self.running, *self.chores}
        if not busy:
            return set()
        log.info("waiting for running tasks", count=len(self.running), seconds=seconds)
        _, late = await asyncio.wait(busy, timeout=seconds)
        return late

    async def stop(self, grace: float) -> None:
        """Claim nothing more, let what runs finish within `grace` seconds, then let go of the rest."""
        late = await self.drain(grace)
        for task in late:
            task.cancel()
        if late:
            # Their claims stay: once our heartbeat is gone, others take them over.
            log.warning("tasks did not finish in time and will run elsewhere", count=len(late))
            await asyncio.wait(late)

    def _fill(self) -> None:
        # The clock is the wall's: set back, it would have nobody looked after until it is as late again.
        if not 0 < self._look_at - self._clock() <= self._interval:
            self._look_at = self._clock() + self._interval
            self._to_take_over = list(self._abandoned())
        for partition in self.partitions.values():
            partition.release()
        # First: behind a long backlog they would wait for ever.
        self._take_over()
        # What one lane is asked for may give another one work.
        while self._may_start() and (lanes := [lane for lane in Lane if self._has_work(lane)]):
            self._fill_from(lanes)
        for partition in self.partitions.values():
            partition.pass_over()
            while not self._stopped and (chore := partition.next_chore()):
                self._start_chore(partition, chore)

    def _fill_from(self, lanes: list[Lane]) -> None:
        """By their shares, until none of them has work."""
        while lanes and self._may_start():
            lane = self._shares.turn(lanes)
            if found := self._next(lane):
                self._start(*found)
            if not self._has_work(lane):
                lanes.remove(lane)

    def _pause(self) -> float:
        """Seconds until there is something to do although nothing happens."""
        times = [at for one in self.partitions.values() if (at := one.next_time) is not None]
        if not times:
            return self._interval
        return min(self._interval, max(0.01, min(times) / 1000 - self._clock()))

    def _may_start(self) -> bool:
        return not self._stopped and not self._executor.storing_fails and len(self.running) < self.slots

    def _start(self, partition: Partition, work: Work) -> None:
        task = asyncio.create_task(self._executor.run(partition, work))
        self.running[task] = work
        task.add_done_callback(self._ended)

    def _start_chore(self, partition: Partition, work: Work) -> None:
        task = asyncio.create_task(self._chores.run(partition, work))
        self.chores.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self.running.pop(task, None)
        self.chores.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("an attempt broke: its task stays claimed", exc_info=error)

    def _has_work(self, lane: Lane) -> bool:
        return any(partition.has_work(lane) for partition in self.partitions.values())

    def _next(self, lane: Lane) -> tuple[Partition, Work] | None:
        for number in self._in_turn(lane):
            partition = self.partitions[number]
            if work := partition.next(lane):
                self._last[lane] = number
                return partition, work
        return None

    def _in_turn(self, lane: Lane) -> list[int]:
        """The partitions, from the one after that which was served last, so that none is served twice while
        another could be, and none waits behind a full one."""
        numbers, last = sorted(self.partitions), self._last[lane]
        return [one for one in numbers if one > last] + [one for one in numbers if one <= last]

    def _abandoned(self) -> Iterator[tuple[Partition, Command, Held]]:
        """Parked commands whose holders are gone."""
        for partition in self.partitions.values():
            for command, held in partition.held():
                if self._liveness.is_gone(held, partition.number):
                    yield partition, command, held

    def _take_over(self) -> None:
        """Claim what was abandoned: what is to run as far as there are slots, all else at once."""
        left = []
        for partition, command, held in self._to_take_over:
            if self._stopped or partition.lost or partition.step(command) != held:
                continue
            if not self._may_start() and partition.would_run(command, held.takeover):
                left.append((partition, command, held))
            elif partition.parked.get(command.position) is command:
                log.info("taking over", task_id=command.task_id, holder=held.holder, fence=held.fence)
                partition.unpark(command)
                if work := partition.begin(command, held.takeover):
                    self._start(partition, work)
        self._to_take_over = left
