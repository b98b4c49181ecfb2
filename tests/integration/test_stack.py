import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from mayfly.adapters.kafka import Log, ensure_topics, events_topic
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.settings import Settings
from mayfly.stack import running
from mayfly.stack.home import Home, cache_directory, is_free
from mayfly.stack.process import Identity, Process, sweep
from mayfly.stack.serve import down
from mayfly.stack.status import states

StartStack = Callable[..., Any]
SOON = 60.0


def until(condition: Callable[[], object], seconds: float = SOON) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def others(stack_parts: Any) -> dict[str, str]:
    """Kafka and S3 of the session: a stack that is given them starts Redis alone."""
    names = ("MAYFLY_KAFKA", "MAYFLY_S3_")
    return {name: value for name, value in stack_parts.environment.items() if name.startswith(names)}


@pytest.fixture
def asleep() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any stack."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def redis_of(stack: Any) -> Redis:
    return Redis.from_url(stack.environment["MAYFLY_REDIS"], decode_responses=True)


async def test_the_parts_answer_in_their_own_protocols(settings: Settings) -> None:
    await ensure_topics(settings)
    log = Log(settings)
    await log.start()
    appended = await log.append(events_topic(settings.queue), b"{}", partition=3)
    assert (appended.partition, appended.offset) == (3, 0)
    await log.close()
    model = ReadModel(settings)
    await model.ping()
    await model.close()
    await Blobs(settings).ping()


async def test_everything_is_there_again_after_a_stop_and_a_start(start_stack: StartStack) -> None:
    first = start_stack("parts").until_up()
    settings = first.settings
    log = Log(settings)
    await log.start()
    before = await log.append(events_topic("default"), b"kept", partition=0)
    await log.close()
    await Blobs(settings).put("kept", b"kept", "text/plain")
    with redis_of(first) as redis:
        redis.set("kept", "kept")
    await first.process.end(60)

    # The first one has made them, unless it was killed over it.
    archives = {name: [*(cache_directory() / "jars").glob(f"{name}*.jsa")] for name in ("kafka", "s3")}
    second = start_stack("parts").until_up()
    for name, found in archives.items():
        mapped = Path(f"/proc/{second.part(name).pid}/maps").read_text()
        assert all(str(archive) in mapped for archive in found), f"{name} starts from its archive"
    assert second.environment == first.environment
    log = Log(settings)
    await log.start()
    after = await log.append(events_topic("default"), b"more", partition=0)
    await log.close()
    assert after.offset > before.offset
    assert await Blobs(settings).get("kept") == b"kept"
    with redis_of(second) as redis:
        assert redis.get("kept") == "kept"


def test_each_part_says_what_was_started_why_and_where_its_data_is(
    start_stack: StartStack, others: dict[str, str]
) -> None:
    stack = start_stack("parts", **others).until_up()
    lines = stack.output.splitlines()
    address, data = stack.part("redis").address, stack.directory / "redis"
    assert any(
        line.startswith(f"redis: {address}, started in")
        and line.endswith(f" because MAYFLY_REDIS is not set, data in {data}")
        for line in lines
    )
    assert f"kafka: {others['MAYFLY_KAFKA']}, because MAYFLY_KAFKA is set" in lines


def test_a_strangers_redis_on_the_usual_port_is_left_alone(
    start_stack: StartStack, others: dict[str, str], tmp_path: Path
) -> None:
    taken = not is_free(6379)
    server = shutil.which("redis-server")
    assert server is not None
    stranger = (
        None if taken else subprocess.Popen([server, "--port", "6379", "--dir", tmp_path, "--save", ""])
    )
    try:
        until(lambda: not is_free(6379))
        stack = start_stack("parts", usual_ports=True, **others).until_up()
        assert stack.part("redis").address != "127.0.0.1:6379"
        with redis_of(stack) as redis:
            assert redis.ping()
        if stranger is not None:
            with Redis(decode_responses=True) as theirs:
                assert theirs.dbsize() == 0
                assert theirs.config_get("requirepass") == {"requirepass": ""}
            stack.stop()
            assert stranger.poll() is None
    finally:
        if stranger is not None:
            stranger.terminate()
            stranger.wait()


def test_an_address_that_does_not_answer_is_an_error_that_says_what_to_unset(
    start_stack: StartStack, others: dict[str, str]
) -> None:
    stack = start_stack("parts", MAYFLY_REDIS="redis://127.0.0.1:1/0", **others)
    assert stack.until_ended() == 1
    assert "error: redis at 127.0.0.1:1 is not ready" in stack.output
    assert "to mend it: unset MAYFLY_REDIS to have one started" in stack.output
    assert "Traceback" not in stack.output


