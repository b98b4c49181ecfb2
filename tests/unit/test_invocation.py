"""The contracts, spoken with real processes: what a container adds to that is not needed to prove them."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sandbox_streams import Iterated

from dispatcher import invocation, output
from dispatcher.frames import frame
from dispatcher.invocation import Reply, Request, invoke
from dispatcher.runtimes.base import Exit
from dispatcher.stop import Stop
from mayfly.errors import SandboxLost
from mayfly.task import MAX_DELAY_SECONDS, Advice, Failure, FailureType

REQUEST = Request(
    task_id="0193f5a0-0000-7000-8000-000000000001",
    task_type="probe",
    attempt=1,
    deadline_seconds=60,
    payload=b'{"a": 1}',
    content_type="application/json",
    version="1",
    memory_mib=256,
    max_result=1000,
    max_log=1000,
)
SPEAK = """
import json, os, struct, sys, time
def send(kind, body=b"{}"):
    os.write(1, kind.encode() + struct.pack(">I", len(body)) + body)
def receive():
    kind, length = struct.unpack(">cI", sys.stdin.buffer.read(5))
    return kind.decode(), sys.stdin.buffer.read(length)
"""


class ProcessSandbox:
    """A process without any confinement, as a sandbox."""

    name = "process"

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.signals: list[str] = []

    @classmethod
    async def of(cls, code: str) -> "ProcessSandbox":
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-c", code, stdin=pipe, stdout=pipe, stderr=pipe
            )
        )

    @cached_property
    def stdout(self) -> Iterated:
        return Iterated(chunks(self.process.stdout))

    @cached_property
    def stderr(self) -> Iterated:
        return Iterated(chunks(self.process.stderr))

    async def write(self, data: bytes) -> None:
        try:
            self.process.stdin.write(data)
            await self.process.stdin.drain()
        except ConnectionError:
            return

    async def close_stdin(self) -> None:
        self.process.stdin.close()

    async def kill(self, name: str = "SIGKILL") -> None:
        self.signals.append(name)
        if self.process.returncode is None:
            self.process.send_signal(signal.Signals[name])

    async def wait(self) -> Exit:
        code = await self.process.wait()
        return Exit(128 - code if code < 0 else code, oom_killed=False)

    async def remove(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self.process.stdin.close()
        self.process._transport.close()


def tasks_beside(sandbox: ProcessSandbox) -> set[asyncio.Task[Any]]:
    """All that there are, with those by which this sandbox is read."""
    assert sandbox.stdout
    assert sandbox.stderr
    return asyncio.all_tasks()


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while chunk := await reader.read(65536):
        yield chunk


async def run(code: str, contract: str = "python", **changes: Any) -> Reply:
    sandbox = await ProcessSandbox.of((SPEAK if contract == "python" else "") + code)
    try:
        async with asyncio.timeout(60):
            return await invoke(sandbox, contract, replace(REQUEST, **changes))
    finally:
        await sandbox.remove()


async def bad(code: str) -> str:
    reply = await run(code)
    assert reply.result is None
    assert reply.failure.type is FailureType.BAD_RESULT
    return reply.failure.message


# --- the Python contract


async def test_a_task_is_given_once_the_sandbox_is_armed_and_its_result_comes_back():
    began = time.time()
    reply = await run(
        """
send("A")
task, payload = receive(), receive()
send("R", b'{"contentType": "application/json"}')
send("B", json.dumps([task, payload], default=bytes.decode).encode())
""",
        env={"TOKEN": "secret"},
        deadline_seconds=30,
    )
    assert reply.failure is None
    assert reply.content_type == "application/json"
    (kind, task), (second, payload) = msgspec.json.decode(reply.result)
    assert (kind, second, payload) == ("T", "P", '{"a": 1}')
    told = msgspec.json.decode(task)
    assert began + 30 <= told.pop("deadline") <= time.time() + 30
    assert told == {
        "taskId": REQUEST.task_id,
        "taskType": "probe",
        "attempt": 1,
        "contentType": "application/json",
        "version": "1",
        "memoryMiB": 256,
        "env": {"TOKEN": "secret"},
    }
    assert began * 1000 - 1 <= reply.started_at <= reply.finished_at


async def test_a_result_may_be_bytes_of_any_type():
    reply = await run("""
