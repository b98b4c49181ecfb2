"""A disk runs full under Kafka or under Docker: nothing is lost, and all goes on once there is room again."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mayfly.audit.__main__ import audit
from mayfly.audit.report import Report
from mayfly.task import MAX_LOSSES
from tests.conftest import REPOSITORY, LiveStack, StartStack
from tests.e2e.conftest import eventually
from tests.e2e.tasks import ended, post
from tests.engine import OwnEngine, copy_base_images

MEGABYTE = 1024 * 1024


class Disk:
    """A file system of its own, in memory."""

    def __init__(self, at: Path) -> None:
        self._filler = at / "filler"

    def fill(self) -> None:
        """To its last byte."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (MEGABYTE, 1024, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        self._filler.unlink()


@contextlib.contextmanager
def mounted(at: Path, megabytes: int) -> Iterator[Disk]:
    at.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", at], check=True)
    try:
        yield Disk(at)
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@pytest.fixture
def echo(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "functions" / "echo", tmp_path / "functions" / "echo")


def browser(stack: LiveStack) -> httpx.Client:
    return httpx.Client(base_url=stack.url, timeout=60, trust_env=False)


def completed(http: httpx.Client, task_id: str) -> tuple[str, int, object]:
    task = ended(http, task_id)
    return task["status"], task["attempt"], task.get("result")


def audited(stack: LiveStack) -> Report:
    return asyncio.run(audit(stack.settings, settle=60))


@pytest.mark.timeout(600)
def test_a_full_disk_under_kafka_is_answered_with_503_and_loses_nothing(
    start_stack: StartStack, echo: None, tmp_path: Path
) -> None:
    with mounted(tmp_path / "stack" / "kafka", megabytes=96) as disk:
        stack = start_stack("up").until_up()
        with browser(stack) as http:
            before = [post(http, "echo", number) for number in range(5)]
            for number, task_id in enumerate(before):
                assert completed(http, task_id) == ("COMPLETED", 1, number)
            # A key can be looked up only once the read model of a new stack is whole, and that takes the log.
            eventually(lambda: http.get("/rebuild").json()["complete"], "the read model is whole")
            disk.fill()
            accepted: dict[int, str] = {}
            refused: list[int] = []

            def submit(number: int) -> None:
                answer = http.post(
                    "/tasks",
                    json={"taskType": "echo", "payload": number},
                    headers={"idempotency-key": f"disk-{number}"},
                )
                if answer.status_code == 202:
                    accepted[number] = answer.json()["taskId"]
                    return
                assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable"), answer.text
                refused.append(number)

            def was_refused() -> bool:
                submit(len(accepted) + len(refused))
                return bool(refused)

            eventually(was_refused, "the log takes no more")
            disk.free()

            def taken() -> bool:
                submit(refused.pop())
                return not refused

            eventually(taken, "the log takes what it refused, without anybody's doing")
            for number, task_id in accepted.items():
                # A claim that was on its way when the disk was full is made again.
                status, _, result = completed(http, task_id)
                assert (status, result) == ("COMPLETED", number)
            assert (report := audited(stack)).clean, report
        stack.stop()


@pytest.mark.timeout(600)
def test_a_full_disk_under_the_engine_holds_tasks_until_there_is_room(
    start_stack: StartStack, echo: None, tmp_path: Path
) -> None:
    engine = OwnEngine.somewhere()
    try:
        with mounted(engine.directory / "data", megabytes=1200) as disk:
            engine.start()
            copy_base_images(engine.address)
            stack = start_stack("up", MAYFLY_DOCKER_HOST=engine.address).until_up()
            with browser(stack) as http:
                assert completed(http, post(http, "echo", "before")) == ("COMPLETED", 1, "before")
                disk.fill()
                waiting = [post(http, "echo", number) for number in range(6)]
                log = stack.directory / "logs" / "dispatcher-1.log"
                # More often than infrastructure may fail under a task.
                tries = 2 * (MAX_LOSSES + 2)
                eventually(lambda: log.read_text().count("disk is full") >= tries, "attempts wait for room")
                assert not [one for one in waiting if http.get(f"/tasks/{one}").json().get("error")]
                disk.free()
                for number, task_id in enumerate(waiting):
                    assert completed(http, task_id) == ("COMPLETED", 1, number)
                assert (report := audited(stack)).clean, report
            stack.stop()
            engine.stop()
    finally:
        engine.remove()
