"""A short run: what dies most often, killed again and again under 200 tasks."""

import asyncio

import docker
import pytest

from tests.faults.chaos import Chaos, Plan
from tests.faults.checks import Bounds
from tests.faults.schedule import Target
from tests.faults.stage import Stage

PLAN = Plan(
    seed=1,
    tasks=200,
    seconds=0,
    targets=(Target.GATEWAY, Target.DISPATCHER, Target.REDIS, Target.S3, Target.DATA),
    pauses=False,
    most_open=20,
    # So that a machine on which everything takes long gets to its end at all.
    fault_seconds=60,
    patience=900,
    # How fast it recovers, and how much of so little it does twice, says something about the machine.
    bounds=Bounds(drain_seconds=None, duplicates=None),
)


@pytest.mark.timeout(2400)
def test_no_task_is_lost_and_each_has_one_outcome_while_parts_are_killed_and_redis_is_flushed(
    docker_engine: docker.DockerClient,
) -> None:
    stage = Stage(own_engine=False)
    try:
        stage.start()
        found = asyncio.run(Chaos(PLAN, stage).run())
    finally:
        stage.remove()
    print(*found, sep="\n")
    assert [verdict for verdict in found if verdict.kept is False] == []