send("A"); receive(); receive()
send("R", b'{"contentType": "image/png"}'); send("B", b"\\xff\\xd8")
""")
    assert (reply.failure, reply.result, reply.content_type) == (None, b"\xff\xd8", "image/png")


async def test_an_import_that_fails_is_the_functions_error():
    reply = await run("""
told = {"type": "Function.Error", "error": "ImportError", "message": "no x", "traceback": "T"}
send("E", json.dumps(told).encode())
""")
    assert reply.failure == Failure(FailureType.ERROR, "no x", error="ImportError", traceback="T")


async def test_a_process_that_ends_before_it_is_armed_is_an_exit_code():
    reply = await run("sys.exit(3)")
    assert reply.failure == Failure(
        FailureType.EXIT_CODE, "the process exited with code 3 before the handler was imported", exit_code=3
    )


async def test_an_import_that_takes_too_long_says_so(monkeypatch):
    monkeypatch.setattr(invocation, "START_UP_SECONDS", 0.2)
    reply = await run("time.sleep(600)")
    assert reply.failure == Failure(FailureType.TIMEOUT, "the handler's import took more than 0.2 s")


async def test_the_functions_time_starts_when_it_is_armed():
    began = time.time()
    reply = await run("""
time.sleep(1)
send("A"); receive(); receive()
send("R"); send("B", b"1")
""")
    assert (reply.failure, reply.result) == (None, b"1")
    assert reply.started_at >= (began + 1) * 1000 - 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('send("Z")', "the process wrote to its result channel what is no frame"),
        ('send("R")', "the process sent a frame 'R' before it was ready"),
        ('send("A"); send("A")', "the process sent a frame 'A' out of turn"),
        ('send("A"); send("B")', "the process sent a frame 'B' out of turn"),
        ('send("A"); send("R"); send("R")', "the process sent a frame 'R' out of turn"),
        ('send("A"); send("R", b"[")', "the process sent a frame that cannot be read"),
        ('send("A"); send("G", b"null")', "the process sent a frame that cannot be read"),
        ('send("A"); send("E", b"\\xff")', "the process sent a frame that cannot be read"),
        ('send("A"); send("R", b\'{"contentType": "a/b\\\\r\\\\nX: 1"}\')', "is no content type"),
        ('send("A"); send("R"); send("B", b"NaN")', "the result says that it is JSON, and is not"),
        ('send("A"); send("R"); send("B", b"")', "the result says that it is JSON, and is not"),
        ('send("A"); send("R"); send("B", b"[" * 900)', "the result says that it is JSON, and is not"),
        (
            'send("A"); send("R"); os.write(1, b"B\\0\\1\\0\\0")',
            "the result of 65536 bytes is over the cap of 1000 bytes",
        ),
        ('send("A"); os.write(1, b"E\\xff\\0\\0\\0")', "the frame 'E' of 4278190080 bytes is over the cap"),
    ],
)
async def test_what_breaks_the_contract_is_a_bad_result_that_says_how(code, message):
    assert message in await bad(code + "\ntime.sleep(600)")


async def test_a_frame_that_is_cut_off_is_an_exit_code():
    reply = await run('send("A"); send("R"); os.write(1, b"B\\0\\0\\0\\5abc"); sys.exit(1)')
    assert reply.failure == Failure(
        FailureType.EXIT_CODE, "the process exited with code 1 before it gave a result", exit_code=1
    )


@given(garbage=st.binary(max_size=200), armed=st.booleans())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_a_failure_of_the_function_and_never_an_exception(garbage, armed):
    data = frame("A", b"{}") * armed + garbage
    reply = asyncio.run(run(f"os.write(1, {data!r})"))
    assert reply.failure is not None or reply.result is not None


async def test_an_over_long_message_and_traceback_are_cut():
    reply = await run("""
