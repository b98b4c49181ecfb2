import pytest

from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.divided import DividedRuntime


class Named:
    """A runtime that tells its name."""

    def __init__(self, name: str, *, well: bool = True) -> None:
        self.name = name
        self.well = well
        self.calls: list[str] = []
        self.egress_refusal = f"{name} refuses"

    async def start(self) -> None:
        self.calls.append("start")

    async def healthy(self) -> bool:
        return self.well

    async def launch(self, spec: SandboxSpec) -> str:
        return self.name

    async def remove_orphans(self) -> int:
        return 2

    async def close(self) -> None:
        self.calls.append("close")


@pytest.mark.parametrize(("network", "name"), [("none", "own"), ("egress", "engine")])
async def test_only_what_needs_a_network_goes_to_the_engine(network, name):
    divided = DividedRuntime(Named("own"), Named("engine"))
    spec = SandboxSpec(image="i", task_id="t", function="f", network=network)
    assert await divided.launch(spec) == name
    assert divided.egress_refusal == "engine refuses"


async def test_both_are_started_asked_swept_and_closed():
    own, engine = Named("own"), Named("engine", well=False)
    divided = DividedRuntime(own, engine)
    await divided.start()
    assert not await divided.healthy()
    assert await divided.remove_orphans() == 4
    await divided.close()
    assert own.calls == engine.calls == ["start", "close"]