def test_a_second_stack_in_the_same_directory_is_refused(
    start_stack: StartStack, others: dict[str, str]
) -> None:
    first = start_stack("parts", **others).until_up()
    second = start_stack("parts", **others)
    assert second.until_ended() == 1
    assert "to mend it: mayfly down" in second.output
    with redis_of(first) as redis:
        assert redis.ping()


def test_no_secret_is_on_a_command_line_or_in_a_file_that_others_can_read(
    start_stack: StartStack, others: dict[str, str]
) -> None:
    stack = start_stack("parts", **others).until_up()
    password = Home(stack.directory).secret("redis")
    command = Path(f"/proc/{stack.part('redis').pid}/cmdline").read_bytes()
    assert password.encode() not in command
    assert password not in (stack.directory / "stack.json").read_text()
    assert stack.directory.stat().st_mode & 0o077 == 0
    for name in ("environment", "secrets/redis", "redis/redis.conf"):
        assert (stack.directory / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_everything_that_was_started_ends_with_the_stack(
    start_stack: StartStack, others: dict[str, str], number: signal.Signals
) -> None:
    stack = start_stack("parts", **others).until_up()
    part = Identity.of(stack.part("redis").pid)
    assert part is not None
    os.kill(stack.process.pid, number)
    assert stack.until_ended() == 0
    assert not part.alive
    assert running(stack.directory) is None


def test_nothing_outlives_a_stack_that_is_killed_and_the_next_one_starts(
    start_stack: StartStack, others: dict[str, str]
) -> None:
    first = start_stack("parts", **others).until_up()
    part = Identity.of(first.part("redis").pid)
    assert part is not None
    with redis_of(first) as redis:
        redis.set("kept", "kept")
    os.kill(first.process.pid, signal.SIGKILL)
    first.until_ended()
    until(lambda: not part.alive)
    assert running(first.directory) is None
    second = start_stack("parts", **others).until_up()
    assert (
        second.part("redis").address == first.environment["MAYFLY_REDIS"].partition("@")[2].partition("/")[0]
    )
    with redis_of(second) as redis:
        assert redis.get("kept") == "kept"


async def test_a_process_that_a_killed_run_left_is_ended(tmp_path: Path) -> None:
    home = Home(tmp_path / "stack")
    home.make()
    left = Process(home, "left", [sys.executable, "-c", "import time; time.sleep(600)"])
    assert await sweep(home) == ["left"]
    until(lambda: left.exit_code is not None)
    assert await sweep(home) == []


async def test_a_process_that_ignores_being_told_is_killed(tmp_path: Path) -> None:
    home = Home(tmp_path / "stack")
    home.make()
    deaf = Process(home, "deaf", ["sh", "-c", "trap '' TERM; echo deaf; sleep 600"])
    until(lambda: "deaf" in deaf.last_words())
    await deaf.end(0.2)
    assert deaf.exit_code == -signal.SIGKILL


async def test_a_pid_that_another_process_has_got_since_is_not_touched(
    tmp_path: Path, asleep: subprocess.Popen[bytes]
) -> None:
    home = Home(tmp_path / "stack")
    home.make()
    home.write_json("processes/redis.json", {"pid": asleep.pid, "born": "long ago"})
    assert await sweep(home) == []
    assert asleep.poll() is None


def test_a_part_that_dies_is_started_again_where_it_was(
    start_stack: StartStack, others: dict[str, str]
) -> None:
    stack = start_stack("parts", **others).until_up()
    killed = stack.part("redis")
    with redis_of(stack) as redis:
        redis.set("kept", "kept")
        assert redis.config_set("appendfsync", "always")
    os.kill(killed.pid, signal.SIGKILL)
    until(lambda: stack.part("redis").pid != killed.pid and stack.part("redis").ready)
    assert stack.part("redis").address == killed.address
    assert "redis: killed by signal 9, started again in" in stack.output
    with redis_of(stack) as redis:
        assert redis.get("kept") == "kept"


async def test_another_process_sees_the_health_of_each_part(
    start_stack: StartStack, others: dict[str, str]
) -> None:
    stack = start_stack("parts", **others).until_up()
    assert {state.name: state.health for state in await states(stack.directory)} == {
        "kafka": "ready",
        "redis": "ready",
        "s3": "ready",
    }
    pid = stack.part("redis").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        health = {state.name: state.health for state in await states(stack.directory)}
        assert health["redis"] != "ready"
        assert health["kafka"] == "ready"
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_down_ends_the_stack_of_another_process(
    start_stack: StartStack, others: dict[str, str]
) -> None:
    stack = start_stack("parts", **others).until_up()
    part = Identity.of(stack.part("redis").pid)
    # Somebody must reap the child that `down` ends, as a shell would.
    ended = asyncio.create_task(asyncio.to_thread(stack.until_ended))
    assert await down(stack.directory)
    assert await ended == 0
    assert part is not None
    assert not part.alive
    assert not await down(stack.directory)