send("A")
told = {"message": "m" * 50000, "error": "e" * 50000, "traceback": "t" * 100000 + "end"}
send("E", json.dumps(told).encode())
""")
    assert len(reply.failure.message) == 4096
    assert len(reply.failure.error) == 4096
    assert len(reply.failure.traceback) == 32768
    assert reply.failure.traceback.endswith("end")


async def test_progress_is_kept_within_0_and_1():
    told: list[tuple[float, str]] = []
    sandbox = await ProcessSandbox.of(
        SPEAK
        + 'send("A"); send("G", b\'{"fraction": 7}\'); send("G", b\'{"fraction": -1, "message": "x"}\');'
        'send("R"); send("B", b"1")'
    )
    await invoke(sandbox, "python", REQUEST, on_progress=lambda *progress: told.append(progress))
    await sandbox.remove()
    assert told == [(1.0, ""), (0.0, "x")]


async def test_progress_is_passed_on_at_a_pace_and_the_latest_of_it_always():
    told: list[tuple[float, str]] = []
    sandbox = await ProcessSandbox.of(
        SPEAK
        + """
send("A")
for step in range(20001):
    send("G", json.dumps({"fraction": step / 20000}).encode())
send("R"); send("B", b"1")
"""
    )
    began = time.monotonic()
    await invoke(sandbox, "python", REQUEST, on_progress=lambda *progress: told.append(progress))
    await sandbox.remove()
    assert told[-1] == (1.0, "")
    assert len(told) <= 2 + (time.monotonic() - began) / output.PROGRESS_SECONDS


async def test_held_progress_is_passed_on_while_the_function_works_on():
    stop = Stop()
    told: list[float] = []

    def progressed(fraction: float, message: str) -> None:
        told.append(fraction)
        if fraction == 0.2:
            stop.set()

    sandbox = await ProcessSandbox.of(
        SPEAK
        + 'send("A"); send("G", b\'{"fraction": 0.1}\'); send("G", b\'{"fraction": 0.2}\'); time.sleep(600)'
    )
    await invoke(sandbox, "python", REQUEST, on_progress=progressed, stop=stop)
    await sandbox.remove()
    assert told == [0.1, 0.2]


async def test_a_process_that_lingers_after_its_result_is_ended_and_its_last_lines_are_kept(monkeypatch):
    monkeypatch.setattr(output, "LINGER_SECONDS", 0.2)
    sandbox = await ProcessSandbox.of(
        SPEAK + 'send("A"); send("R"); send("B", b"1"); os.write(2, b"last"); os.write(1, b"x" * 5000000);'
        "time.sleep(600)"
    )
    reply = await invoke(sandbox, "python", REQUEST)
    assert (reply.failure, reply.result, reply.log) == (None, b"1", b"last")
    assert sandbox.signals == ["SIGKILL"]
    await sandbox.remove()


async def test_a_timeout_tells_the_process_first_and_reads_what_it_writes_then():
    sandbox = await ProcessSandbox.of(
        SPEAK
        + """
import signal
def tidy(*_):
    os.write(1, b"x" * 5000000)
    os.write(2, b"tidied up")
    os._exit(0)
