"""Turns of one process: what is undone between two tasks, and that one which ends badly costs one task."""

import asyncio
from typing import Any

import orjson
import pytest
from conftest import Sandboxes

from dispatcher.invocation import invoke
from dispatcher.pools.turns import Turns
from dispatcher.stop import Stop
from mayfly.function import Limits
from mayfly.task import FailureType

PATIENCE = 60.0
WORKER = """
import __main__ as bootstrap
bootstrap.seen = getattr(bootstrap, "seen", 0) + 1
result = bootstrap.seen
"""
"""How many tasks this process has had, counting this one."""


@pytest.fixture
def isolation() -> str:
    return "warm"


async def see(sandboxes: Sandboxes, supply: Turns, code: str, **request: Any) -> Any:
    payload = orjson.dumps({"code": code})
    reply = await sandboxes.see(await supply.make(), "python", sandboxes.request(payload=payload, **request))
    assert reply.failure is None, (reply.failure, reply.log)
    return orjson.loads(reply.result or b"null")


async def test_one_process_serves_tasks_one_after_another(sandboxes):
    assert [await sandboxes.inside(WORKER) for _ in range(3)] == [1, 2, 3]


async def test_what_a_task_did_to_the_process_is_undone(sandboxes):
    # A process that is dead counts no more, though the container's first may not have reaped it yet.
    look = """
import os, signal, sys
def lives(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
result = {
    "environment": sorted(os.environ), "folder": os.getcwd(),
    "files": os.listdir("/tmp") + os.listdir("/dev/shm"),
    "umask": os.umask(0o22), "term": str(signal.getsignal(signal.SIGTERM)), "alarm": signal.alarm(0),
    "descriptors": [os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in range(3)],
    "streams": [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "processes": len([name for name in os.listdir("/proc") if name.isdigit() and lives(name)]),
}
"""
    spoil = """
import os, signal, subprocess, sys, time
os.environ["LEFT"] = "1"; del os.environ["HOME"]
os.makedirs("/tmp/folder/below")
for file in ("/tmp/folder/below/file", "/dev/shm/file"):
    open(file, "w").close()
os.chdir("/tmp/folder"); os.umask(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.alarm(600)
sys.stdin = sys.stdout = sys.stderr = open("/dev/null", "w")
for number in range(3):
    os.close(number)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
"""
    before = await sandboxes.inside(look)
    reply = await sandboxes.python(spoil, env={"SECRET": "hunter2"})
    assert reply.failure is None
    assert await sandboxes.inside(look) == before
    assert await sandboxes.inside(WORKER) == 1


async def test_who_forks_and_ends_while_it_is_looked_for_leaves_nobody(sandboxes):
    flight = """
import os, time
if os.fork() == 0:
    os.setsid()
    for number in range(3):
        if os.fork():
            os._exit(0)
    time.sleep(600)
"""
    look = """
import os
result = 0
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{name}/stat") as file:
            result += file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        pass  # reaped meanwhile
"""
    before = await sandboxes.inside(look)
    for _ in range(50):
        assert (await sandboxes.python(flight)).failure is None
        assert await sandboxes.inside(look) == before


async def test_each_log_has_its_own_tasks_lines(sandboxes):
    for number in range(20):
        reply = await sandboxes.python(f"import os; print({number}); os.write(2, b'\\0-{number}')")
        assert reply.log == f"{number}\n\0-{number}".encode()


async def test_an_async_handlers_loop_is_closed(sandboxes):
    code = "import asyncio\nasync def go(): return 1\nresult = asyncio.run(go())"
    assert [await sandboxes.inside(code) for _ in range(3)] == [1, 1, 1]


async def test_a_failure_is_an_answer_and_the_worker_goes_on(sandboxes):
    assert await sandboxes.inside(WORKER) == 1
    for code in ("1 / 0", "result = {1}"):
        assert (await sandboxes.python(code)).failure is not None
    assert await sandboxes.inside(WORKER) == 2


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(3)",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.write(501, b'nonsense'); import time; time.sleep(60)",
        "import os; os.close(501); os.close(502)",
        "result = float('nan'); import os; os.write(501, b'R\\0\\0\\0\\2{}B\\0\\0\\0\\1{')",
    ],
)
async def test_a_task_that_ends_badly_costs_its_worker_and_no_other_task(sandboxes, code):
    assert await sandboxes.inside(WORKER) == 1
    assert (await sandboxes.python(code)).failure is not None
    assert await sandboxes.inside(WORKER) == 1


async def test_a_task_that_is_cut_off_costs_its_worker(sandboxes):
    code = "import time\ntry:\n    print('there')\n    time.sleep(60)\nexcept SystemExit:\n    pass"
    for cut in ({"deadline_seconds": 1}, {}):
        assert await sandboxes.inside(WORKER) == 1
        stop = Stop()
        sandbox = await sandboxes.make()
        payload = orjson.dumps({"code": code})
        request = sandboxes.request(payload=payload, **cut)
        on_log = (lambda _: None) if cut else (lambda _: stop.set())  # noqa: B023
        reply = await invoke(sandbox, "python", request, stop=stop, on_log=on_log)
        await sandbox.remove()
        assert reply.failure.type is (FailureType.TIMEOUT if cut else FailureType.CANCELLED)
    assert await sandboxes.inside(WORKER) == 1


async def test_a_worker_that_dies_between_two_tasks_costs_none(sandboxes):
    code = """
import os, threading, time
def die():
    time.sleep(0.2)
    os._exit(9)
threading.Thread(target=die).start()
result = 1
"""
    assert await sandboxes.inside(code) == 1
    (supply,) = sandboxes.supplies.values()
    async with asyncio.timeout(PATIENCE):
        while supply.free:
            await asyncio.sleep(0.01)
    assert await sandboxes.inside(WORKER) == 1


async def test_workers_are_replaced_by_turns_and_by_age(sandboxes):
    supply = Turns(sandboxes.runtime, sandboxes.spec(), max_turns=2)
    assert [await see(sandboxes, supply, WORKER) for _ in range(5)] == [1, 2, 1, 2, 1]
    await supply.close()
    supply = Turns(sandboxes.runtime, sandboxes.spec(), max_age_seconds=0)
    assert [await see(sandboxes, supply, WORKER) for _ in range(2)] == [1, 1]
    await supply.close()


async def test_tasks_at_once_have_workers_of_their_own_and_those_that_are_free_can_be_given_back(sandboxes):
    supply = Turns(sandboxes.runtime, sandboxes.spec())
    assert await asyncio.gather(*(see(sandboxes, supply, WORKER) for _ in range(3))) == [1, 1, 1]
    assert supply.free == 3
    await supply.rest()
    assert supply.free == 0
    assert await see(sandboxes, supply, WORKER) == 1
    await supply.close()


async def test_a_child_that_died_for_its_memory_ends_the_worker_too(sandboxes):
    code = "import subprocess\nsubprocess.run(['python3', '-c', 'x = bytearray(1 << 30)'], check=True)"
    spec = {"limits": Limits(memory_mib=64)}
    reply = await sandboxes.python(code, spec=spec, memory_mib=64)
    assert reply.failure.type is FailureType.OUT_OF_MEMORY
    assert await sandboxes.inside(WORKER, spec=spec) == 1
