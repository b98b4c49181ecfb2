"""A process dies at every step of a task's way, one test each: nothing is lost, each task has one outcome.

All of them die at once, each in a queue of its own, since what takes time is that a dead one is missed.
"""

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest

from mayfly.adapters.kafka import FUNCTIONS_TOPIC, Log, ensure_topics
from mayfly.adapters.kafka_catalog import publish
from mayfly.build import build
from mayfly.client import Client, Task
from mayfly.faultpoints import GATEWAY, WEBHOOKS, FaultPoint
from mayfly.function import Function
from mayfly.stack.stack import settings_of
from mayfly.task import FailureType, RetryPolicy
from tests.conftest import LiveStack
from tests.e2e.conftest import Fleet, eventually
from tests.web import WEB

HANDLER = """\
def handler(event, context):
    if context.attempt < event.get("from", 1):
        raise RuntimeError("too early")
    return {"index": event["index"]}
"""
EACH = 2
"""Tasks of each kind: between them they come by every point."""
DISPATCHER = [point for point in FaultPoint if point not in (*GATEWAY, *WEBHOOKS)]
POLICY = RetryPolicy(max_attempts=6, initial_delay=0.1)


class Scenario:
    """A queue with a gateway, and a dispatcher that dies at a point; another one takes its place."""

    def __init__(self, fleet: Fleet, image: Function, point: FaultPoint) -> None:
        self.fleet = fleet
        self.point = point
        self.function = msgspec.structs.replace(
            image, name=f"crash-{fleet.settings.queue[-12:]}", queue=fleet.settings.queue
        )
        self.died = ""
        self.tasks: dict[str, list[Task]] = {}

    def play(self) -> "Scenario":
        client = self.fleet.gateway()
        doomed = self.fleet.start("dispatcher", MAYFLY_FAULT_POINT=f"{self.point}:{self._times}")
        ids = {kind: [self._submit(client, kind, n) for n in range(EACH)] for kind in KINDS}
        eventually(lambda: doomed.process.poll() is not None, f"it comes to {self.point}")
        self.died = signal.Signals(-doomed.exit_code()).name
        self.fleet.start("dispatcher").until_up()
        for kind, task_ids in ids.items():
            self.tasks[kind] = [client.wait(task_id, timeout=240) for task_id in task_ids]
        return self

    @property
    def _times(self) -> int:
        """What happens before any task is there as well is let pass a few times."""
        always = (FaultPoint.POLLED, FaultPoint.PROJECTED, FaultPoint.MARKED, FaultPoint.COMMITTED)
        return 3 if self.point in always else 1

    def _submit(self, client: Client, kind: str, index: int) -> str:
        payload = {"index": index, "from": {"retried": 2, "failing": 99}.get(kind, 1)}
        retry = POLICY if kind == "retried" else RetryPolicy(max_attempts=1)
        delay = 1.0 if kind == "delayed" else None
        task = client.submit(self.function.name, payload, delay=delay, retry=retry)
        return task.task_id


KINDS = ("plain", "delayed", "retried", "failing")


async def deploy(fleet: Fleet, function: Function) -> None:
    log = Log(fleet.settings)
    await log.start()
    await publish(log, function)
    await log.close()


async def withdraw(fleet: Fleet, function: Function) -> None:
    """Another gateway on the same parts would go on to mind its queue, whose dispatchers are gone."""
    log = Log(fleet.settings)
    await log.start()
    await log.append(FUNCTIONS_TOPIC, None, key=function.name)
    await log.close()


