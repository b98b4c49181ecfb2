"""A function that misbehaves in every way, over HTTP: its exact answer each time, and no other harmed."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import pytest

from tests.conftest import Mayfly
from tests.e2e.conftest import eventually
from tests.e2e.tasks import PATIENCE, ended, logs, post, result
from tests.engine import remove_images

MIB = 1024 * 1024
HANDLER = """\
import os
import subprocess
import sys
import time

MIB = 1024 * 1024


def raises():
    print("before it")
    raise LookupError("no such customer")


def raises_without_end():
    raise ValueError("x" * 1_000_000)


def exits():
    sys.exit(3)


def exits_with_a_sentence():
    sys.exit("there is no more")


def exits_hard():
    print("about to go")
    os._exit(4)


def exits_hard_with_0():
    os._exit(0)


def is_killed():
    os.kill(os.getpid(), 9)


def prints():
    print("one")
    print("two", file=sys.stderr)
    os.write(1, b"three\\n")
    subprocess.run(["echo", "four"], check=True)
    return {"printed": 4}


def prints_what_is_no_text():
    os.write(1, b"a\\xffb\\n")


def prints_frames():
    print('R\\0\\0\\0\\2{}B\\0\\0\\0\\5false')
    return "mine"


def recurses():
    return recurses()


def returns_nan():
    return {"ratio": float("nan")}


def returns_a_set():
    return [1, {2, 3}]


def returns_an_object():
    return {"deep": {"file": sys.stdin}}


def returns_a_key_that_is_none():
    return {(1, 2): 3}


def returns_itself():
    loop = []
    loop.append(loop)
    return loop


def returns_half_a_pair():
    return "\\ud800"


def returns_too_much():
    return "x" * (6 * MIB)


def never_ends():
    while True:
        time.sleep(1)


def never_ends_and_will_not():
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def leaves_children():
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
    return "their parent"


def forks_without_end():
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.1)


def returns_twice():
    os.fork()
    return os.getpid() > 0


def eats_memory():
    held = []
    while True:
        held.append(bytearray(8 * MIB))


def eats_memory_in_a_child():
    eater = "held = []\\nwhile True: held.append(bytearray(8 << 20))"
    subprocess.run([sys.executable, "-c", eater], check=True)


def fills_its_disk():
    with open("/tmp/large", "wb") as file:
        while True:
            file.write(bytes(MIB))


def writes_where_it_may_not():
    open("/function/handler.py", "w")


def writes_a_gigabyte_of_logs():
    block = b"x" * MIB
    for _ in range(1024):
        written = 0
        while written < MIB:
            written += os.write(2, block[written:])
    return "done"


def handler(event, context):
    return globals()[event]()
