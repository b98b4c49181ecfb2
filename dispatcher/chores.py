"""Claims without an attempt: a task is let wait, or ended."""

import time

import structlog

from dispatcher.claims import Claims
from dispatcher.expectations import PartitionLost
from dispatcher.partition import Partition
from dispatcher.repeats import Repeats
from dispatcher.work import Work
from mayfly.events import Purpose
from mayfly.task import Outcome

log = structlog.get_logger(__name__)


class Chores:
    def __init__(self, claims: Claims, repeats: Repeats) -> None:
        self._claims = claims
        self._repeats = repeats

    async def run(self, partition: Partition, work: Work) -> None:
        broke = True
        try:
            if await self._repeats.may_claim(partition, work):
                await self._run(partition, work)
                broke = False
        except PartitionLost:
            log.debug("the partition was lost", task_id=work.task_id, purpose=work.purpose.value)
        finally:
            partition.chore_done(work, broke=broke)

    async def _run(self, partition: Partition, work: Work) -> None:
        fence = await self._claims.claim(partition, work)
        if fence is None or work.purpose is Purpose.DEFER:
            return
        with self._claims.holding(partition, fence):
            now = time.time_ns() // 1_000_000
            outcome = Outcome(started_at=now, finished_at=now, failure=work.failure)
            await self._claims.finish(partition, work.task_id, fence, work.claim.begun, outcome)
        log.info("ended", task_id=work.task_id, status=outcome.status.value)
