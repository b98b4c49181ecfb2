"""The sandboxes of one version of one function: those that wait for a task, those that are being made, and
how many are out."""

import asyncio
import enum
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

import structlog

from dispatcher.invocation import START_UP_SECONDS
from dispatcher.pools.base import Supply
from dispatcher.pools.demand import WINDOW_SECONDS, Demand
from dispatcher.pools.standby import Standby, Taken
from dispatcher.runtimes.base import Sandbox, SandboxSpec
from mayfly.errors import IsolationRefused, SandboxLost

log = structlog.get_logger(__name__)

REST_SECONDS: Final = 0.15
"""For so long a task that took a container has the cores: to make the next one, and to remove the last one,
are more work than most tasks are."""
LULL_SECONDS: Final = 1.0
MOST_PAUSE_SECONDS: Final = 60.0
"""Between two tries of a function whose sandboxes fail before they get a task."""


class How(enum.Enum):
    """What a task found when it took its sandbox."""

    ARMED = "armed"
    """Its handler was imported."""
    STARTING = "starting"
    """It was started already, or had begun to be."""
    MADE = "made"
    """It was made for the task."""


class Version(NamedTuple):
    """What a function's sandboxes are made of: those of another are of no use to its tasks."""

    isolation: str
    spec: SandboxSpec