signal.signal(signal.SIGTERM, tidy)
send("A")
time.sleep(600)
"""
    )
    reply = await invoke(sandbox, "python", replace(REQUEST, deadline_seconds=2))
    assert reply.failure == Failure(FailureType.TIMEOUT, "the function took more than 2 s")
    assert reply.log == b"tidied up"
    assert sandbox.signals[0] == "SIGTERM"
    await sandbox.remove()


async def test_a_broken_engine_is_an_exception():
    class Lost(ProcessSandbox):
        async def wait(self) -> Exit:
            raise SandboxLost("the engine is gone")

    sandbox = await Lost.of(SPEAK + "sys.exit(0)")
    with pytest.raises(SandboxLost, match="the engine is gone"):
        await invoke(sandbox, "python", REQUEST)
    await sandbox.remove()


async def test_an_engine_that_goes_away_after_the_result_changes_nothing():
    class Lost(ProcessSandbox):
        async def kill(self, name: str = "SIGKILL") -> None:
            raise SandboxLost("the engine is gone")

    sandbox = await Lost.of(SPEAK + 'send("A"); send("R"); send("B", b"1"); time.sleep(600)')
    reply = await invoke(sandbox, "python", REQUEST)
    assert (reply.failure, reply.result) == (None, b"1")
    await sandbox.remove()


async def test_a_cancelled_invocation_leaves_no_task_behind():
    sandbox = await ProcessSandbox.of(SPEAK + 'send("A"); os.write(2, b"here"); time.sleep(600)')
    before = tasks_beside(sandbox)
    invoking = asyncio.create_task(invoke(sandbox, "python", REQUEST))
    await asyncio.sleep(0)
    invoking.cancel()
    await asyncio.wait({invoking})
    assert invoking.cancelled()
    assert asyncio.all_tasks() == before
    await sandbox.remove()


# --- what a function says of another attempt


@pytest.mark.parametrize(
    ("told", "advice", "retry_after"),
    [
        ({"advice": "retry"}, Advice.RETRY, None),
        ({"advice": "retry", "retryAfter": 0}, Advice.RETRY, 0),
        ({"advice": "retry", "retryAfter": 1.5}, Advice.RETRY, 1.5),
        ({"advice": "retry", "retryAfter": MAX_DELAY_SECONDS}, Advice.RETRY, MAX_DELAY_SECONDS),
        ({"advice": "permanent"}, Advice.PERMANENT, None),
        ({"advice": "permanent", "retryAfter": 5}, Advice.PERMANENT, None),
        ({"retryAfter": 5}, None, None),
        ({"advice": "retry", "retryAfter": -1}, Advice.RETRY, None),
        ({"advice": "retry", "retryAfter": MAX_DELAY_SECONDS + 1}, Advice.RETRY, None),
        ({"advice": "retry", "retryAfter": 10**400}, Advice.RETRY, None),
        ({"advice": "retry", "retryAfter": "30"}, Advice.RETRY, None),
        ({"advice": "retry", "retryAfter": True}, Advice.RETRY, None),
        ({"advice": "retry", "retryAfter": [30]}, Advice.RETRY, None),
        ({"advice": "Retry"}, None, None),
        ({"advice": ["retry"]}, None, None),
        ({"advice": {}}, None, None),
        ({"advice": None}, None, None),
    ],
)
async def test_advice_is_taken_where_it_makes_sense(told, advice, retry_after):
    body = msgspec.json.encode({"message": "busy", "error": "Retry", **told})
    reply = await run(f'send("A"); send("E", {body!r})')
    assert reply.failure == Failure(
        FailureType.ERROR, "busy", error="Retry", advice=advice, retry_after=retry_after
    )


@pytest.mark.parametrize(
    ("code", "advice"), [(75, Advice.RETRY), (65, Advice.PERMANENT), (1, None), (74, None)]
)
async def test_an_exit_code_may_be_advice_in_the_unix_contract(code, advice):
    reply = await run(f"import sys; sys.exit({code})", "unix")
    message = f"the process exited with code {code}"
    assert reply.failure == Failure(FailureType.EXIT_CODE, message, exit_code=code, advice=advice)


async def test_an_exit_code_is_no_advice_in_the_python_contract():
    assert (await run('send("A"); sys.exit(75)')).failure.advice is None


# --- the stop


CANCELLED = Failure(FailureType.CANCELLED, "the task was cancelled while it ran")
TIDY = """
import os, signal, sys, time
def tidy(*_):
    os.write(2, b", tidied up")
    os._exit(0)
signal.signal(signal.SIGTERM, tidy)
def work():
    while True:
        time.sleep(0.05)
