"""A process that takes turns, between two of them."""

import asyncio

import pytest
from pool_world import Scripted

from dispatcher.pools import worker as of_workers
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
