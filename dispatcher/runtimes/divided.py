"""Two runtimes as one: networks are made by an engine, which a sandbox without one can do without."""

from dispatcher.runtimes.base import Runtime, Sandbox, SandboxSpec


class DividedRuntime:
    """Sandboxes without a network from `own`, those with egress from `engine`."""

    def __init__(self, own: Runtime, engine: Runtime) -> None:
        self._own = own
        self._engine = engine

    @property
    def egress_refusal(self) -> str | None:
        return self._engine.egress_refusal

    async def start(self) -> None:
        await self._own.start()
        await self._engine.start()

    async def healthy(self) -> bool:
        # A function that wants egress has failed while the other runtime is well: it was the engine, then.
        return await self._own.healthy() and await self._engine.healthy()

    async def launch(self, spec: SandboxSpec) -> Sandbox:
        return await (self._own if spec.network == "none" else self._engine).launch(spec)

    async def remove_orphans(self) -> int:
        return await self._own.remove_orphans() + await self._engine.remove_orphans()

    async def close(self) -> None:
        await self._own.close()
        await self._engine.close()
