"""Which command is taken up next, and where: slots, shared by the lanes by weight.

A lane with nothing to do lends its share to the others, so none of them starves and no slot idles.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import structlog

from dispatcher.executor import Executor
from dispatcher.liveness import Liveness
from dispatcher.partition import Command, Partition
from dispatcher.projector import Projector
from mayfly.task import Claim, Lane

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
        liveness: Liveness,
        projector: Projector,
        interval: float,
    ) -> None:
        self.slots = slots
        self.partitions: dict[int, Partition] = {}
        self.running: dict[asyncio.Task[None], Command] = {}
        self._executor = executor
        self._liveness = liveness
        self._projector = projector
        self._interval = interval
        self._shares = LaneShares()
        self._turn = dict.fromkeys(Lane, 0)
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
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval)

    async def stop(self, grace: float) -> None:
        """Claim nothing more, let what runs finish within `grace` seconds, then let go of the rest."""
        self._stopped = True
        self._wake.set()
        if self.running:
            log.info("waiting for running tasks", count=len(self.running), seconds=grace)
            _, late = await asyncio.wait(self.running, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                # Their claims stay: once our heartbeat is gone, others take them over.
                log.warning("tasks did not finish in time and will run elsewhere", count=len(late))
                await asyncio.wait(late)

    def _fill(self) -> None:
        # Takeovers first: behind a long backlog they would wait for ever.
        while self._may_start() and (found := self._takeover() or self._next()):
            self._start(self._executor.run(*found), found[1])
        for partition in self.partitions.values():
            partition.pass_over()

    def _may_start(self) -> bool:
        held_back = self._executor.storing_fails or self._projector.overloaded
        return not self._stopped and not held_back and len(self.running) < self.slots

    def _start(self, attempt: Coroutine[Any, Any, None], command: Command) -> None:
        task = asyncio.create_task(attempt)
        self.running[task] = command
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self.running[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("an attempt broke: its task stays claimed", exc_info=error)

    def _next(self) -> tuple[Partition, Command, Claim] | None:
        while lanes := [lane for lane in Lane if any(p.has_work(lane) for p in self.partitions.values())]:
            lane = self._shares.turn(lanes)
            for partition in self._in_turn(lane):
                if found := partition.next(lane):
                    return partition, *found
        return None

    def _in_turn(self, lane: Lane) -> list[Partition]:
        """The partitions, each time from another one on, so that none waits behind a full one."""
        numbers = sorted(self.partitions)
        first = self._turn[lane] = (self._turn[lane] + 1) % len(numbers)
        return [self.partitions[number] for number in (*numbers[first:], *numbers[:first])]

    def _takeover(self) -> tuple[Partition, Command, Claim] | None:
        """A parked command whose holder is gone."""
        for partition in self.partitions.values():
            for command, held in partition.held():
                if self._liveness.is_gone(held, partition.number):
                    log.info("taking over", task_id=command.task_id, holder=held.holder, fence=held.fence)
                    partition.unpark(command)
                    return partition, command, held.takeover
        return None