"""
"""In naps: a signal that comes after Python looked for one, and before the kernel sleeps, wakes nobody."""


async def stopped(code: str, contract: str = "python", **changes: Any) -> tuple[Reply, list[str]]:
    """The reply of a function that is stopped once it has logged something, and the signals it was sent."""
    stop = Stop()
    sandbox = await ProcessSandbox.of(SPEAK + code)
    try:
        async with asyncio.timeout(60):
            request = replace(REQUEST, **changes)
            reply = await invoke(sandbox, contract, request, stop=stop, on_log=lambda chunk: stop.set())
    finally:
        await sandbox.remove()
    return reply, sandbox.signals


@pytest.mark.parametrize(
    ("contract", "code"),
    [
        ("python", 'os.write(2, b"importing"); work()'),
        ("python", 'send("A"); os.write(2, b"never reading"); work()'),
        ("python", 'send("A"); receive(); receive(); os.write(2, b"working"); work()'),
        ("python", 'send("A"); send("R"); os.write(2, b"in the midst of its result"); work()'),
        ("unix", 'os.write(2, b"never reading"); work()'),
        ("unix", 'sys.stdin.read(); print("half", flush=True); os.write(2, b"working"); work()'),
    ],
)
async def test_a_stop_ends_the_function_whatever_it_is_doing_and_lets_it_clean_up(
    contract, code, monkeypatch
):
    # As long as a busy machine may need to run it: it ends when it has.
    monkeypatch.setattr("dispatcher.invocation.GRACE_SECONDS", 30.0)
    reply, signals = await stopped(TIDY + code, contract, payload=b"x" * 6_000_000)
    assert (reply.failure, reply.result) == (CANCELLED, None)
    assert reply.log.endswith(b", tidied up")
    assert signals[0] == "SIGTERM"


@pytest.mark.parametrize("contract", ["python", "unix"])
async def test_a_function_that_ignores_the_stop_is_killed_after_the_grace(monkeypatch, contract):
    monkeypatch.setattr(invocation, "GRACE_SECONDS", 0.2)
    reply, signals = await stopped(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'os.write(2, b"ready")\nwhile True: time.sleep(600)',
        contract,
    )
    assert reply.failure == CANCELLED
    assert signals == ["SIGTERM", "SIGKILL"]


async def test_an_answer_that_is_given_on_the_stop_comes_too_late():
    answer = """
def answer(*_):
    send("R"); send("B", b"1")
    os._exit(0)
