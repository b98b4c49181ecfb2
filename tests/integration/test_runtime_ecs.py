"""The runtime `ecs`, on the real S3, against ECS as moto has it and machines that are processes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, PYTHON_PROBE, TASK, until

from dispatcher.invocation import Reply, Request, invoke
from dispatcher.output import OnLog, OnProgress
from dispatcher.runtimes import ecs
from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.ecs import EcsRuntime
from dispatcher.stop import Stop
from mayfly.adapters.s3 import Blobs
from mayfly.errors import SandboxesUnavailable, SandboxLost
from mayfly.function import Limits
from mayfly.settings import MIB, Settings
from mayfly.task import FailureType
from mayfly.uploads import REMOTE
from tests.fargate import REPOSITORY, Fargate, Process, Run, fargate

GB = 1024


@pytest.fixture(scope="module")
def clouds() -> Iterator[Fargate]:
    with fargate() as cloud:
        yield cloud


@pytest.fixture
def cloud(clouds: Fargate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fargate]:
    (tmp_path / "function").mkdir()
    (tmp_path / "function/handler.py").write_text(PYTHON_PROBE)
    clouds.begin(lambda definition, environment: Process(tmp_path / "function", environment))
    for name, value in clouds.variables.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(ecs, "POLL_SECONDS", 0.1)
    yield clouds
    clouds.end_all()


@pytest.fixture
def blobs(settings: Settings) -> Blobs:
    return Blobs(settings)


@pytest.fixture
async def runtime(cloud: Fargate, settings: Settings, blobs: Blobs) -> AsyncIterator[EcsRuntime]:
    await blobs.ensure_bucket()
    runtime = EcsRuntime(cloud.settings(settings), blobs)
    await runtime.start()
    yield runtime
    await runtime.close()


def spec(*, fence: int = 7, **changes: Any) -> SandboxSpec:
    of = {"image": "mayfly/fn-probe:0123456789ab", "task_id": TASK, "function": "probe", "runtime": "ecs"}
    return SandboxSpec(**{**of, "network": "egress", "fence": fence, **changes})


async def run(
    runtime: EcsRuntime,
    code: str,
    *,
    given: Any = None,
    seconds: float = 60,
    stop: Stop | None = None,
    on_log: OnLog | None = None,
    on_progress: OnProgress = lambda fraction, message: None,
    of: SandboxSpec | None = None,
    **request: Any,
) -> Reply:
    """Run the code as a function's handler; its `result` is the reply's."""
    asked = Request(
        **{
            "task_id": TASK,
            "task_type": "probe",
            "attempt": 1,
            "deadline_seconds": seconds,
            "payload": json.dumps({"code": code, "given": given}).encode(),
            "content_type": "application/json",
            "version": "1",
            "memory_mib": 256,
            "max_result": MIB,
            "max_log": 64 * 1024,
            **request,
        }
    )
    sandbox = await runtime.launch(of or spec())
    try:
        async with asyncio.timeout(PATIENCE):
            return await invoke(sandbox, "python", asked, stop=stop, on_log=on_log, on_progress=on_progress)
    finally:
        await sandbox.remove()


def until_said(words: bytes) -> tuple[OnLog, asyncio.Event]:
    said, heard = bytearray(), asyncio.Event()

    def hear(chunk: bytes) -> None:
        said.extend(chunk)
        if words in said:
            heard.set()

    return hear, heard


Ending = Callable[[Fargate, Run], None]


async def run_until_ended(runtime: EcsRuntime, cloud: Fargate, end: Ending) -> Reply:
    """A function that waits, until its machine ends in some way."""
    hear, heard = until_said(b"at work")
    running = asyncio.create_task(run(runtime, "import time; print('at work'); time.sleep(600)", on_log=hear))
    await asyncio.wait_for(heard.wait(), PATIENCE)
    await asyncio.to_thread(end, cloud, cloud.runs[-1])
    return await running


async def test_a_task_runs_on_a_machine_of_its_own_and_its_result_log_and_progress_come_home(
    runtime: EcsRuntime, cloud: Fargate, blobs: Blobs
) -> None:
    seen: list[tuple[float, str]] = []
    reply = await run(
        runtime,
        "import os\nprint('hello'); context.progress(0.5, 'half')\n"
        "result = {'given': given, 'token': os.environ['TOKEN'], 'orders': 'MAYFLY_ORDERS' in os.environ}",
        given={"a": 1},
        on_progress=lambda fraction, message: seen.append((fraction, message)),
        env={"TOKEN": "of this task alone"},
    )
    assert reply.failure is None, reply
    assert json.loads(reply.result or b"") == {
        "given": {"a": 1},
        "token": "of this task alone",
        "orders": False,
    }
    assert reply.log == b"hello\n"
    assert seen[-1] == (0.5, "half")
    asked = cloud.named("RunTask")[-1]
    assert asked["cluster"] == cloud.cluster
    assert asked["launchType"] == "FARGATE"
    [environment] = [one["environment"] for one in asked["overrides"]["containerOverrides"]]
    assert [one["name"] for one in environment] == ["MAYFLY_ORDERS"], "nothing but where its orders are"
    await until(lambda: cloud.runs[0].told["lastStatus"] == "STOPPED")
    await runtime.close()
    token = asked["clientToken"]
    assert await blobs.older(f"{REMOTE}{token}/in", _tomorrow()) == [], "its input is gone from the store"


async def test_what_it_runs_on_is_as_large_as_the_function_asks_and_is_described_once(
    runtime: EcsRuntime, cloud: Fargate
) -> None:
    cloud.start = None
    asked = spec(limits=Limits(cpu=0.3, memory_mib=3 * GB, open_files=2048))
    launching = [asyncio.create_task(runtime.launch(replace(asked, task_id=task))) for task in ("a", "b")]
    await until(lambda: len(cloud.runs) == 2)
    for one in launching:
        one.cancel()
    await asyncio.wait(launching)
    [definition] = cloud.named("RegisterTaskDefinition")
    assert (definition["cpu"], definition["memory"]) == ("512", str(3 * GB))
    [container] = definition["containerDefinitions"]
    assert container["image"] == f"{REPOSITORY}:probe-0123456789ab"
    assert container["user"] == "65532:65532"
    assert container["memory"] == 3 * GB
    assert container["ulimits"] == [{"name": "nofile", "softLimit": 2048, "hardLimit": 2048}]
    assert "taskRoleArn" not in definition
    assert definition["family"].startswith("mayfly-fn-probe-")


async def test_a_payload_and_a_result_may_be_large_and_a_log_is_cut(runtime: EcsRuntime) -> None:
    reply = await run(
        runtime,
        "import sys\nsys.stderr.write('x' * 300_000)\nresult = given[::-1]",
        given="a" * 3 * MIB + "b",
        max_result=4 * MIB,
    )
    assert reply.failure is None, reply.failure
    assert json.loads(reply.result or b"") == "b" + "a" * 3 * MIB
    assert len(reply.log) + reply.log_dropped == 300_000
    assert len(reply.log) == 64 * 1024


async def test_a_function_that_raises_or_exits_has_the_outcome_that_it_has_anywhere(
    runtime: EcsRuntime,
) -> None:
    raised, exited = await asyncio.gather(
        run(runtime, "raise ValueError('no')"),
        run(runtime, "import os; os._exit(3)", of=spec(task_id="another")),
    )
    assert raised.failure is not None
    assert (raised.failure.type, raised.failure.error) == (FailureType.ERROR, "ValueError")
    assert exited.failure is not None
    assert (exited.failure.type, exited.failure.exit_code) == (FailureType.EXIT_CODE, 3)


async def test_a_task_whose_time_is_up_is_stopped_and_what_it_logged_is_kept(
    runtime: EcsRuntime, cloud: Fargate
) -> None:
    reply = await run(runtime, "import time; print('at work'); time.sleep(600)", seconds=2)
    assert reply.failure is not None
    assert reply.failure.type is FailureType.TIMEOUT
    assert reply.log == b"at work\n"
    await until(lambda: cloud.runs[0].stopped and cloud.runs[0].told["lastStatus"] == "STOPPED")


async def test_a_task_that_is_cancelled_is_stopped_and_can_clean_up(
    runtime: EcsRuntime, cloud: Fargate
) -> None:
    hear, heard = until_said(b"at work")
    stop = Stop()
    # In naps: a signal that comes after Python looked for one, and before the kernel sleeps, wakes nobody.
    code = "import time\ntry:\n print('at work')\n while True: time.sleep(0.05)\nfinally: print('cleaned up')"
    running = asyncio.create_task(run(runtime, code, stop=stop, on_log=hear))
    await asyncio.wait_for(heard.wait(), PATIENCE)
    stop.set()
    reply = await running
    assert reply.failure is not None
    assert reply.failure.type is FailureType.CANCELLED
    assert b"cleaned up" in reply.log
    await until(lambda: cloud.runs[0].told.get("stopCode") == "UserInitiated")


def _spot(cloud: Fargate, run: Run) -> None:
    cloud.end(run, reason="Your Spot Task was interrupted.", code="SpotInterruption")


def _gone(cloud: Fargate, run: Run) -> None:
    assert run.machine is not None
    run.machine.kill()


@pytest.mark.parametrize(
    ("end", "why"), [(_spot, "Spot Task was interrupted"), (_gone, "Essential container")]
)
async def test_a_machine_that_is_gone_without_a_word_is_a_loss(
    runtime: EcsRuntime, cloud: Fargate, end: Ending, why: str
) -> None:
    with pytest.raises(SandboxLost, match=why):
        await run_until_ended(runtime, cloud, end)


async def test_a_machine_that_is_taken_away_with_a_word_before_is_a_loss_too(
    runtime: EcsRuntime, cloud: Fargate
) -> None:
    def interrupt(cloud: Fargate, run: Run) -> None:
        assert run.machine is not None
        run.machine.stop()

    with pytest.raises(SandboxLost, match="Essential container"):
        await run_until_ended(runtime, cloud, interrupt)


async def test_a_machine_that_ran_out_of_memory_is_the_functions_doing(
    runtime: EcsRuntime, cloud: Fargate
) -> None:
    def exhaust(cloud: Fargate, run: Run) -> None:
        why = "OutOfMemoryError: Container killed due to memory usage"
        cloud.end(
            run,
            reason="Essential container in task exited",
            code="EssentialContainerExited",
            exit_code=137,
            why=why,
        )

    reply = await run_until_ended(runtime, cloud, exhaust)
    assert reply.failure is not None
    assert reply.failure.type is FailureType.OUT_OF_MEMORY


async def test_who_is_killed_for_want_of_memory_is_the_function_and_ecs_says_why(
    runtime: EcsRuntime, cloud: Fargate
) -> None:
    cloud.why = "OutOfMemoryError: container killed due to memory usage"
    reply = await run(runtime, "import os, signal; print('at work'); os.kill(os.getpid(), signal.SIGKILL)")
    assert reply.failure is not None
    assert reply.failure.type is FailureType.OUT_OF_MEMORY
    assert reply.log == b"at work\n"


@pytest.mark.parametrize(
    "refuse",
    [
        lambda cloud: cloud.fail("RESOURCE:CPU"),
        lambda cloud: cloud.fail("Capacity is unavailable at this time. Please try again later"),
        lambda cloud: cloud.refuse("ThrottlingException", "Rate exceeded"),
        lambda cloud: cloud.refuse("AccessDeniedException", "not authorized to perform: ecs:RunTask"),
        lambda cloud: cloud.refuse("ClientException", "You've reached the limit on the number of vCPUs"),
    ],
)
async def test_no_room_is_no_loss_and_is_waited_for(
    runtime: EcsRuntime, cloud: Fargate, refuse: Callable[[Fargate], None]
) -> None:
    cloud.start = None
    for _ in range(4):
        refuse(cloud)
    with pytest.raises(SandboxesUnavailable):
        await runtime.launch(spec())


async def test_what_ecs_will_never_take_is_a_loss(runtime: EcsRuntime, cloud: Fargate) -> None:
    cloud.refuse("InvalidParameterException", "The subnet ID 'subnet-1' does not exist")
    with pytest.raises(SandboxLost, match="does not exist") as caught:
        await runtime.launch(spec())
    assert not isinstance(caught.value, SandboxesUnavailable)


async def test_an_image_that_cannot_be_pulled_says_so(runtime: EcsRuntime, cloud: Fargate) -> None:
    cloud.start = None
    launching = asyncio.create_task(runtime.launch(spec()))
    await until(lambda: bool(cloud.runs))
    cloud.end(cloud.runs[0], reason="CannotPullContainerError: not found", code="TaskFailedToStart")
    with pytest.raises(SandboxLost, match="CannotPullContainerError"):
        await launching


async def test_an_attempt_stops_what_runs_of_an_earlier_one_and_leaves_a_later_one_alone(
    runtime: EcsRuntime, cloud: Fargate, settings: Settings, blobs: Blobs
) -> None:
    """As a dispatcher does that takes a task over, and as one does that was paused before it began."""
    orphan = await runtime.launch(spec(fence=3))
    successor = EcsRuntime(cloud.settings(settings), blobs)
    await successor.start()
    sandbox = await successor.launch(spec(fence=9))
    await until(lambda: cloud.runs[0].told["lastStatus"] == "STOPPED")
    assert cloud.runs[0].stopped
    with pytest.raises(SandboxLost, match="later attempt"):
        await runtime.launch(spec(fence=3))
    assert not cloud.runs[1].stopped
    await orphan.remove()
    await sandbox.remove()
    await successor.close()


async def test_a_launch_that_is_given_up_leaves_nothing_that_runs(
    runtime: EcsRuntime, cloud: Fargate
) -> None:
    cloud.start = None
    launching = asyncio.create_task(runtime.launch(spec()))
    await until(lambda: bool(cloud.runs))
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    await until(lambda: cloud.runs[0].stopped)


async def test_a_runtime_that_closes_leaves_nothing_that_runs(runtime: EcsRuntime, cloud: Fargate) -> None:
    await runtime.launch(spec())
    await runtime.close()
    assert cloud.runs[0].stopped


async def test_one_question_is_asked_about_all_tasks(runtime: EcsRuntime, cloud: Fargate) -> None:
    sandboxes = [await runtime.launch(spec(task_id=f"{TASK}{number}")) for number in range(3)]
    asked = len(cloud.named("DescribeTasks"))
    await until(lambda: len(cloud.named("DescribeTasks")) >= asked + 3)
    assert all(len(one["tasks"]) == 3 for one in cloud.named("DescribeTasks")[-2:])
    for sandbox in sandboxes:
        await sandbox.remove()


def _tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)
