"""Claiming a task and letting go of it: events of ours, each of which counts only when it was read back."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

import structlog

from dispatcher.partition import Partition
from dispatcher.work import Work
from mayfly.errors import LogUnavailable, MayflyError
from mayfly.events import Claimed, Deferred, Event, Finished, Purpose, Reason
from mayfly.faultpoints import FaultPoint, reached
from mayfly.fold import Phase
from mayfly.task import Outcome, encode

log = structlog.get_logger(__name__)
T = TypeVar("T")

BACKOFF_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


class EventLog(Protocol):
    async def append_event(self, partition: int, task_id: str, value: bytes) -> None:
        """Raises `LogUnavailable`: the event may be there nevertheless."""


class Held(Protocol):
    """The fences that this process holds, as its heartbeat lists them."""

    held: set[tuple[int, int]]


class Claims:
    def __init__(self, dispatcher_id: str, events: EventLog, held: Held) -> None:
        self._id = dispatcher_id
        self._events = events
        self._held = held
        self._nonces = (f"{dispatcher_id}/{number}" for number in itertools.count())

    async def claim(self, partition: Partition, work: Work, image: str | None = None) -> int | None:
        """The fence, or None if another claim came first. Raises `PartitionLost`."""
        event = event_of(work, self._id, next(self._nonces), image)
        reached(FaultPoint.BEFORE_CLAIM)
        counted = partition.expect_claim(event.nonce)
        await self._append(partition, event, until=counted.done)
        reached(FaultPoint.CLAIM_APPENDED)
        fence = await counted
        reached(FaultPoint.CLAIM_COUNTED)
        return fence

    @contextmanager
    def holding(self, partition: Partition, fence: int) -> Iterator[None]:
        """While this lasts the heartbeat names the fence, and nobody takes the task over."""
        self._held.held.add((partition.number, fence))
        try:
            yield
        finally:
            self._held.held.discard((partition.number, fence))

    async def finish(
        self, partition: Partition, task_id: str, fence: int, attempt: int, outcome: Outcome
    ) -> bool:
        """Whether the outcome counts. Raises `PartitionLost`: the event is there, its new owner decides."""
        return await self._let_go(partition, Finished(task_id, fence, attempt, outcome))

    async def defer(
        self,
        partition: Partition,
        task_id: str,
        fence: int,
        attempt: int,
        *,
        reason: Reason,
        due: int,
        outcome: Outcome | None = None,
    ) -> bool:
        """Let the task wait until `due` (ms since 1970), or for its turn. Otherwise as `finish`."""
        return await self._let_go(partition, Deferred(task_id, fence, attempt, reason, due, outcome))

    async def _let_go(self, partition: Partition, event: Finished | Deferred) -> bool:
        counted = partition.expect_end(event.task_id, event.fence)
        # A partition that was lost takes the event all the same: the fence is still ours.
        await self._append(partition, event, until=lambda: counted.done() and not counted.exception())
        reached(FaultPoint.END_APPENDED)
        counts = await counted
        reached(FaultPoint.END_COUNTED)
        return counts

    async def _append(self, partition: Partition, event: Event, until: Callable[[], bool]) -> None:
        """Append until it is acknowledged, or until that has no more use. A second copy is void."""
        value = encode(event)
        for delay in backoff():
            if until():
                return
            try:
                await self._events.append_event(partition.number, event.task_id, value)
            except LogUnavailable as error:
                log.warning("Kafka is away: the event waits", reason=str(error))
                await asyncio.sleep(delay)
            else:
                return


def event_of(work: Work, dispatcher: str, nonce: str, image: str | None = None) -> Claimed:
    """The claim that the work asks for."""
    claim = work.claim
    runs = work.purpose is Purpose.RUN
    state = claim.state
    return Claimed(
        task_id=work.task_id,
        lane=work.position.lane,
        offset=work.position.offset,
        attempt=claim.attempt if runs else claim.begun,
        dispatcher=dispatcher,
        nonce=nonce,
        follows=claim.follows,
        image=image,
        purpose=work.purpose,
        losses=claim.losses,
        cancelled=claim.cancelled,
        group=work.group if runs else None,
        # Out of a record: a fold that starts at this event must know all of the task from it.
        history=state.history if state is not None and state.phase is Phase.WAITING else (),
        reason=work.reason if work.purpose is Purpose.DEFER else None,
        due=work.due,
    )


async def insist(call: Callable[[], Awaitable[T]], away: type[MayflyError], told: str) -> T:
    """Call until it does not raise `away`; each time it does, the log is told."""
    delays = backoff()
    while True:
        try:
            return await call()
        except away as error:
            log.warning(told, reason=str(error))
            await asyncio.sleep(next(delays))


def backoff() -> Iterator[float]:
    """Seconds to wait before each further try, without end."""
    yield from BACKOFF_SECONDS
    while True:
        yield BACKOFF_SECONDS[-1]