"""
MANIFEST = "timeout = 240\nmemory = 64\npids = 32\ntmp = 16\n"
GIGABYTE = 1024 * MIB


def traceback_of(name: str, last: str) -> str:
    return (
        rf'Traceback \(most recent call last\):\n  File "handler\.py", line \d+, in handler\n(.|\n)*'
        rf'  File "handler\.py", line \d+, in {name}\n(.|\n)*{last}\n'
    )


@dataclass(frozen=True)
class Case:
    """What a task of `naughty` comes to. Where `error` is None it completes with `result`."""

    error: dict[str, Any] | None = None
    result: Any = None
    log: str = ""
    dropped: int = 0
    traceback: str | None = None
    timeout: float | None = None


def failed(type: str, message: str, **more: Any) -> dict[str, Any]:
    return {"type": type, "message": message, **more}


def timed_out() -> dict[str, Any]:
    return failed("Function.Timeout", "the function took more than 1 s")


def exited(how: str, code: int) -> dict[str, Any]:
    return failed("Function.ExitCode", f"the process {how} before it gave a result", exitCode=code)


def bad_result(message: str) -> dict[str, Any]:
    return failed("Function.BadResult", message, **{"class": "BadResult"})


MEMORY = "the function used more than its 64 MiB of memory"
CASES = {
    "raises": Case(
        failed("Function.Error", "no such customer", **{"class": "LookupError"}),
        log="before it\n",
        traceback=traceback_of("raises", "LookupError: no such customer"),
    ),
    "raises_without_end": Case(
        failed("Function.Error", "x" * 4096, **{"class": "ValueError"}),
        traceback=r"(.|\n){1,40000}",
    ),
    "exits": Case(exited("exited with code 3", 3)),
    "exits_with_a_sentence": Case(exited("exited with code 1", 1), log="there is no more\n"),
    "exits_hard": Case(exited("exited with code 4", 4), log="about to go\n"),
    "exits_hard_with_0": Case(exited("exited with code 0", 0)),
    "is_killed": Case(exited("was ended by SIGKILL", 137)),
    "prints": Case(result={"printed": 4}, log="one\ntwo\nthree\nfour\n"),
    "prints_what_is_no_text": Case(log="a\N{REPLACEMENT CHARACTER}b\n"),
    "prints_frames": Case(result="mine", log="R\0\0\0\2{}B\0\0\0\5false\n"),
    "recurses": Case(
        failed(
            "Function.Error",
            "maximum recursion depth exceeded",
            **{"class": "RecursionError"},
        ),
        traceback=traceback_of("recurses", "RecursionError: maximum recursion depth exceeded"),
    ),
    "returns_nan": Case(bad_result("result.ratio is nan, which JSON cannot hold")),
    "returns_a_set": Case(bad_result("result[1] is a set, which JSON cannot hold")),
    "returns_an_object": Case(bad_result("result.deep.file is a TextIOWrapper, which JSON cannot hold")),
    "returns_a_key_that_is_none": Case(bad_result("result has a key of type tuple: JSON's keys are strings")),
    "returns_itself": Case(bad_result("result[0] contains itself")),
    "returns_half_a_pair": Case(
        bad_result("result holds half a surrogate pair at character 0, which UTF-8 cannot hold")
    ),
    "returns_too_much": Case(
        failed(
            "Function.BadResult",
            f"the result of {6 * MIB + 2} bytes is over the cap of {6 * MIB} bytes",
        )
    ),
    "never_ends": Case(timed_out(), timeout=1),
    "never_ends_and_will_not": Case(timed_out(), timeout=1),
    "leaves_children": Case(result="their parent"),
    "forks_without_end": Case(timed_out(), timeout=1),
    "returns_twice": Case(result=True),
    "eats_memory": Case(failed("Function.OutOfMemory", MEMORY, exitCode=137)),
    "eats_memory_in_a_child": Case(
        failed("Function.OutOfMemory", MEMORY + ": Command ", **{"class": "CalledProcessError"}),
        traceback=r"(.|\n)*died with <Signals\.SIGKILL: 9>\.\n",
    ),
    "fills_its_disk": Case(
        failed("Function.Error", "[Errno 28] No space left on device", **{"class": "OSError"}),
        traceback=traceback_of("fills_its_disk", r"OSError: \[Errno 28\] No space left on device"),
    ),
    "writes_where_it_may_not": Case(
        failed(
            "Function.Error",
            "[Errno 30] Read-only file system: '/function/handler.py'",
            **{"class": "OSError"},
        ),
        traceback=traceback_of("writes_where_it_may_not", "OSError: .*"),
    ),
    "writes_a_gigabyte_of_logs": Case(result="done", log="x" * MIB, dropped=GIGABYTE - MIB),
}
"""By the name of the function in HANDLER."""


@pytest.fixture(scope="module")
def naughty(mayfly: Mayfly, docker_engine: docker.DockerClient) -> Iterator[dict[str, str]]:
    """The function, and a task for every case, all at once: their ids."""
    folder = mayfly.functions / "naughty"
    folder.mkdir()
    (folder / "function.toml").write_text(MANIFEST)
    (folder / "handler.py").write_text(HANDLER)
    eventually(lambda: mayfly.http.get("/functions/naughty").status_code == 200, "it is served", PATIENCE)
    yield {name: submit(mayfly, name, case) for name, case in CASES.items()}
    shutil.rmtree(folder)
    eventually(lambda: mayfly.http.get("/functions/naughty").status_code == 404, "it is retired", PATIENCE)
    remove_images(docker_engine, "naughty")


def submit(mayfly: Mayfly, name: str, case: Case) -> str:
    return post(mayfly.http, "naughty", name, **({"timeoutSeconds": case.timeout} if case.timeout else {}))


@pytest.mark.parametrize("name", CASES)
def test_a_misbehaving_function_has_its_exact_answer(
    mayfly: Mayfly, naughty: dict[str, str], docker_engine: docker.DockerClient, name: str
) -> None:
    case, task_id = CASES[name], naughty[name]
    task = ended(mayfly.http, task_id)
    if case.error is None:
        assert (task["status"], task.get("error")) == ("COMPLETED", None)
        assert task["result"] == case.result
    else:
        expect_failure(task, case)
        refused = mayfly.http.get(f"/tasks/{task_id}/result")
        assert (refused.status_code, refused.json()["code"]) == (404, "no_result")
    assert task["attempt"] == 1, "what a function does is no reason to run it again"
    answer = mayfly.http.get(f"/tasks/{task_id}/logs")
    assert answer.text == case.log
    assert int(answer.headers.get("mayfly-log-dropped", "0")) == case.dropped

    def left() -> bool:
        # Sparse: one that goes while it is listed would be an error.
        there = docker_engine.containers.list(all=True, sparse=True, filters={"label": "mayfly.lock"})
        return sandbox_of(mayfly, task_id) in {
            name.strip("/") for one in there for name in one.attrs["Names"]
        }

    eventually(lambda: not left(), "nothing of it is left")


def sandbox_of(mayfly: Mayfly, task_id: str) -> str:
    """The container that ran the task, as the dispatcher's log has it."""
    (log,) = mayfly.stack.directory.glob("logs/dispatcher-*.log")
    lines = [json.loads(line) for line in log.read_text().splitlines() if task_id in line]
    return next(line["sandbox"] for line in lines if line["event"] == "runs")


