"""What a broken or hostile function comes to: an exact answer, and nothing else is hurt.

Every runtime and isolation has to pass it.
"""

import asyncio
import resource
import time
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from conftest import until

from dispatcher.invocation import GRACE_SECONDS, Reply, invoke
from dispatcher.runtimes.base import Sandbox
from dispatcher.stop import Stop
from mayfly.function import Limits
from mayfly.task import Advice, Failure, FailureType

MIB = 1024 * 1024


@pytest.fixture(params=["container", "fork", "warm"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def only(*isolations: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("isolation", isolations, indirect=True)


def resident() -> int:
    """Most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- the Python contract


async def test_a_handler_that_raises_is_told_with_its_class_message_and_traceback(sandboxes):
    reply = await sandboxes.python('raise LookupError("no such customer")')
    assert reply.result is None
    assert reply.failure.type is FailureType.ERROR
    assert reply.failure.error == "LookupError"
    assert reply.failure.message == "no such customer"
    assert "LookupError: no such customer" in reply.failure.traceback


async def test_a_handler_that_holds_all_descriptors_is_told_of_nevertheless(sandboxes):
    reply = await sandboxes.python("import os\nwhile True: os.open('/dev/null', os.O_RDONLY)")
    assert reply.failure.type is FailureType.ERROR
    assert reply.failure.error == "OSError"
    assert "Too many open files" in reply.failure.message
    assert "OSError: " in reply.failure.traceback


@pytest.mark.parametrize(
    ("raised", "advice", "after"),
    [
        ('mayfly.Retry("busy", after=30)', Advice.RETRY, 30),
        ('mayfly.Retry("busy")', Advice.RETRY, None),
        ('mayfly.Permanent("busy")', Advice.PERMANENT, None),
    ],
)
async def test_a_handler_may_say_whether_another_attempt_makes_sense(sandboxes, raised, advice, after):
    reply = await sandboxes.python(f"import mayfly\nraise {raised}")
    assert (reply.failure.type, reply.failure.message) == (FailureType.ERROR, "busy")
    assert (reply.failure.advice, reply.failure.retry_after) == (advice, after)


async def test_a_handler_that_exits_hard_is_an_exit_code(sandboxes):
    reply = await sandboxes.python("import os; os._exit(3)")
    assert reply.failure == Failure(
        FailureType.EXIT_CODE, "the process exited with code 3 before it gave a result", exit_code=3
    )


async def test_a_handler_that_exits_hard_with_0_has_still_given_no_result(sandboxes):
    reply = await sandboxes.python("import os; os._exit(0)")
    assert reply.failure == Failure(
        FailureType.EXIT_CODE, "the process exited with code 0 before it gave a result", exit_code=0
    )


async def test_a_handler_that_kills_itself_is_named_by_its_signal(sandboxes):
    reply = await sandboxes.python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert reply.failure == Failure(
        FailureType.EXIT_CODE, "the process was ended by SIGSEGV before it gave a result", exit_code=139
    )


async def test_what_a_handler_prints_is_its_log_and_not_its_result(sandboxes):
    reply = await sandboxes.python('print("R\\0\\0\\0\\2{}B\\0\\0\\0\\5false"); result = "mine"')
    assert reply.failure is None
    assert reply.result == b'"mine"'
    assert reply.log == b"R\0\0\0\2{}B\0\0\0\5false\n"
    assert reply.log_dropped == 0


async def test_what_it_writes_to_descriptor_1_and_its_children_print_is_log(sandboxes):
    reply = await sandboxes.python("""
import os, subprocess, sys
os.write(1, b"raw\\n"); subprocess.run(["echo", "child"]); print("error", file=sys.stderr); result = 1
""")
    assert reply.result == b"1"
    assert reply.log == b"raw\nchild\nerror\n"


async def test_a_result_that_json_cannot_hold_is_a_bad_result(sandboxes):
    for value in ("{1, 2}", 'float("nan")', "object()"):
        reply = await sandboxes.python(f"result = {value}")
        assert reply.result is None
        assert reply.failure.type is FailureType.BAD_RESULT, value


async def test_garbage_on_the_result_channel_is_a_bad_result(sandboxes):
    reply = await sandboxes.python("""
import os, time
for descriptor in range(3, 1000):
    try:
        os.write(descriptor, b"\\xff" * 100)
    except OSError:
        pass
time.sleep(60)
""")
    assert reply.failure == Failure(
        FailureType.BAD_RESULT, "the process wrote to its result channel what is no frame"
    )


@pytest.fixture
def patience(monkeypatch):
    """The grace that a busy machine may need: it ends as soon as the sandbox does."""
    monkeypatch.setattr("dispatcher.invocation.GRACE_SECONDS", 60.0)


async def test_a_handler_that_never_ends_is_terminated_and_may_clean_up(sandboxes, patience):
    reply = await sandboxes.python(
        """
import time
try:
    time.sleep(60)
finally:
    print("cleaned up")
""",
        deadline_seconds=2,
    )
    assert reply.failure == Failure(FailureType.TIMEOUT, "the function took more than 2 s")
    assert reply.log == b"cleaned up\n"
    assert reply.finished_at - reply.started_at < 30_000


async def test_a_handler_that_ignores_sigterm_is_killed_after_the_grace(sandboxes):
    began = time.monotonic()
    reply = await sandboxes.python(
        """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("no"))
while True:
    time.sleep(60)
""",
        deadline_seconds=2,
    )
    assert reply.failure == Failure(FailureType.TIMEOUT, "the function took more than 2 s")
    assert reply.log == b"no\n"
    assert time.monotonic() - began > 4


async def test_a_fork_bomb_ends_at_the_limit_on_processes_and_dies_with_its_sandbox(sandboxes):
    reply = await sandboxes.python(
        """
import os, time
while True:
    try:
        if os.fork() == 0:
            continue
    except OSError:
        time.sleep(0.1)
""",
        spec={"limits": Limits(pids=32)},
        deadline_seconds=2,
    )
    assert reply.failure == Failure(FailureType.TIMEOUT, "the function took more than 2 s")
    assert await sandboxes.inside("result = 1") == 1


async def test_forking_over_the_limit_is_refused_inside(sandboxes):
    started = await sandboxes.inside(
        """
import os, signal, time
children = []
try:
    while len(children) < 1000:
        child = os.fork()
        if child == 0:
            time.sleep(60)
        children.append(child)
except BlockingIOError:
    pass
result = len(children)
for child in children:
    os.kill(child, signal.SIGKILL)
""",
        spec={"limits": Limits(pids=32)},
    )
    assert 20 <= started < 32


async def test_children_left_behind_neither_hold_the_reply_nor_outlive_it(sandboxes, left):
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nresult = 1"
    sandbox = await sandboxes.make()
    reply = await invoke(sandbox, "python", sandboxes.request(payload=orjson.dumps({"code": code})))
    assert reply.result == b"1"
    assert reply.finished_at - reply.started_at < 60_000
    # Its first process goes, if not by itself, and with that every other one of its namespace.
    if sandboxes.isolation != "container":
        assert (await sandbox.wait()).code == 0
    await sandbox.remove()
    if sandboxes.isolation == "container":
        await until(lambda: not left("test"))


async def test_a_handler_that_eats_memory_is_out_of_memory(sandboxes):
    reply = await sandboxes.python(
        "held = []\nwhile True: held.append(bytearray(8 << 20))",
        spec={"limits": Limits(memory_mib=64)},
        memory_mib=64,
    )
    assert reply.failure.type is FailureType.OUT_OF_MEMORY
    assert reply.failure.message == "the function used more than its 64 MiB of memory"
    # A fork's limit is its own: it lives to tell.
    expected = (None, "MemoryError") if sandboxes.isolation == "fork" else (137, None)
    assert (reply.failure.exit_code, reply.failure.error) == expected


@only("container", "warm")
async def test_a_child_that_eats_memory_is_out_of_memory_too(sandboxes):
    reply = await sandboxes.python(
        """
import subprocess
subprocess.run(["python3", "-c", "held = []\\nwhile True: held.append(bytearray(8 << 20))"], check=True)
""",
        spec={"limits": Limits(memory_mib=64)},
        memory_mib=64,
    )
    assert reply.failure.type is FailureType.OUT_OF_MEMORY
    assert reply.failure.message.startswith("the function used more than its 64 MiB of memory: Command ")
    assert reply.failure.error == "CalledProcessError"


@only("container", "warm")
async def test_a_handler_that_survives_its_childs_death_by_memory_has_its_result(sandboxes):
    reply = await sandboxes.python(
        """
import subprocess
eater = ["python3", "-c", "held = []\\nwhile True: held.append(bytearray(8 << 20))"]
result = subprocess.run(eater).returncode
""",
        spec={"limits": Limits(memory_mib=64)},
    )
    assert reply.failure is None
    assert reply.result == b"-9"


@only("container", "warm")
async def test_files_in_tmp_count_as_memory(sandboxes):
    reply = await sandboxes.python(
        'open("/tmp/large", "wb").write(bytes(1 << 20) * 100); result = 1',
        spec={"limits": Limits(memory_mib=64, tmp_mib=1024)},
        memory_mib=64,
    )
    assert reply.failure.type is FailureType.OUT_OF_MEMORY


@pytest.mark.timeout(300)
async def test_a_gigabyte_of_logs_is_cut_at_the_cap_and_costs_no_memory(sandboxes):
    before = resident()
    reply = await sandboxes.python(
        """
import os
block = b"x" * (1 << 20)
for _ in range(1024):
    written = 0
    while written < len(block):
        written += os.write(2, block[written:])
result = "done"
""",
        deadline_seconds=240,
        max_log=64 * 1024,
    )
    assert reply.failure is None
    assert reply.result == b'"done"'
    assert reply.log == b"x" * 65536
    assert reply.log_dropped == 1024 * MIB - 65536
    assert resident() - before < 64 * MIB


async def test_a_result_over_the_cap_is_refused_at_once_and_unread(sandboxes):
    before = resident()
    reply = await sandboxes.python(
        'result = "x" * (100 << 20)', max_result=MIB, spec={"limits": Limits(memory_mib=1024)}
    )
    size = 100 * MIB + 2
    assert reply.failure == Failure(
        FailureType.BAD_RESULT, f"the result of {size} bytes is over the cap of {MIB} bytes"
    )
    assert resident() - before < 64 * MIB


async def test_a_result_at_the_cap_arrives_whole(sandboxes):
    reply = await sandboxes.python('result = "x" * given', given=6 * MIB - 2, max_result=6 * MIB)
    assert reply.failure is None
    assert reply.result == b'"' + b"x" * (6 * MIB - 2) + b'"'


async def test_a_log_that_is_no_utf8_is_kept_with_replacements_within_the_cap(sandboxes):
    reply = await sandboxes.python('import os; os.write(2, b"a\\xff" * 100); result = 1', max_log=50)
    assert reply.log.decode().startswith("a\N{REPLACEMENT CHARACTER}a\N{REPLACEMENT CHARACTER}")
    assert len(reply.log) <= 50
    assert reply.log_dropped == 150


@dataclass(frozen=True)
class Stopped:
    """An invocation that is stopped once the function has logged something."""

    reply: Reply
    seconds: float
    """From the stop to the reply."""


async def stopped(sandboxes, contract: str, sandbox: Sandbox, **changes: Any) -> Stopped:
    stop = Stop()
    at: list[float] = []

    def logged(chunk: bytes) -> None:
        at.append(time.monotonic())
        stop.set()

    try:
        request = sandboxes.request(**changes)
        reply = await invoke(sandbox, contract, request, stop=stop, on_log=logged)
        return Stopped(reply, time.monotonic() - at[0])
    finally:
        await sandbox.remove()


CANCELLED = Failure(FailureType.CANCELLED, "the task was cancelled while it ran")


async def test_a_handler_that_is_stopped_may_clean_up(sandboxes, patience):
    # In naps: a signal that comes after Python looked for one, and before the kernel sleeps, wakes nobody.
    code = """
import time
try:
    print("begun")
    while True:
        time.sleep(0.05)
finally:
    print("cleaned up")
"""
    done = await stopped(
        sandboxes,
        "python",
        await sandboxes.make(),
        payload=orjson.dumps({"code": code}),
        deadline_seconds=600,
    )
    assert (done.reply.failure, done.reply.result) == (CANCELLED, None)
    assert done.reply.log == b"begun\ncleaned up\n"


async def test_a_handler_that_ignores_the_stop_is_killed_after_the_grace(sandboxes):
    code = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("begun")
while True:
    time.sleep(60)
"""
    done = await stopped(
        sandboxes,
        "python",
        await sandboxes.make(),
        payload=orjson.dumps({"code": code}),
        deadline_seconds=600,
    )
    assert done.reply.failure == CANCELLED
    assert done.seconds >= GRACE_SECONDS


@only("container")
async def test_a_unix_process_is_stopped_although_it_never_reads_its_input(sandboxes):
    code = "import os, time; os.write(2, b'begun'); time.sleep(600)"
    sandbox = await sandboxes.runtime.launch(sandboxes.unix_spec(code))
    done = await stopped(sandboxes, "unix", sandbox, payload=b"x" * (6 * MIB), deadline_seconds=600)
    assert (done.reply.failure, done.reply.log) == (CANCELLED, b"begun")


async def test_a_million_tellings_of_progress_cost_nobody_much(sandboxes):
    told = []
    sandbox = await sandboxes.make()
    code = "for step in range(1_000_001): context.progress(step / 1_000_000)"
    try:
        began = time.monotonic()
        await invoke(
            sandbox,
            "python",
            sandboxes.request(payload=orjson.dumps({"code": code})),
            on_progress=lambda fraction, message: told.append(fraction),
        )
    finally:
        await sandbox.remove()
    assert told[-1] == 1
    assert len(told) <= 2 + (time.monotonic() - began) * 20


async def test_progress_is_told_as_it_comes(sandboxes):
    told = []
    sandbox = await sandboxes.make()
    code = b"""{"code": "context.progress(0.25, 'a quarter'); context.progress(1, 'all'); result = 1"}"""
    try:
        await invoke(
            sandbox,
            "python",
            sandboxes.request(payload=code),
            on_progress=lambda fraction, message: told.append((fraction, message)),
        )
    finally:
        await sandbox.remove()
    assert told == [(0.25, "a quarter"), (1.0, "all")]


async def test_what_the_request_gives_is_there_before_the_handler_runs(sandboxes):
    reply = await sandboxes.python(
        'import os; result = [os.environ["TOKEN"], context.task_id, context.attempt]',
        env={"TOKEN": "secret"},
        attempt=3,
    )
    assert reply.result == b'["secret","0193f5a0-0000-7000-8000-000000000001",3]'


async def test_nothing_of_the_task_is_there_before_it_is_invoked(sandboxes):
    sandbox = await sandboxes.make()
    first = await asyncio.wait_for(anext(aiter(sandbox.stdout)), 30)
    assert first[:1] == b"A"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sandbox.wait(), 0.2)
    await sandbox.remove()


# --- the Unix contract


@only("container")
async def test_the_payload_is_read_to_its_end_and_json_on_stdout_is_the_result(sandboxes):
    payload = b"x" * (6 * MIB)
    reply = await sandboxes.unix(
        'import sys; d = sys.stdin.buffer.read(); print("log", file=sys.stderr); print("[%d]" % len(d))',
        payload=payload,
    )
    assert (reply.failure, reply.result, reply.content_type) == (None, b"[6291456]\n", "application/json")
    assert reply.log == b"log\n"


@pytest.mark.parametrize(
    ("output", "content_type"),
    [
        (b"hello", "text/plain; charset=utf-8"),
        (b"NaN", "text/plain; charset=utf-8"),
        (b"", "text/plain; charset=utf-8"),
        (b"\xff\xfe", "application/octet-stream"),
        (b'{"a": 1}', "application/json"),
    ],
)
@only("container")
async def test_the_type_of_what_it_writes_is_guessed(sandboxes, output, content_type):
    reply = await sandboxes.unix(f"import os; os.write(1, {output!r})")
    assert (reply.failure, reply.result, reply.content_type) == (None, output, content_type)


@pytest.mark.parametrize(
    ("code", "advice"), [(1, None), (65, Advice.PERMANENT), (75, Advice.RETRY), (255, None)]
)
@only("container")
async def test_an_exit_code_is_told(sandboxes, code, advice):
    reply = await sandboxes.unix(f'import sys; print("some output"); sys.exit({code})')
    assert reply.result is None
    assert reply.failure == Failure(
        FailureType.EXIT_CODE, f"the process exited with code {code}", exit_code=code, advice=advice
    )


@only("container")
async def test_a_process_that_never_reads_its_input_ends_all_the_same(sandboxes):
    before = resident()
    reply = await sandboxes.unix('print("unread")', payload=b"x" * (6 * MIB))
    assert (reply.failure, reply.result) == (None, b"unread\n")
    assert resident() - before < 64 * MIB


@only("container")
async def test_a_process_that_never_reads_its_input_and_never_ends_times_out(sandboxes):
    reply = await sandboxes.unix(
        "import time; time.sleep(60)", payload=b"x" * (6 * MIB), deadline_seconds=0.5
    )
    assert reply.failure == Failure(FailureType.TIMEOUT, "the function took more than 0.5 s")


@only("container")
async def test_output_without_end_is_a_bad_result(sandboxes):
    before = resident()
    reply = await sandboxes.unix('import os\nwhile True: os.write(1, b"x" * 65536)', max_result=MIB)
    assert reply.failure == Failure(FailureType.BAD_RESULT, f"the result is over the cap of {MIB} bytes")
    assert resident() - before < 64 * MIB


@only("container")
async def test_a_daemon_that_holds_stdout_does_not_hold_the_reply(sandboxes):
    reply = await sandboxes.unix("""
import os, time
print("mine", flush=True)
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
""")
    assert (reply.failure, reply.result) == (None, b"mine\n")
    assert reply.finished_at - reply.started_at < 60_000


@only("container")
async def test_a_unix_process_that_eats_memory_is_out_of_memory(sandboxes):
    reply = await sandboxes.unix(
        "held = []\nwhile True: held.append(bytearray(8 << 20))",
        spec={"limits": Limits(memory_mib=64)},
        memory_mib=64,
    )
    assert reply.failure == Failure(
        FailureType.OUT_OF_MEMORY, "the function used more than its 64 MiB of memory", exit_code=137
    )
