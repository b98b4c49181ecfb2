"""The runtime that a function names, beside the one that this dispatcher has for all others."""

from collections.abc import Mapping

from dispatcher.runtimes.base import Runtime, Sandbox, SandboxSpec
from mayfly.errors import IsolationRefused

UNSET = {"ecs": "set MAYFLY_ECS_CLUSTER for every dispatcher of the queue, or take the line out"}
"""What to do where a runtime that there is was not set up."""


class ChosenRuntime:
    """`named` are what functions may ask for by name: a task never runs on another one instead."""

    def __init__(self, own: Runtime, named: Mapping[str, Runtime]) -> None:
        self._own = own
        self._named = named

    @property
    def egress_refusal(self) -> str | None:
        return self._own.egress_refusal

    async def start(self) -> None:
        for runtime in self._all:
            await runtime.start()

    async def healthy(self) -> bool:
        """A named one says by what it raises that it is away: it keeps nothing ready that would ask."""
        return await self._own.healthy()

    async def launch(self, spec: SandboxSpec) -> Sandbox:
        """Raises `IsolationRefused` for a name that is none here."""
        if spec.runtime is None:
            return await self._own.launch(spec)
        if spec.runtime not in self._named:
            mend = UNSET.get(spec.runtime, "this dispatcher knows no such runtime")
            raise IsolationRefused(f'runtime = "{spec.runtime}" cannot be had here: {mend}')
        return await self._named[spec.runtime].launch(spec)

    async def remove_orphans(self) -> int:
        return sum([await runtime.remove_orphans() for runtime in self._all])

    async def close(self) -> None:
        for runtime in self._all:
            await runtime.close()

    @property
    def _all(self) -> list[Runtime]:
        return [self._own, *self._named.values()]
