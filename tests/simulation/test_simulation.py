"""Dispatchers that die, lag, come back, and lose what they send: every task has one outcome all the same.

`make test-long` runs 100,000 steps. A run that fails names its kind and its seed:
`SIMULATION_SEED=17 SIMULATION_STEPS=900 pytest tests/simulation -k late`.
"""

import asyncio
import itertools
import os
import random
import uuid
from types import SimpleNamespace

import pytest
from virtual import VirtualLoop
from world import Chaos, Simulation

import dispatcher.chores
import dispatcher.claims
import dispatcher.commands
import dispatcher.errands
import dispatcher.executor
import dispatcher.intake
import dispatcher.limits
import dispatcher.rebuild

STEPS = int(os.environ.get("SIMULATION_STEPS", "1800"))
STEPS_OF_ONE = 150
SEED = int(os.environ.get("SIMULATION_SEED", "1"))

CHAOS = {
    "everything": Chaos(),
    "late": Chaos(fails=0.6, slow=0.3, late=0.2, slots=12),
    "narrow": Chaos(fails=0.6, narrow=True, zombies=False),
    "no zombies": Chaos(zombies=False),
    "alone": Chaos(dispatchers=1, slots=2),
    "calm": Chaos(kills=False, zombies=False, mutes=False, losses=False, redis=False),
}
RUNS = [
    (kind, seed) for seed in range(SEED, SEED + max(1, STEPS // STEPS_OF_ONE // len(CHAOS))) for kind in CHAOS
]


@pytest.mark.parametrize(("kind", "seed"), RUNS)
def test_every_task_has_one_outcome_and_nothing_is_left(
    kind: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(seed, STEPS_OF_ONE, CHAOS[kind], monkeypatch)


def simulate(seed: int, steps: int, chaos: Chaos, monkeypatch: pytest.MonkeyPatch) -> Simulation:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        simulation = Simulation(loop, seed, chaos)
        clock = SimpleNamespace(time=loop.time, time_ns=lambda: int(loop.time() * 1e9))
        for module in (dispatcher.chores, dispatcher.executor, dispatcher.rebuild):
            monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(dispatcher.executor, "invoke", simulation.invoke)
        numbers = itertools.count()
        ids = SimpleNamespace(uuid4=lambda: uuid.UUID(int=next(numbers)))
        monkeypatch.setattr(dispatcher.errands, "uuid", ids)
        monkeypatch.setattr(dispatcher.commands, "MAX_PENDING", simulation.most_pending)
        monkeypatch.setattr(dispatcher.intake, "MAX_RESUMED", simulation.most_resumed)
        if chaos.narrow:
            monkeypatch.setattr(dispatcher.intake, "MAX_CHORES", 5)
            monkeypatch.setattr(dispatcher.limits, "MAX_PARKED", 3)
        random.seed(seed)
        runner.run(run(simulation, steps))
        return simulation


async def run(simulation: Simulation, steps: int) -> None:
    for _ in range(steps):
        await simulation.step()
        if simulation.broke:
            raise simulation.broke[0]
    await simulation.come_to_an_end()