class Pool:
    """`reserved` is how many the function wants ready whatever happens; None is as many as its use asks for.

    `on_change` is called when there may be something to make, or room to make it. Never blocks, but for
    `take`.
    """

    def __init__(
        self,
        version: Version,
        supply: Supply,
        demand: Demand,
        *,
        reserved: int | None,
        clock: Callable[[], float],
        on_change: "Callable[[Pool], None]",
    ) -> None:
        self.name = version.spec.function
        self.tenant = version.spec.tenant
        self.version = version
        self.demand = demand
        self.reserved = reserved
        self.used_at = -math.inf
        """When a task took a sandbox last."""
        self.mib = supply.memory_mib
        """What each one that waits is counted as."""
        self.closed = False
        self._supply = supply
        self._clock = clock
        self._on_change = on_change
        self._armed: deque[Standby] = deque()
        self._arming: deque[Standby] = deque()
        self._making: set[asyncio.Task[Sandbox]] = set()
        self._takers: deque[asyncio.Future[Taken]] = deque()
        self._leaving: set[asyncio.Task[None]] = set()
        self._out = 0
        self.trouble: str | None = None
        """Why a sandbox was of no use to any task, until whoever tells it has taken note."""
        self._pause = 0.0
        self._retry_at = 0.0
        self._supply_closed = False

    # --- what there is

    @property
    def armed(self) -> int:
        return len(self._armed)

    @property
    def starting(self) -> int:
        """How many are on their way, for tasks that wait too."""
        return len(self._making) + len(self._arming)

    @property
    def kept(self) -> int:
        """How many wait for a task, or will once they are made."""
        return max(0, len(self._armed) + self.starting - len(self._takers))

    @property
    def spare(self) -> int:
        """How many of them may make room for others."""
        return max(0, self.kept - (self.reserved or 0))

    def wanted(self, now: float) -> int:
        if self.closed:
            return 0
        if self.reserved is not None:
            return self.reserved
        wanted = self.demand.wanted(now)
        # One that serves many tasks is back as soon as its task is over.
        return max(0, wanted - self._out) if self.version.isolation == "warm" else wanted

    def lacks(self, now: float) -> bool:
        return self.kept < self.wanted(now) and now >= self._retry_at and not self.rests(now)

    def rests(self, now: float) -> bool:
        """Whether what was taken is not to be replaced yet: where tasks run side by side, the next one waits
        for it already."""
        alone = self._out + len(self._takers) <= 1
        return self._is_heavy and alone and now < self.used_at + REST_SECONDS

    @property
    def _is_heavy(self) -> bool:
        return self.version.isolation == "container"

    def idle(self, now: float) -> bool:
        """Whether it may be forgotten: it was not used for a while, and nothing is wanted, kept or out."""
        busy = self.wanted(now) or self.kept or self._out or self._takers or self._making
        return not busy and now - self.used_at >= WINDOW_SECONDS

    @property
    def gone(self) -> bool:
        """Whether it is closed, and nothing of it is left."""
        return self._supply_closed and not self._leaving

    # --- a task's side

    def at_hand(self) -> tuple[Taken, How] | None:
        """The one that is furthest, if there is one."""
        for waiting, how in ((self._armed, How.ARMED), (self._arming, How.STARTING)):
            while waiting:
                standby = waiting.popleft()
                standby.look()
                if standby.fault is None:
                    self._used()
                    self.forgive()
                    self._on_change(self)
                    return self._lend(standby), how
        return None

    async def take(self) -> tuple[Taken, How]:
        """The one that is furthest. Raises `SandboxLost` when one has to be made, and cannot be.

        If cancelled, what was being made for the task waits for another.
        """
        return self.at_hand() or await self._wait()

    def _used(self) -> None:
        self.used_at = self._clock()
        self.demand.took(self.used_at)

    async def _wait(self) -> tuple[Taken, How]:
        self._used()
        taker: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        how = How.STARTING
        if len(self._making) < len(self._takers):
            how = How.MADE
            self.make()
        self._on_change(self)
        try:
            return await taker, how
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled() and taker.exception() is None:
                await taker.result().remove()
            raise
        finally:
            if taker in self._takers:
                self._takers.remove(taker)
            self._on_change(self)

    def _lend(self, standby: Standby) -> Taken:
        self._out += 1
        return standby.lend(self._give_back)

    async def _give_back(self, standby: Standby, untouched: bool) -> None:
        self._out -= 1
        if untouched:
            self._arrive(standby)
        elif self._is_heavy:
            self._leave(self._remove_later(standby))
        else:
            await standby.remove()
        self._changed()

    async def _remove_later(self, standby: Standby) -> None:
        if not self.closed:
            await asyncio.sleep(REST_SECONDS)
        await standby.remove()

    # --- making them

    def make(self) -> None:
        if (sandbox := self._supply.at_hand()) is not None:
            self._arrive(self._standby(sandbox))
            self._changed()
            return
        task = asyncio.create_task(self._supply.make())
        self._making.add(task)
        task.add_done_callback(self._made)

    def _standby(self, sandbox: Sandbox) -> Standby:
        return Standby(sandbox, self._look, self._clock())

    def _made(self, task: "asyncio.Task[Sandbox]") -> None:
        self._making.discard(task)
        if task.cancelled():
            self._refuse(SandboxLost("the dispatcher stops"))
        elif (error := task.exception()) is None:
            self._arrive(self._standby(task.result()))
        else:
            if not isinstance(error, SandboxLost | IsolationRefused):
                log.error("making a sandbox broke", function=self.name, exc_info=error)
            self._fail(str(error))
            self._refuse(error)
        self._changed()

    def _refuse(self, error: BaseException) -> None:
        """Of the tasks that wait, the last one hears of it, if none is being made for it now."""
        if len(self._takers) > len(self._making):
            taker = self._takers.pop()
            if not taker.done():
                taker.set_exception(error)

    def _arrive(self, standby: Standby) -> None:
        """One more that nobody has: it goes to a task that waits, else it waits for one."""
        if standby.fault is not None:
            self._drop(standby)
            self._fail(standby.fault)
            return
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(self._lend(standby))
                return
        if self.closed:
            self._drop(standby)
            return
        (self._armed if standby.armed else self._arming).append(standby)
        standby.watch()

    def _look(self, standby: Standby) -> None:
        """One that waits has told that it is armed, or has ended."""
        if standby.fault is not None:
            for waiting in (self._armed, self._arming):
                if standby in waiting:
                    waiting.remove(standby)
            self._drop(standby)
            self._fail(standby.fault)
        elif standby in self._arming:
            self._arming.remove(standby)
            self._armed.append(standby)
        self._changed()

    # --- giving them up

    def trim(self, now: float) -> None:
        """Give up what is not wanted any more, and what does not come to be armed."""
        while self._arming and now - self._arming[0].since > START_UP_SECONDS:
            self._drop(self._arming.popleft())
            self._fail(f"its handler's import took more than {START_UP_SECONDS:g} s")
        while self.kept > self.wanted(now):
            self.give_up()

    def rest(self, now: float) -> None:
        """If it was not used just now, nothing of it is about to be: what its supply holds back may go; else
        as much of that as no task took for as long as use is looked back on."""
        lull = now - self.used_at >= LULL_SECONDS and not self._making and not self._takers
        if lull and not self._is_heavy and self.kept >= self.wanted(now):
            self._leave(self._supply.rest())
        else:
            self._supply.shed(WINDOW_SECONDS)

    def give_up(self) -> None:
        """One that is kept, and of those the one that is least ready."""
        if len(self._making) > len(self._takers):
            self._making.pop().cancel()
        else:
            self._drop(self._arming.pop() if self._arming else self._armed.popleft())

    def close(self) -> None:
        """Keep none. What is out stays as it is, and the supply stands until that has come back."""
        self.closed = True
        while self.kept:
            self.give_up()
        self._changed()

    async def shut(self) -> None:
        """Keep none, and remove all that there is."""
        self.close()
        for making in list(self._making):
            making.cancel()
        if self._making:
            await asyncio.wait(self._making)
        if not self._supply_closed:
            self._close_supply()
        while self._leaving:
            await asyncio.wait(self._leaving)

    def _drop(self, standby: Standby) -> None:
        self._leave(standby.remove())

    def _leave(self, leaving: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(leaving)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _close_supply(self) -> None:
        self._supply_closed = True
        self._leave(self._supply.close())

    def _changed(self) -> None:
        if self.closed and not (self._supply_closed or self._out or self._takers or self._making):
            self._close_supply()
        self._on_change(self)

    # --- what goes wrong

    def _fail(self, reason: str) -> None:
        """One was of no use to any task. What fails every time is tried ever more seldom."""
        self.trouble = reason
        self._pause = min(MOST_PAUSE_SECONDS, 2 * self._pause or 1.0)
        self._retry_at = self._clock() + self._pause

    def forgive(self) -> None:
        """It was not the function's doing."""
        self._pause = self._retry_at = 0.0
