"""Sandboxes forked inside one container of the function's (`isolation = "fork"`).

Inside are `images/python/mayfly_relay.py`, `mayfly_parent.py` and `mayfly_confinement.py`.
"""

import asyncio
import os
import time
from dataclasses import replace
from typing import Any, Final

import msgspec

from dispatcher.pools.nursery import Nursery
from dispatcher.runtimes.base import Runtime, Sandbox, SandboxSpec, Use
from mayfly.errors import IsolationRefused, SandboxLost
from mayfly.function import Limits

MAX_FORKS: Final = 20_000
MAX_AGE_SECONDS: Final = 3600.0
"""How many children a parent has, and how long it lives, before another takes its place."""
REFUSED_SECONDS: Final = 60.0
"""For so long a machine's refusal is taken for its last word."""
BASE_MIB: Final = 64
"""Memory of a container for the parent itself, beside its tasks'."""
CHILD_MIB: Final = 8
"""What a child that waits for its task is counted as: what it does not share with its parent."""
AT_ONCE: Final = 32
MOST_AT_ONCE: Final = 128
OPEN_FILES: Final = 8192
"""Of the relay, which holds three for each child. More than functions usually have: the kernel counts
descriptors that are on their way in sockets by user, over all containers, and holds each sender of some, as
the relay is, to its own limit."""


def at_once(slots: int) -> int:
    """How many children a container has at most, of a dispatcher with so many slots.

    The fewer parents and relays there are, the more of what each touches stays in the processors' caches. But
    a container's limit on memory is that of all its tasks together: no more than are of use.
    """
    return min(max(AT_ONCE, slots // 2), MOST_AT_ONCE)


class Forks:
    """A `Supply` of forks. A container has at most `at_once` children; beyond that another is launched.

    `make` also raises `IsolationRefused` where this machine does not let a container confine them; `refusal`
    then says why. It is tried again `REFUSED_SECONDS` later, for somebody may have mended that.
    """

    def __init__(
        self,
        runtime: Runtime,
        spec: SandboxSpec,
        *,
        at_once: int = AT_ONCE,
        max_forks: int = MAX_FORKS,
        max_age_seconds: float = MAX_AGE_SECONDS,
    ) -> None:
        self._runtime = runtime
        self._spec = parent_spec(spec, at_once)
        self._at_once = at_once
        self._max_forks = max_forks
        self._max_age_seconds = max_age_seconds
        self._nurseries: list[Nursery] = []
        self._launching: asyncio.Task[Nursery] | None = None
        self._closed = False
        self._refusal: str | None = None
        self._refused_at = 0.0

    @property
    def memory_mib(self) -> int:
        return CHILD_MIB

    @property
    def refusal(self) -> str | None:
        """Why this machine does not let a container confine its tasks, as far as that is known."""
        is_known = time.monotonic() < self._refused_at + REFUSED_SECONDS
        return self._refusal if is_known else None

    def at_hand(self) -> Sandbox | None:
        nursery = None if self.refusal is not None else self._with_room()
        return None if nursery is None else nursery.make()

    async def make(self) -> Sandbox:
        if (refusal := self.refusal) is not None:
            raise IsolationRefused(refusal)
        return (await self._nursery()).make()

    async def rest(self) -> None:
        """Remove the containers that have no child: the function is not in use."""
        for nursery in [nursery for nursery in self._nurseries if not nursery.lines]:
            await nursery.retire()

    def shed(self, seconds: float) -> None:
        """What waits unseen are containers, and no sandboxes."""

    async def close(self) -> None:
        self._closed = True
        if self._launching is not None:
            self._launching.cancel()
            await asyncio.wait({self._launching})
        for nursery in self._nurseries:
            await nursery.remove()
        self._nurseries.clear()

    def _with_room(self) -> Nursery | None:
        """A container that can have one more child. While another is launched in an old one's place, the old
        one serves on."""
        self._nurseries = [n for n in self._nurseries if not n.ended]
        useful = [
            n for n in self._nurseries if not n.retired and not n.hangs and len(n.lines) < self._at_once
        ]
        for nursery in useful:
            if not self._is_old(nursery):
                return nursery
        if self._launching is None:
            self._launching = asyncio.create_task(self._launch())
        return useful[0] if useful else None

    async def _nursery(self) -> Nursery:
        while (nursery := self._with_room()) is None:
            assert self._launching is not None
            launched = await asyncio.shield(self._launching)
            # Even if it has ended meanwhile, by its import: that is for the task to tell.
            if len(launched.lines) < self._at_once:
                return launched
        return nursery

    async def _launch(self) -> Nursery:
        try:
            if self._closed:
                raise SandboxLost("the function's containers were closed")
            nursery = Nursery(await self._runtime.launch(self._spec), self._spec.function)
            try:
                await nursery.up()
            except BaseException as error:
                await nursery.remove()
                if isinstance(error, IsolationRefused):
                    self._refusal, self._refused_at = str(error), time.monotonic()
                raise
        finally:
            self._launching = None
        for old in self._nurseries:
            if self._is_old(old) or old.hangs:
                await old.retire()
        self._nurseries.append(nursery)
        return nursery

    def _is_old(self, nursery: Nursery) -> bool:
        age = time.monotonic() - nursery.born
        return nursery.made >= self._max_forks or age >= self._max_age_seconds


def parent_spec(spec: SandboxSpec, at_once: int) -> SandboxSpec:
    """The container for so many tasks: its limits are theirs together, and each keeps to its own inside."""
    limits = spec.limits
    options: dict[str, Any] = {
        "memoryMiB": limits.memory_mib,
        "pids": limits.pids,
        "openFiles": limits.open_files,
        "network": spec.network != "none",
    }
    together = Limits(
        timeout_seconds=limits.timeout_seconds,
        memory_mib=BASE_MIB + at_once * limits.memory_mib,
        cpu=min(at_once * limits.cpu, float(os.cpu_count() or 1)),
        # Each task has one process more, the first of its namespace.
        pids=16 + at_once * (limits.pids + 1),
        open_files=max(limits.open_files, OPEN_FILES),
        tmp_mib=limits.tmp_mib,
    )
    command = ("forks", msgspec.json.encode(options).decode())
    return replace(spec, use=Use.FORKS, task_id="", limits=together, command=command)
