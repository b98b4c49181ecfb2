"""Tasks that a client may post twice: one that has come and gone is not claimed anew.

The log forgets what is over. For an id that can come again, Redis is asked before a task is claimed that the
fold does not know; without its answer such a task waits. Others pass it, until so many of a partition wait
that no checkpoint could name more (`dispatcher.offsets.MAX_PENDING`).
"""

from typing import Protocol

import structlog

from dispatcher.partition import Partition
from dispatcher.work import Work
from mayfly.errors import ReadModelUnavailable
from mayfly.fold import Phase
from mayfly.task import may_come_again

log = structlog.get_logger(__name__)


class ReadModel(Protocol):
    async def known(self, task_id: str) -> tuple[str | None, str | None]:
        """The task's status, and the fence of its last claim. Raises `ReadModelUnavailable`."""


class Projection(Protocol):
    """Both raise `ReadModelUnavailable`: also while what there was of the partition is being rebuilt."""

    async def written(self, partition: int) -> None:
        """Returns when what the fold has counted so far is in the read model."""

    async def intact(self, partition: int) -> None:
        """Returns if the read model has lost nothing of the partition."""


class Repeats:
    def __init__(self, read_model: ReadModel, projection: Projection) -> None:
        self._read_model = read_model
        self._projection = projection

    async def may_claim(self, partition: Partition, work: Work) -> bool:
        """Whether the claim may be made. If not, the command is done, or parked until Redis can tell."""
        command, state = work.command, work.claim.state
        known = state is not None and state.phase is not Phase.ASKED
        repeatable = may_come_again(work.task_id) if command is None else command.repeatable
        if known or not repeatable:
            return True
        try:
            await self._projection.written(partition.number)
            _, fence = await self._read_model.known(work.task_id)
            # Looked at last: a flush in between would have taken the task away.
            await self._projection.intact(partition.number)
        except ReadModelUnavailable as error:
            log.warning("Redis is away: a task that may be a repeat waits", reason=str(error))
            if command is not None:
                partition.park(command)
            return False
        if fence is None:
            return True
        if command is not None:
            if partition.has_forgotten(work.task_id, int(fence)):
                partition.forgotten(command)
            else:
                # Another, who had the partition before, has read further and told it. So shall we.
                partition.park(command)
        return False
