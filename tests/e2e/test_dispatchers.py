"""Several dispatchers, one queue: they share the work, and none of it is lost when one of them goes."""

import signal

import pytest

from mayfly.adapters.s3 import Blobs
from mayfly.client import Client
from mayfly.function import Function
from mayfly.task import MAX_LOSSES, FailureType, Status
from tests.e2e.conftest import Fleet, eventually


def submit(client: Client, count: int, *, seconds: float) -> list[str]:
    return [client.submit("sleeper", {"index": i, "seconds": seconds}).task_id for i in range(count)]


def wait_for_all(client: Client, ids: list[str]) -> None:
    for index, task_id in enumerate(ids):
        task = client.wait(task_id, timeout=240)
        assert task.status is Status.COMPLETED, (task_id, task.error)
        assert task.result["index"] == index


async def expect_one_outcome_each(fleet: Fleet, ids: list[str]) -> None:
    """By the log itself: one outcome that counts for each task, and its result in S3 with the hash named."""
    blobs = Blobs(fleet.settings)
    outcomes = fleet.attempts().outcomes
    assert {task_id: len(outcomes[task_id]) for task_id in ids} == dict.fromkeys(ids, 1)
    for task_id in ids:
        result = outcomes[task_id][0].outcome.result
        assert result is not None
        stored = await blobs.put(f"check/{task_id}", await blobs.get(result.blob.key), "text/plain")
        assert (stored.size, stored.sha256) == (result.blob.size, result.blob.sha256)


async def test_three_dispatchers_share_300_tasks_and_each_completes_once(
    fleet: Fleet, light_sleeper: Function
) -> None:
    client = fleet.gateway()
    fleet.dispatchers(3)
    ids = submit(client, 300, seconds=0)
    wait_for_all(client, ids)
    await expect_one_outcome_each(fleet, ids)
    attempts = fleet.attempts()
    assert all(len(attempts.claims[task_id]) == 1 for task_id in ids), "nothing ran twice"
    workers = {attempts.claims[task_id][0].dispatcher for task_id in ids}
    assert len(workers) == 3, "each of them had a part of it"


async def test_a_dispatcher_that_is_told_to_stop_lets_its_tasks_finish_and_loses_none(
    fleet: Fleet, sleeper: Function
) -> None:
    client = fleet.gateway()
    first, _ = fleet.dispatchers(2)
    ids = submit(client, 40, seconds=0.3)
    eventually(lambda: sum(len(one) for one in fleet.attempts().outcomes.values()) >= 10, "half-way")
    first.signal(signal.SIGTERM)
    assert first.exit_code() == 0
    wait_for_all(client, ids)
    await expect_one_outcome_each(fleet, ids)
    attempts = fleet.attempts()
    assert all(len(attempts.claims[task_id]) == 1 for task_id in ids), "nothing had to run again"


async def test_what_a_killed_dispatcher_ran_runs_again_under_a_higher_attempt(
    fleet: Fleet, sleeper: Function
) -> None:
    client = fleet.gateway()
    first, second = fleet.dispatchers(2)
    ids = submit(client, 30, seconds=1)
    names = {worker.address: worker.id for worker in client.workers()}
    victim = names[first.url]

    def runs_two() -> bool:
        attempts = fleet.attempts()
        held = [t for t, claims in attempts.claims.items() if claims[-1].dispatcher == victim]
        return len([task_id for task_id in held if not attempts.outcomes[task_id]]) >= 2

    eventually(runs_two, "the victim is at work on two tasks")
    first.signal(signal.SIGKILL)
    wait_for_all(client, ids)
    await expect_one_outcome_each(fleet, ids)
    attempts = fleet.attempts()
    again = [task_id for task_id in ids if len(attempts.claims[task_id]) > 1]
    assert again, "what it ran was taken over"
    for task_id in again:
        assert [claim.attempt for claim in attempts.claims[task_id]] == [1, 2]
        assert client.get(task_id).attempt == 2
    assert second.process.poll() is None


async def test_no_sandbox_outlives_a_killed_dispatcher_once_another_starts_here(
    fleet: Fleet, sleeper: Function, docker_engine: object
) -> None:
    client = fleet.gateway()
    (first,) = fleet.dispatchers(1)
    (task_id,) = submit(client, 1, seconds=60)
    containers = docker_engine.containers  # type: ignore[attr-defined]
    (worker,) = [worker for worker in client.workers() if worker.address == first.url]
    mine = {"label": f"mayfly.dispatcher={worker.id}"}
    eventually(lambda: task_id in first.log.read_text(), "it has the task")
    # The task's, and one that is ready for the next.
    eventually(lambda: len(containers.list(sparse=True, filters=mine)) == 2, "the sandboxes run")
    first.signal(signal.SIGKILL)
    first.exit_code()
    assert containers.list(sparse=True, filters=mine), "nobody was there to remove them"
    # This one will take the task over, and is not to wait for it in the end.
    fleet.start("dispatcher", MAYFLY_GRACE_SECONDS="0").until_up()
    assert containers.list(all=True, sparse=True, filters=mine) == []


@pytest.mark.timeout(600)
async def test_a_task_that_kills_each_dispatcher_it_meets_becomes_a_dead_letter_and_holds_nobody(
    fleet: Fleet, sleeper: Function
) -> None:
    client = fleet.gateway()
    life = {"MAYFLY_HEARTBEAT_LIFE_SECONDS": "2"}
    (victim,) = fleet.dispatchers(1, **life)
    (poison,) = submit(client, 1, seconds=3600)
    harmless: list[str] = []
    for kills in range(MAX_LOSSES + 1):

        def runs_again(kills: int = kills) -> bool:
            return len(fleet.attempts().claims[poison]) > kills

        eventually(runs_again, f"it runs after {kills} kills")
        victim.signal(signal.SIGKILL)
        victim.exit_code()
        harmless += submit(client, 3, seconds=0)
        victim = fleet.start("dispatcher", **life).until_up()
    task = client.wait(poison, timeout=240)
    assert (task.status, task.error and task.error.type) == (Status.FAILED, FailureType.LOST.value)
    eventually(lambda: poison in [letter.task_id for letter in client.dead_letters()], "it is a dead letter")
    for task_id in harmless:
        assert client.wait(task_id, timeout=240).status is Status.COMPLETED
    assert victim.process.poll() is None, "the last one lives"
