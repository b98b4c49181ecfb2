"""A function on AWS ECS, from its post to its result, where Fargate is a container of this machine."""

from functools import partial

import docker
import msgspec
import pytest

from mayfly.function import Function
from mayfly.task import Status
from tests.e2e.conftest import Fleet, deployed, eventually
from tests.fargate import InContainer, fargate


@pytest.fixture
def far(fleet: Fleet, sleeper_image: Function) -> Function:
    return msgspec.structs.replace(sleeper_image, queue=fleet.settings.queue, runtime="ecs", network="egress")


async def test_a_task_runs_on_ecs_and_another_is_cancelled_there(
    fleet: Fleet, far: Function, docker_engine: docker.DockerClient
) -> None:
    with fargate() as cloud:
        cloud.begin(partial(InContainer, docker_engine))
        async with deployed(fleet, far):
            client = fleet.gateway()
            fleet.dispatchers(1, **cloud.variables)
            # There is no room at first: the attempt waits, and no attempt is lost for it.
            cloud.fail("Capacity is unavailable at this time. Please try again later")
            done = client.submit("sleeper", {"index": 1, "seconds": 0})
            endless = client.submit("sleeper", {"index": 2, "seconds": 600})
            task = client.wait(done.task_id, timeout=120)
            assert task.status is Status.COMPLETED, task.error
            assert task.result == {"index": 1, "attempt": 1}
            eventually(lambda: len(cloud.runs) == 2, "both have a machine")
            client.cancel(endless.task_id)
            assert client.wait(endless.task_id, timeout=120).status is Status.CANCELLED
            eventually(lambda: all(run.told["lastStatus"] == "STOPPED" for run in cloud.runs), "none runs on")
            assert len(cloud.runs) == 2
