"""Two tasks of one function at once: neither finds anything of the other, in a container or as forks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from dispatcher.invocation import Reply, invoke
from dispatcher.runtimes.base import Sandbox

PATIENCE = 60.0


@pytest.fixture(params=["container", "fork"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass
class Running:
    sandbox: Sandbox
    replying: "asyncio.Task[Reply]"


@contextlib.asynccontextmanager
async def running(sandboxes: Any, code: str, **spec: Any) -> AsyncIterator[Running]:
    """A task that has said on its log that it has done what it is to do, and then stays."""
    said = asyncio.Event()
    code += "\nimport sys, time; print('there', flush=True); time.sleep(600)"
    sandbox = await sandboxes.make(**spec)
    replying = asyncio.create_task(
        invoke(
            sandbox,
            "python",
            sandboxes.request(payload=orjson.dumps({"code": code}), deadline_seconds=600, env={"MINE": "1"}),
            on_log=lambda _: said.set(),
        )
    )
    try:
        async with asyncio.timeout(PATIENCE):
            await said.wait()
        yield Running(sandbox, replying)
    finally:
        await sandbox.remove()
        replying.cancel()
        await asyncio.wait({replying})


async def test_it_sees_nothing_of_a_sibling(sandboxes):
    left = """
import ctypes, os, socket, threading, time
for place in ("/tmp", "/dev/shm"):
    open(place + "/left", "w").close()
os.environ["LEFT"] = "1"
held = socket.socket(socket.AF_UNIX); held.bind("\\0left"); held.listen()
named = socket.socket(socket.AF_UNIX); named.bind("/tmp/socket"); named.listen()
server = socket.create_server(("127.0.0.1", 7777))
libc = ctypes.CDLL(None)
assert libc.shmget(77, 4096, 0o1666) >= 0
assert libc.mq_open(b"/left", os.O_CREAT | os.O_RDWR, 0o666, None) >= 0
master, slave = os.openpty()
"""
    found = """
import ctypes, os, socket
result = {"files": os.listdir("/tmp") + os.listdir("/dev/shm")}
if os.path.isdir("/dev/mqueue"):
    result["files"] += os.listdir("/dev/mqueue")
result["terminals"] = [name for name in os.listdir("/dev/pts") if name != "ptmx"]
result["environment"] = [name for name in ("LEFT", "MINE") if name in os.environ]
def reaches(family, address):
    try:
        socket.socket(family).connect(address)
    except OSError:
        return False
    return True
result["sockets"] = [a for f, a in ((socket.AF_UNIX, "\\0left"), (socket.AF_INET, ("127.0.0.1", 7777)))
                     if reaches(f, a)]
result["listed"] = [line for line in open("/proc/net/unix") if "left" in line or "/tmp/socket" in line]
libc = ctypes.CDLL(None)
result["shared"] = [libc.shmget(77, 4096, 0), libc.mq_open(b"/left", os.O_RDWR)]
result["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
"""
    async with running(sandboxes, left):
        assert await sandboxes.inside(found) == {
            "files": [],
            "terminals": [],
            "environment": [],
            "sockets": [],
            "listed": [],
            "shared": [-1, -1],
            "processes": 2,
        }


async def test_it_reaches_no_siblings_process(sandboxes):
    async with running(sandboxes, "") as sibling:
        reply = await sandboxes.python("""
import os, signal
# SIGINT has a handler where Python runs: one in memory that is shared would handle it there.
sent = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
for number in sent:
    signal.signal(number, signal.SIG_IGN)
result = []
for pid in (0, -1, 1, *range(3, 200)):
    for number in sent:
        try:
            os.kill(pid, number)
        except OSError:
            pass
for path in ("mem", "environ", "fd", "root", "cwd", "maps"):
    try:
        look = os.listdir if path in ("fd", "root", "cwd") else lambda file: open(file, "rb").read(1)
        look("/proc/1/" + path)
        result.append(path)
    except OSError:
        pass
""")
        assert reply.failure is None
        reachable = orjson.loads(reply.result)
        # In a container, the first process is docker-init, of the same user, with nothing in it.
        assert sandboxes.isolation == "container" or reachable == []
        assert not sibling.replying.done()
        assert await sandboxes.inside("result = 1") == 1


async def test_random_numbers_are_its_own(sandboxes):
    code = """
import ctypes, os, random, secrets, ssl, uuid
libc = ctypes.CDLL(None)
# Before uuid1: libuuid seeds the C library by the process's number and the microsecond, which may be one.
rand = [libc.rand() for _ in range(3)] if given else 0
result = [random.random(), secrets.token_hex(8), ssl.RAND_bytes(8).hex(), str(uuid.uuid4()),
          str(uuid.uuid1()), rand, os.urandom(8).hex()]
"""
    # Of a container, the C library's own generator begins as it does anywhere: from the same seed.
    forks = sandboxes.isolation == "fork"
    one, two = await asyncio.gather(*(sandboxes.inside(code, given=forks) for _ in range(2)))
    same = [a for a, b in zip(one, two, strict=True) if a == b]
    assert same == ([] if forks else [0])


async def test_what_one_takes_of_processes_files_and_time_the_other_still_has(sandboxes):
    greedy = """
import os, threading
held = []
try:
    while True:
        child = os.fork()
        if child == 0:
            while True: pass
        held.append(child)
        if len(held) == 20: break
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
"""
    async with running(sandboxes, greedy):
        assert await sandboxes.inside("import subprocess; result = subprocess.run(['true']).returncode") == 0