def fleet_of(parts: LiveStack, directory: Path) -> Fleet:
    """A queue of its own on the session's parts."""
    own = {
        "MAYFLY_QUEUE": f"crash-{uuid.uuid4().hex[:12]}",
        "MAYFLY_STATE_DIR": str(directory / "state"),
        "MAYFLY_PORT": "0",
        "MAYFLY_PARTITIONS": "2",
        "MAYFLY_SLOTS": "2",
        # Every dispatcher lives for a few tasks: sandboxes that it makes ahead are for nobody.
        "MAYFLY_POOL_MEMORY_MIB": "0",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environment = {**others, **parts.environment, **own}
    return Fleet(settings_of(environment), directory, environment)


@pytest.fixture(scope="module")
def image(docker_engine: object, tmp_path_factory: pytest.TempPathFactory) -> Function:
    folder = tmp_path_factory.mktemp("crash") / "crash"
    folder.mkdir()
    (folder / "handler.py").write_text(HANDLER)
    return build(folder, docker_engine, on_progress=lambda _: None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def scenarios(
    stack_parts: LiveStack, image: Function, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[FaultPoint, "Future[Scenario]"]]:
    all_of_them: list[Scenario] = []
    played: dict[FaultPoint, Future[Scenario]] = {}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for point in DISPATCHER:
            fleet = fleet_of(stack_parts, tmp_path_factory.mktemp(point.value))
            scenario = Scenario(fleet, image, point)
            all_of_them.append(scenario)
            asyncio.run(ensure_topics(fleet.settings))
            asyncio.run(deploy(fleet, scenario.function))
            played[point] = threads.submit(scenario.play)
        yield played
    for scenario in all_of_them:
        scenario.fleet.stop()
        asyncio.run(withdraw(scenario.fleet, scenario.function))


AT_ONCE = 5
"""Scenarios: each has three processes."""


@pytest.mark.parametrize("point", DISPATCHER)
def test_a_dispatcher_that_dies_there_loses_nothing(
    scenarios: dict[FaultPoint, "Future[Scenario]"], point: FaultPoint
) -> None:
    scenario = scenarios[point].result()
    assert scenario.died == "SIGKILL"
    statuses = {kind: [task.status for task in tasks] for kind, tasks in scenario.tasks.items()}
    assert statuses == {
        "plain": ["COMPLETED"] * EACH,
        "delayed": ["COMPLETED"] * EACH,
        "retried": ["COMPLETED"] * EACH,
        "failing": ["FAILED"] * EACH,
    }
    for tasks in scenario.tasks.values():
        assert [task.result["index"] for task in tasks if task.status == "COMPLETED"] in ([0, 1], [])
    failures = [task.error.type for task in scenario.tasks["failing"] if task.error]
    assert failures == [FailureType.ERROR.value] * EACH
    counted = scenario.fleet.attempts().outcomes
    assert Counter(len(counted[task.task_id]) for tasks in scenario.tasks.values() for task in tasks) == {
        1: EACH * len(KINDS)
    }


@pytest.mark.parametrize("point", GATEWAY)
def test_a_gateway_that_dies_there_makes_one_task_of_what_is_sent_again(
    stack_parts: LiveStack, image: Function, tmp_path: Path, point: FaultPoint
) -> None:
    fleet = fleet_of(stack_parts, tmp_path)
    function = msgspec.structs.replace(
        image, name=f"crash-{fleet.settings.queue[-12:]}", queue=fleet.settings.queue
    )
    asyncio.run(ensure_topics(fleet.settings))
    asyncio.run(deploy(fleet, function))
    try:
        doomed = fleet.start("gateway", MAYFLY_FAULT_POINT=point.value).until_up()
        fleet.start("dispatcher").until_up()
        body = {"taskType": function.name, "payload": {"index": 7}}
        key = {"idempotency-key": f"crash-{uuid.uuid4()}"}

        def post(url: str) -> httpx.Response | None:
            with contextlib.suppress(httpx.HTTPError):
                return WEB.post(f"{url}/tasks", json=body, headers=key, timeout=30)
            return None

        deadline = time.monotonic() + 120
        while doomed.process.poll() is None:
            # Until its parts are there it answers 503, and is asked again.
            assert time.monotonic() < deadline
            answer = post(doomed.url)
            assert answer is None or answer.status_code == 503, answer.text
        assert signal.Signals(-doomed.exit_code()).name == "SIGKILL"
        client = fleet.gateway()
        answer = post(client.url)
        assert answer is not None
        assert answer.status_code == 202, answer.text
        task = client.wait(answer.json()["taskId"], timeout=240)
        assert (task.status, task.result) == ("COMPLETED", {"index": 7})
        attempts = fleet.attempts()
        assert {task_id: len(found) for task_id, found in attempts.outcomes.items()} == {task.task_id: 1}
    finally:
        fleet.stop()
        asyncio.run(withdraw(fleet, function))