signal.signal(signal.SIGTERM, answer)
send("A"); os.write(2, b"ready"); work()
"""
    reply, _ = await stopped(TIDY + answer)
    assert (reply.failure, reply.result) == (CANCELLED, None)


@pytest.mark.parametrize(
    ("answer", "failure", "result"),
    [
        ('send("R"); send("B", b"1")', None, b"1"),
        ('send("E", b\'{"error": "E", "message": "m"}\')', Failure(FailureType.ERROR, "m", error="E"), None),
    ],
)
async def test_an_answer_that_came_before_the_stop_stands(monkeypatch, answer, failure, result):
    monkeypatch.setattr(output, "LINGER_SECONDS", 0.2)
    stop = Stop()

    class Watched(ProcessSandbox):
        """Stopped once the answer was read and the process is waited for."""

        async def wait(self) -> Exit:
            stop.set()
            return await super().wait()

        async def kill(self, name: str = "SIGKILL") -> None:
            stop.set()
            await super().kill(name)

    sandbox = await Watched.of(SPEAK + f'send("A"); {answer}; time.sleep(600)')
    reply = await invoke(sandbox, "python", REQUEST, stop=stop)
    await sandbox.remove()
    assert stop.is_set()
    assert (reply.failure, reply.result) == (failure, result)


async def test_a_stop_that_came_before_the_sandbox_ends_it_at_once():
    stop = Stop()
    stop.set()
    sandbox = await ProcessSandbox.of("import time; time.sleep(600)")
    reply = await invoke(sandbox, "python", REQUEST, stop=stop)
    await sandbox.remove()
    assert reply.failure == CANCELLED


async def test_an_engine_that_breaks_under_a_stop_is_an_exception():
    class Lost(ProcessSandbox):
        async def kill(self, name: str = "SIGKILL") -> None:
            raise SandboxLost("the engine is gone")

    stop = Stop()
    stop.set()
    sandbox = await Lost.of("import time; time.sleep(600)")
    with pytest.raises(SandboxLost, match="the engine is gone"):
        await invoke(sandbox, "unix", REQUEST, stop=stop)
    await sandbox.remove()


async def test_an_invocation_with_a_stop_that_never_comes_leaves_no_task_behind():
    before = asyncio.all_tasks()
    reply = await run('send("A"); send("R"); send("B", b"1")')
    assert reply.result == b"1"
    assert asyncio.all_tasks() == before


# --- the log


async def test_the_log_is_told_as_it_comes_and_as_far_as_it_is_kept():
    chunks: list[bytes] = []
    seen = asyncio.Event()

    def logged(chunk: bytes) -> None:
        chunks.append(chunk)
        seen.set()

    sandbox = await ProcessSandbox.of(
        SPEAK + 'os.write(2, b"first"); send("A"); receive(); receive();'
        'os.write(2, b"x" * 2000); send("R"); send("B", b"1")'
    )

    class Gated(ProcessSandbox):
        """Gets its task only once the first line of its log was told."""

        async def write(self, data: bytes) -> None:
            await seen.wait()
            await super().write(data)

    reply = await invoke(Gated(sandbox.process), "python", REQUEST, on_log=logged)
    await sandbox.remove()
    assert chunks[0] == b"first"
    assert b"".join(chunks) == reply.log == b"first" + b"x" * 995
    assert reply.log_dropped == 1005


async def test_the_log_is_its_first_bytes_and_a_count_of_the_rest():
    reply = await run('send("A"); os.write(2, b"ab" * 1000); send("R"); send("B", b"1")')
    assert reply.log == b"ab" * 500
    assert reply.log_dropped == 1000


async def test_bytes_that_are_no_utf8_are_replaced_within_the_cap():
    reply = await run('send("A"); os.write(2, b"\\xff" * 600); send("R"); send("B", b"1")')
    assert reply.log.decode() == "\N{REPLACEMENT CHARACTER}" * 333
    assert reply.log_dropped == 0


SECRET = "correct horse battery staple"


async def test_secrets_are_taken_out_of_the_log_wherever_it_is_cut_and_out_of_what_is_told_live():
    told: list[bytes] = []
    sandbox = await ProcessSandbox.of(
        SPEAK
        + f"""
send("A"); receive(); receive()
for letter in "with {SECRET}\\n":
    os.write(2, letter.encode()); time.sleep(0.001)
os.write(2, b"twice {SECRET}{SECRET}\\n")
send("R"); send("B", b'"{SECRET}"')
"""
    )
    request = replace(REQUEST, secrets=(SECRET, "short"))
    reply = await invoke(sandbox, "python", request, on_log=told.append)
    await sandbox.remove()
    assert reply.log == b"".join(told) == b"with ***\ntwice ***\n"
    # What a function gives is its own affair.
    assert reply.result == f'"{SECRET}"'.encode()


async def test_a_secret_that_the_logs_cap_cuts_is_taken_out_as_well():
    reply = await run(
        f'send("A"); os.write(2, b"x" * 990 + b"{SECRET}"); send("R"); send("B", b"1")', secrets=(SECRET,)
    )
    assert reply.log == b"x" * 990 + b"***"


async def test_secrets_are_taken_out_of_a_failure_before_it_is_cut():
    cut = f'"x" * 4090 + "{SECRET}"'
    reply = await run(
        f"""
send("A"); receive(); receive()
send("G", json.dumps({{"fraction": 0.5, "message": "{SECRET}"}}).encode())
send("E", json.dumps({{"error": "{SECRET}", "message": {cut}, "traceback": "at {SECRET}\\n"}}).encode())
""",
        secrets=(SECRET,),
    )
    assert reply.failure.message == "x" * 4090 + "***"
    assert (reply.failure.error, reply.failure.traceback) == ("***", "at ***\n")


async def test_secrets_are_taken_out_of_a_progress():
    told: list[tuple[float, str]] = []
    sandbox = await ProcessSandbox.of(
        SPEAK
        + f"""