def expect_failure(task: dict[str, Any], case: Case) -> None:
    assert case.error is not None
    assert task["status"] == "FAILED"
    assert "resultUrl" not in task
    error = dict(task["error"])
    traceback = error.pop("traceback", None)
    assert (traceback is None) == (case.traceback is None), traceback
    if case.traceback is not None:
        assert re.fullmatch(case.traceback, traceback), traceback
    # What a library says in the end may change with it.
    message = error.pop("message")
    assert message.startswith(case.error["message"])
    assert {**error, "message": case.error["message"]} == case.error


def test_a_process_that_finds_its_data_bad_has_its_exit_code(mayfly: Mayfly) -> None:
    answer = mayfly.http.post(
        "/tasks",
        content=b" \n",
        headers={"content-type": "application/octet-stream"},
        params={"taskType": "wordcount"},
    )
    task = ended(mayfly.http, answer.json()["taskId"])
    assert task["error"] == {
        "type": "Function.ExitCode",
        "message": "the process exited with code 65",
        "exitCode": 65,
    }
    assert logs(mayfly.http, task["taskId"]) == "there is no word in the text\n"


def test_the_dispatcher_that_ran_them_all_is_as_good_as_before(
    mayfly: Mayfly, naughty: dict[str, str]
) -> None:
    tasks = [ended(mayfly.http, task_id) for task_id in naughty.values()]
    [worker] = mayfly.http.get("/workers").json()["workers"]
    assert {task["dispatcher"] for task in tasks} == {worker["id"]}
    task_id = post(mayfly.http, "echo", "still there")
    assert ended(mayfly.http, task_id)["status"] == "COMPLETED"
    assert result(mayfly.http, task_id) == ("application/json", b'"still there"')
    assert mayfly.http.get("/workers").json()["workers"][0]["id"] == worker["id"]
