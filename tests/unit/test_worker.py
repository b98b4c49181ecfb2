"""A process that takes turns, between two of them."""

import asyncio

import pytest
from pool_world import Engine, Scripted, until

from dispatcher.pools import worker as of_workers
from dispatcher.pools.turns import Turns
from dispatcher.pools.worker import ARMED, Worker
from dispatcher.runtimes.base import SandboxSpec


def resting(deaths: list[Worker]) -> tuple[Worker, Scripted]:
    """One whose answer has just ended."""
    sandbox = Scripted("w", SandboxSpec("i", task_id="", function="f"))
    worker = Worker(sandbox, deaths.append)
    worker.take()
    worker.rearm(b"")
    return worker, sandbox


async def test_it_is_ready_when_it_has_said_so() -> None:
    worker, sandbox = resting([])
    waiting = asyncio.create_task(worker.ready())
    sandbox.says(ARMED[:3]).says(ARMED[3:])
    assert await waiting
    await worker.remove()


@pytest.mark.parametrize("said", [b"x" * len(ARMED), ARMED + b"x", None])
async def test_what_says_anything_else_or_ends_is_dead(said: bytes | None) -> None:
    deaths: list[Worker] = []
    worker, sandbox = resting(deaths)
    if said is None:
        sandbox.ends()
    else:
        sandbox.says(said)
    assert deaths == [worker]
    assert not await worker.ready()


async def test_what_is_ready_too_late_stays_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_workers, "REARM_SECONDS", 0.0)
    deaths: list[Worker] = []
    worker, sandbox = resting(deaths)
    assert not await worker.ready()
    sandbox.says(ARMED)
    assert not worker.is_ready
    assert deaths == [worker]


# --- those that wait for a turn


async def test_one_that_was_to_have_a_turn_which_nobody_wants_any_more_goes() -> None:
    supply = Turns(Engine(), SandboxSpec("i", task_id="", function="f"))  # type: ignore[arg-type]
    worker, sandbox = resting([])
    await supply.give_back(worker)
    making = asyncio.create_task(supply.make())
    await until(lambda: supply.free == 0)
    making.cancel()
    await until(lambda: sandbox.removed)
    await supply.close()


async def test_those_that_have_waited_longest_are_shed_first() -> None:
    supply = Turns(Engine(), SandboxSpec("i", task_id="", function="f"))  # type: ignore[arg-type]
    workers = [resting([]) for _ in range(3)]
    for worker, _ in workers:
        await supply.give_back(worker)
    workers[0][0].free_since -= 30
    workers[1][0].free_since -= 20
    supply.shed(25)
    await until(lambda: workers[0][1].removed)
    assert supply.free == 2
    supply.shed(15)
    await until(lambda: workers[1][1].removed)
    assert not workers[2][1].removed
    await supply.rest()
    await supply.close()