send("A"); receive(); receive()
send("G", json.dumps({{"fraction": 0.5, "message": "as {SECRET}"}}).encode())
send("R"); send("B", b"1")
"""
    )
    request = replace(REQUEST, secrets=(SECRET,))
    await invoke(sandbox, "python", request, on_progress=lambda *progress: told.append(progress))
    await sandbox.remove()
    assert told == [(0.5, "as ***")]


async def test_secrets_are_taken_out_of_what_a_broken_contract_quotes():
    reply = await run(
        f"""send("A"); receive(); receive(); send("R", b'{{"contentType": "{SECRET}"}}')""", secrets=(SECRET,)
    )
    assert reply.failure.message == "'***' is no content type"


async def test_secrets_are_taken_out_of_a_unix_functions_log():
    code = f'import sys; sys.stderr.write("with {SECRET}"); sys.exit(1)'
    assert (await run(code, "unix", secrets=(SECRET,))).log == b"with ***"


# --- the Unix contract


async def test_the_payload_is_stdin_to_its_end_and_stdout_the_result():
    reply = await run(
        "import sys; sys.stdout.write(sys.stdin.read()[::-1])", "unix", payload=b"abc" * 300, max_result=900
    )
    assert (reply.failure, reply.result) == (None, b"cba" * 300)
    assert reply.content_type == "text/plain; charset=utf-8"


async def test_one_byte_over_the_cap_is_over_it():
    assert (await run('print("x" * 999)', "unix")).failure is None
    reply = await run('print("x" * 1000)', "unix")
    assert reply.failure == Failure(FailureType.BAD_RESULT, "the result is over the cap of 1000 bytes")


async def test_a_signal_is_named():
    reply = await run("import os; os.kill(os.getpid(), 11)", "unix")
    assert reply.failure == Failure(FailureType.EXIT_CODE, "the process was ended by SIGSEGV", exit_code=139)


async def test_a_codes_that_is_no_signals_is_just_told():
    reply = await run("import sys; sys.exit(255)", "unix")
    assert reply.failure == Failure(FailureType.EXIT_CODE, "the process exited with code 255", exit_code=255)


# --- a payload that is streamed


@dataclass(frozen=True)
class Pieces:
    pieces: tuple[bytes, ...]
    broken: Exception | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        if self.broken is not None:
            raise self.broken


LENGTH = """
send("A")
receive()
kind, size = receive()
data = sys.stdin.buffer.read(int.from_bytes(size, "big"))
send("R", b'{"contentType": "text/x-own"}')
send("B", kind.encode() + data[:2] + str(len(data)).encode())
"""


async def test_a_streamed_payload_comes_behind_its_length() -> None:
    reply = await run(LENGTH, payload=Pieces((b"ab", b"c" * 300_000)))
    assert reply.result == b"Sab300002"


async def test_a_process_by_the_unix_contract_has_a_streamed_payload_on_stdin() -> None:
    code = "import sys; print(len(sys.stdin.buffer.read()))"
    assert (await run(code, "unix", payload=Pieces((b"ab", b"c" * 300_000)))).result == b"300002\n"


@pytest.mark.parametrize("contract", ["python", "unix"])
async def test_what_breaks_a_payload_ends_the_attempt_that_still_waits_for_it(contract: str) -> None:
    code = LENGTH if contract == "python" else "import sys; sys.stdin.buffer.read()"
    with pytest.raises(ValueError, match="no such bytes"):
        await run(code, contract, payload=Pieces((b"ab",), broken=ValueError("no such bytes")))


async def test_an_answer_stands_although_nobody_has_read_the_payload() -> None:
    code = """
send("A")
receive()
send("R", b"{}")
send("B", b"1")
sys.stdin.buffer.read()
"""
    reply = await run(code, payload=Pieces((b"x" * 1_000_000,) * 20))
    assert reply.result == b"1"
