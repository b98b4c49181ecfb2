"""Sandboxes that are ready before their tasks come: for each function that is in use, or that asks for some.

A task never waits for the pools: what it takes is replaced behind it, as far as launches for tasks leave room
for that, and the memory of all that wait is bounded.
"""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, repeat, zip_longest
from typing import Final, Protocol

import msgspec
import structlog

from dispatcher.pools.base import Supply
from dispatcher.pools.budget import Holding, evictions
from dispatcher.pools.demand import Demand
from dispatcher.pools.pool import REST_SECONDS, How, Pool, Version
from dispatcher.runtimes.base import Runtime, Sandbox, SandboxSpec
from mayfly.errors import SandboxesUnavailable, SandboxLost
from mayfly.function import Function
from mayfly.task import DEFAULT_TENANT
from mayfly.versions import ALL, serving
from mayfly.waking import woken

log = structlog.get_logger(__name__)

Key = tuple[str, str]
"""Whose sandboxes they are: a function's, for one tenant."""

INTERVAL_SECONDS: Final = 1.0
"""How often it is looked whether something is wanted no more."""
ENGINE_PAUSE_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Between two questions whether an engine that is away is back; the last one is repeated."""

MakeSupply = Callable[[Runtime, SandboxSpec], Supply]


class Functions(Protocol):
    """The catalog, as far as it was read."""

    @property
    def revision(self) -> int: ...

    def get(self, name: str) -> Function | None: ...

    def all(self) -> list[Function]: ...


class Pools:
    """`supplies` are by isolation. `queue` is the one whose functions get what they ask for before any task
    comes; `most` bounds what a function in use keeps, `memory_mib` what all keep together; `at_once` how many
    are made at a time: as many as there are cores."""

    def __init__(
        self,
        runtime: Runtime,
        supplies: Mapping[str, MakeSupply],
        functions: Functions,
        *,
        queue: str,
        most: int,
        memory_mib: int,
        clock: Callable[[], float],
        at_once: int | None = None,
    ) -> None:
        self._runtime = runtime
        self._supplies = supplies
        self._functions = functions
        self._queue = queue
        self._most = most
        self._memory_mib = memory_mib
        self._clock = clock
        self._at_once = at_once or os.cpu_count() or 1
        self._pools: dict[Key, list[Pool]] = {}
        """One for each version that tasks run on."""
        self._last: dict[Key, tuple[Function, Pool]] = {}
        """Of those the one that the last task took from, and that task's function as the catalog has it: to
        find it by what its sandboxes are made of takes as long as to take one."""
        self._closing: list[Pool] = []
        self._changed: set[Pool] = set()
        self._look_at = -math.inf
        self._revision = -1
        self._wake = asyncio.Event()
        self._launching = 0
        """For tasks, past the pools."""
        self._too_large: set[str] = set()
        """The functions of which it was told that what they ask for does not fit."""
        self._stopped = False
        self.taken: Counter[tuple[str, How]] = Counter()
        """Sandboxes that tasks took, by function and by what was found."""
        self.evicted: Counter[str] = Counter()

    def at_hand(self, function: Function, spec: SandboxSpec) -> Sandbox | None:
        """As `take`, if nothing has to be waited for."""
        pool = self._of(function, spec.tenant)
        found = pool and pool.at_hand()
        if not found:
            return None
        sandbox, how = found
        self.taken[function.name, how] += 1
        return sandbox

    async def take(self, function: Function, spec: SandboxSpec) -> Sandbox:
        """A sandbox for a task: an armed one if there is, else one that is made now.

        Whoever took it removes it; if nothing was done with it, that puts it back. Its methods raise
        `SandboxUnused` where it turns out to have died before. Raises `SandboxLost`, `SandboxesUnavailable`
        where no other could be had either, and `IsolationRefused`.
        """
        try:
            sandbox, how = await self._take(function, spec)
        except SandboxLost as error:
            if isinstance(error, SandboxesUnavailable) or await self._runtime.healthy():
                raise
            raise SandboxesUnavailable(str(error)) from error
        self.taken[function.name, how] += 1
        return sandbox

    async def _take(self, function: Function, spec: SandboxSpec) -> tuple[Sandbox, How]:
        pool = self._of(function, spec.tenant)
        if pool is not None:
            return await pool.take()
        if function.runtime is not None:
            # It takes nothing of this machine.
            return await self._runtime.launch(spec), How.MADE
        self._launching += 1
        try:
            return await self._runtime.launch(spec), How.MADE
        finally:
            self._launching -= 1

    async def run(self) -> None:
        """Keep ready what is wanted, until cancelled."""
        while True:
            self._wake.clear()
            await self._see_to_troubles()
            self.fill()
            rests = any(pool.rests(self._clock()) for pool in self._changed)
            await woken(self._wake, REST_SECONDS if rests else INTERVAL_SECONDS)

    async def close(self) -> None:
        """Remove every sandbox that waits, and what they stand on: no task runs any more."""
        self._stopped = True
        pools, self._pools, self._last = [*self._all(), *self._closing], {}, {}
        await asyncio.gather(*(pool.shut() for pool in pools))

    @property
    def armed(self) -> dict[str, int]:
        """How many wait for a task, by function."""
        armed: Counter[str] = Counter()
        for pool in self._all():
            armed[pool.name] += pool.armed
        return dict(armed)

    @property
    def kept_mib(self) -> int:
        """What those that wait are counted as, those on their way among them."""
        return sum(pool.kept * pool.mib for pool in self._all())

    # --- which pool

    def _all(self) -> Iterator[Pool]:
        return chain.from_iterable(self._pools.values())

    def _of(self, function: Function, tenant: str) -> Pool | None:
        """None where a sandbox is launched for the task: by the Unix contract, where it starts with what is
        the task's, on another machine, and on an image that no task runs on that does not name it."""
        if self._stopped or not _is_pooled(function):
            return None
        last = self._last.get((function.name, tenant))
        if last is not None and last[0] is function:
            return last[1]
        version = _version(function, tenant)
        pool = self._find(function.name, tenant, version)
        if pool is None:
            self._follow()
            pool = self._find(function.name, tenant, version)
        if pool is not None:
            self._last[function.name, tenant] = function, pool
            return pool
        entry = self._functions.get(function.name)
        served = _served(entry, tenant) if entry else []
        found = next((one for one in served if _version(one, tenant) == version), None)
        return None if entry is None or found is None else self._open(found, tenant, retired=entry.retired)

    def _find(self, name: str, tenant: str, version: Version) -> Pool | None:
        found = self._pools.get((name, tenant), ())
        return next((pool for pool in found if pool.version == version), None)

    def _open(
        self, function: Function, tenant: str, *, retired: bool, in_place_of: Pool | None = None
    ) -> Pool:
        version = _version(function, tenant)
        old = in_place_of
        pool = Pool(
            version,
            self._supplies.get(function.isolation, self._supplies["container"])(self._runtime, version.spec),
            old.demand if old else Demand(self._most),
            reserved=self._reserved(function, tenant, retired=retired),
            clock=self._clock,
            on_change=self._notice,
        )
        if old is not None:
            pool.used_at = old.used_at
            self._close(old)
        self._pools.setdefault((function.name, tenant), []).append(pool)
        self._notice(pool)
        return pool

    def _close(self, pool: Pool) -> None:
        key = pool.name, pool.tenant
        self._pools[key].remove(pool)
        self._last.pop(key, None)
        if not self._pools[key]:
            del self._pools[key]
        self._closing.append(pool)
        pool.close()

    def _reserved(self, function: Function, tenant: str, *, retired: bool) -> int | None:
        if retired:
            # What still waits of its tasks is no use worth keeping any ready for.
            return 0
        if function.warm_pool and (function.queue != self._queue or tenant != DEFAULT_TENANT):
            return None
        refused = function.network == "egress" and self._runtime.egress_refusal
        if refused or function.warm_pool is None:
            return 0 if refused else None
        # Of several versions each has its part, and at least one.
        return math.ceil(function.warm_pool * function.share / ALL)

    def _follow(self) -> None:
        """Replace what the catalog has other versions of, and begin with what asks for some."""
        if self._functions.revision == self._revision:
            return
        self._revision = self._functions.revision
        for name, tenant in list(self._pools):
            self._follow_function(name, tenant)
        for entry in self._functions.all():
            for function in _served(entry, DEFAULT_TENANT):
                if self._find(
                    function.name, DEFAULT_TENANT, _version(function, DEFAULT_TENANT)
                ) is None and self._reserved(function, DEFAULT_TENANT, retired=entry.retired):
                    self._open(function, DEFAULT_TENANT, retired=entry.retired)

    def _follow_function(self, name: str, tenant: str) -> None:
        """A version that tasks run on keeps its pool; one that is new takes the place of one that is gone."""
        entry = self._functions.get(name)
        retired = entry is None or entry.retired
        missing = _served(entry, tenant) if entry else []
        gone = []
        for pool in list(self._pools[name, tenant]):
            function = next((one for one in missing if _version(one, tenant) == pool.version), None)
            if function is None:
                gone.append(pool)
                continue
            missing.remove(function)
            pool.reserved = self._reserved(function, tenant, retired=retired)
            self._notice(pool)
        missing.sort(key=lambda function: -function.share)
        for pool, successor in zip_longest(gone, missing[: len(gone)]):
            if successor is None:
                self._close(pool)
            else:
                self._open(successor, tenant, retired=retired, in_place_of=pool)

    # --- filling them

    def fill(self) -> None:
        """Give up what is not wanted any more, and begin to make what is."""
        if self._stopped:
            return
        now = self._clock()
        self._follow()
        changed, self._changed = self._changed, set()
        for pool in self._in_question(changed, now):
            pool.trim(now)
            pool.rest(now)
            if pool.idle(now):
                self._close(pool)
        self._make_room(0)
        pools = self._in_question(changed, now)
        self._look_at = now + INTERVAL_SECONDS if now >= self._look_at else self._look_at
        self._changed.update(pool for pool in pools if pool.rests(now))
        lacking = [pool for pool in pools if pool.lacks(now)]
        self._make(sorted(lacking, key=lambda pool: -pool.used_at), now)

    def _in_question(self, changed: Iterable[Pool], now: float) -> list[Pool]:
        """Now and then all of them: what is wanted also changes with time."""
        if now >= self._look_at:
            self._closing = [pool for pool in self._closing if not pool.gone]
            return list(self._all())
        return [pool for pool in changed if not pool.closed]

    def _make(self, lacking: list[Pool], now: float) -> None:
        """In turn, those first that were used last."""
        while lacking:
            for pool in list(lacking):
                if self._starting >= self._at_once:
                    # Whatever comes of one of those will be a change.
                    self._changed.update(lacking)
                    return
                if pool.lacks(now) and self._fits(pool):
                    pool.make()
                else:
                    lacking.remove(pool)

    @property
    def _starting(self) -> int:
        """Launches for tasks take what they need of this; only the rest goes to pools."""
        return self._launching + sum(pool.starting for pool in self._all())

    def _fits(self, pool: Pool) -> bool:
        """Whether there is memory for one more in the pool, once others have made room for it."""
        asked = pool.kept < (pool.reserved or 0)
        fits = self._make_room(pool.mib, for_pool=pool, of_all=asked)
        if fits:
            self._too_large.discard(pool.name)
        elif asked and pool.name not in self._too_large:
            self._too_large.add(pool.name)
            log.warning(
                "warm_pool does not fit into MAYFLY_POOL_MEMORY_MIB",
                function=pool.name,
                warm_pool=pool.reserved,
                kept=pool.kept,
                mib_each=pool.mib,
                mib_in_all=self._memory_mib,
            )
        return fits

    def _make_room(self, mib: int, *, for_pool: Pool | None = None, of_all: bool = True) -> bool:
        """Evict what others keep, those first that were used longest ago; unless it is `of_all`, of none that
        was used after the pool. Whether there is room now."""
        needed = self.kept_mib + mib - self._memory_mib
        if needed <= 0:
            return True
        others = (
            Holding(pool, pool.used_at, pool.spare, pool.mib)
            for pool in self._all()
            if pool is not for_pool and (of_all or for_pool is None or pool.used_at < for_pool.used_at)
        )
        victims = evictions(others, needed)
        for victim in victims or ():
            victim.of.give_up()
            self.evicted[victim.of.name] += 1
        return victims is not None

    # --- what goes wrong

    async def _see_to_troubles(self) -> None:
        """While the engine is away nothing is made; and nothing that it took is held against a function."""
        troubled = [pool for pool in self._changed if pool.trouble]
        if not troubled:
            return
        if await self._runtime.healthy():
            for pool in troubled:
                log.warning(
                    "a sandbox was lost before it had a task", function=pool.name, reason=pool.trouble
                )
        else:
            log.warning("the engine is away: no sandboxes are kept ready")
            for pause in chain(ENGINE_PAUSE_SECONDS, repeat(ENGINE_PAUSE_SECONDS[-1])):
                await asyncio.sleep(pause)
                if await self._runtime.healthy():
                    break
            log.info("the engine is back: sandboxes are kept ready again")
            for pool in self._all():
                pool.forgive()
        for pool in troubled:
            pool.trouble = None

    def _notice(self, pool: Pool) -> None:
        self._changed.add(pool)
        self._wake.set()


def _is_pooled(function: Function) -> bool:
    return function.contract == "python" and function.runtime is None


def _version(function: Function, tenant: str) -> Version:
    return Version(function.isolation, SandboxSpec.of(function, tenant=tenant))


def _served(entry: Function, tenant: str) -> list[Function]:
    """The versions that tasks run on and a pool can serve: those as one whose sandboxes are the same."""
    served: list[Function] = []
    for function in serving(entry):
        if not _is_pooled(function):
            continue
        version, share = _version(function, tenant), function.share
        for twin in [one for one in served if _version(one, tenant) == version]:
            served.remove(twin)
            share += twin.share
        served.append(function if share == function.share else msgspec.structs.replace(function, share=share))
    return served
