"""The bootstrap in a process of its own, spoken to in frames: what a handler sees and what becomes of it."""

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import sysconfig
import textwrap
import time
from dataclasses import dataclass, field
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest

import mayfly
from mayfly.advice import MAX_AFTER
from mayfly.base_image import python_files
from mayfly.task import MAX_DELAY_SECONDS

PATIENCE = 60.0


@dataclass
class Outcome:
    frames: list[tuple[bytes, bytes]]
    log: str
    exit_code: int
    kinds: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.kinds = [kind for kind, _ in self.frames]

    def json(self, kind: bytes) -> Any:
        return json.loads(self.body(kind))

    def body(self, kind: bytes) -> bytes:
        return next(body for found, body in self.frames if found == kind)

    @property
    def result(self) -> Any:
        assert self.kinds[-2:] == [b"R", b"B"], (self.frames, self.log)
        return self.json(b"B")

    @property
    def failure(self) -> dict[str, Any]:
        assert self.kinds[-1:] == [b"E"], (self.frames, self.log)
        found: dict[str, Any] = self.json(b"E")
        return found


def frame(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body)) + body


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    frames = []
    while data:
        (size,) = struct.unpack(">I", data[1:5])
        frames.append((data[:1], data[5 : 5 + size]))
        data = data[5 + size :]
    return frames


class Sandbox:
    def __init__(self, folder: Path, bootstrap: Path) -> None:
        self.folder = folder
        self.bootstrap = bootstrap

    def write(self, handler: str, **files: str) -> None:
        (self.folder / "handler.py").write_text(textwrap.dedent(handler))
        for name, content in files.items():
            (self.folder / name.replace("__", ".")).write_text(content)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", str(self.bootstrap / "bootstrap.py"), *arguments],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LANG": "C", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(
        self,
        handler: str,
        payload: bytes = b"null",
        content_type: str = "application/json",
        env: dict[str, str] | None = None,
    ) -> Outcome:
        self.write(handler)
        process = self.start()
        out, log = process.communicate(task(payload, content_type, env), timeout=PATIENCE)
        return Outcome(split(out), log.decode(), process.returncode)

    def describe(self, handler: str, **files: str) -> dict[str, Any]:
        self.write(handler, **files)
        process = self.start("describe")
        out, log = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, log
        found: dict[str, Any] = json.loads(out)
        return found


def answer_then_rest(sandbox: Sandbox, handler: str, *, hang_up: bool) -> tuple[bytes, str]:
    """The log of a process that was given the mark `end`, and what becomes of it once it has written it."""
    sandbox.write(handler)
    with sandbox.start("once", "end") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(task(b"null"))
        process.stdin.flush()
        log = b""
        while not log.endswith(b"\0end\n") and (chunk := os.read(process.stderr.fileno(), 65536)):
            log += chunk
        if hang_up:
            process.stdin.close()
        state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert state is not None
        process.kill()
    return log, "stopped" if state.si_code == os.CLD_STOPPED else "ended"


def task(payload: bytes, content_type: str = "application/json", env: dict[str, str] | None = None) -> bytes:
    about = {
        "taskId": "0199-task",
        "taskType": "resize",
        "attempt": 2,
        "deadline": time.time() + 30,
        "contentType": content_type,
        "version": "abc123",
        "memoryMiB": 256,
        "env": env or {},
    }
    return frame(b"T", json.dumps(about).encode()) + frame(b"P", payload)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    folder, bootstrap = tmp_path / "function", tmp_path / "opt"
    folder.mkdir()
    bootstrap.mkdir()
    for name, source in python_files().items():
        (bootstrap / name).write_bytes(source.read_bytes())
    # The packages of these tests stand for those of a function: Pydantic is among them.
    (bootstrap / "site").symlink_to(sysconfig.get_path("purelib"))
    return Sandbox(folder, bootstrap)


# --- what a handler returns ---------------------------------------------------------------------------------


def test_json_comes_back_as_json(sandbox: Sandbox) -> None:
    done = sandbox.run("def handler(event, context): return event", '{"a":[1,2.5,null,"ü"]}'.encode())
    assert done.kinds == [b"A", b"R", b"B"]
    assert done.json(b"R") == {"contentType": "application/json"}
    assert done.body(b"B") == '{"a":[1,2.5,null,"ü"]}'.encode()
    assert done.exit_code == 0


def test_an_async_handler_is_awaited(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import asyncio
        async def handler(event, context):
            await asyncio.sleep(0)
            return "late"
    """)
    assert done.result == "late"


@pytest.mark.parametrize(
    ("value", "content_type", "body"),
    [
        ("b'\\x00\\xff'", "application/octet-stream", b"\x00\xff"),
        ("bytearray(b'ab')", "application/octet-stream", b"ab"),
        ("(b'<p>', 'text/html; charset=utf-8')", "text/html; charset=utf-8", b"<p>"),
        ("('a', 'b')", "application/json", b'["a","b"]'),
        ("None", "application/json", b"null"),
        ("'text'", "application/json", b'"text"'),
    ],
)
def test_bytes_come_back_as_bytes(sandbox: Sandbox, value: str, content_type: str, body: bytes) -> None:
    done = sandbox.run(f"def handler(event, context): return {value}")
    assert done.json(b"R") == {"contentType": content_type}
    assert done.body(b"B") == body


def test_models_and_dataclasses_are_dumped_at_any_depth(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import datetime
        from dataclasses import dataclass
        from pydantic import BaseModel
        class Model(BaseModel):
            when: datetime.date
        @dataclass
        class Pair:
            one: Model
            rest: tuple
        def handler(event, context):
            return {"pairs": [Pair(Model(when="2026-11-24"), (1, 2))]}
    """)
    assert done.result == {"pairs": [{"one": {"when": "2026-11-24"}, "rest": [1, 2]}]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("float('nan')", "result is nan, which JSON cannot hold"),
        ("{'items': [1, {'price': float('inf')}]}", "result.items[1].price is inf, which JSON cannot hold"),
        ("{'when': datetime.datetime.now()}", "result.when is a datetime, which JSON cannot hold"),
        ("{1: {'a b': {1}}}", "result[1]['a b'] is a set, which JSON cannot hold"),
        (
            "[b'x']",
            "result[0] is a bytes, which JSON cannot hold; return bytes alone, or as (bytes, content type)",
        ),
        ("{(1, 2): 3}", "result has a key of type tuple: JSON's keys are strings"),
        ("{'a': {float('nan'): 1}}", "result.a has the key nan, which JSON cannot hold"),
        ("'ab\\ud800'", "result holds half a surrogate pair at character 2, which UTF-8 cannot hold"),
        ("loop", "result.again contains itself"),
        ("deep", "result is nested too deeply"),
        ("(b'x', 5)", 'result[1] is 5: beside bytes, a content type like "image/png" is due'),
        ("(x for x in 'ab')", "result is a generator, which JSON cannot hold"),
        ("object", "result is a type, which JSON cannot hold"),
    ],
)
def test_what_json_cannot_hold_is_named_with_its_place(sandbox: Sandbox, value: str, message: str) -> None:
    done = sandbox.run(f"""
        import datetime
        loop = {{}}
        loop["again"] = loop
        deep = []
        for _ in range(100_000):
            deep = [deep]
        def handler(event, context):
            return {value}
    """)
    assert (done.failure["type"], done.failure["message"]) == ("Function.BadResult", message)
    assert done.exit_code == 0


# --- how a handler fails ------------------------------------------------------------------------------------


def test_an_exception_is_told_with_the_functions_own_frames(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import json
        def inner():
            raise ValueError("no width")
        def handler(event, context):
            try:
                inner()
            except ValueError as error:
                raise RuntimeError("cannot resize") from error
    """)
    failure = done.failure
    assert (failure["type"], failure["error"], failure["message"]) == (
        "Function.Error", "RuntimeError", "cannot resize",
    )  # fmt: skip
    assert failure["traceback"].startswith('Traceback (most recent call last):\n  File "handler.py", line 7,')
    assert "ValueError: no width" in failure["traceback"]
    assert "bootstrap" not in failure["traceback"]
    assert str(sandbox.folder) not in failure["traceback"]


def test_an_async_traceback_has_no_event_loop_in_it(sandbox: Sandbox) -> None:
    done = sandbox.run("async def handler(event, context): return 1 / 0")
    assert done.failure["error"] == "ZeroDivisionError"
    assert "asyncio" not in done.failure["traceback"]


def test_long_messages_and_tracebacks_are_cut_in_the_middle(sandbox: Sandbox) -> None:
    done = sandbox.run("def handler(event, context): raise ValueError('a' * 100_000 + 'end')")
    for part in ("message", "traceback"):
        assert len(done.failure[part]) <= 16 * 1024
        assert "characters left out" in done.failure[part]
        assert done.failure[part].rstrip().endswith("end")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise MemoryError", "MemoryError"),
        ("raise asyncio.CancelledError", "CancelledError"),
        ("return handler(event, context)", "RecursionError"),
        ("raise Odd('x')", "Odd"),
        ("raise ValueError('\\ud800')", "ValueError"),
    ],
)
def test_every_kind_of_exception_is_reported(sandbox: Sandbox, body: str, error: str) -> None:
    done = sandbox.run(f"""
        import asyncio
        class Odd(Exception):
            def __str__(self):
                raise TypeError
        def handler(event, context):
            {body}
    """)
    assert done.failure["error"] == error


@pytest.mark.parametrize(
    ("handler", "error", "message"),
    [
        (
            "import nowhere\ndef handler(event, context): pass",
            "ModuleNotFoundError",
            "No module named 'nowhere'",
        ),
        (
            "def handler(event, context):\n  return (",
            "SyntaxError",
            "'(' was never closed (handler.py, line 2)",
        ),
        (
            "def handle(event, context): pass",
            "AttributeError",
            "handler.py defines no `handler`: add `def handler(event, context): ...`",
        ),
        ("handler = 5", "TypeError", "`handler` in handler.py is no function"),
    ],
)
def test_a_handler_that_cannot_be_imported_fails_before_it_is_armed(
    sandbox: Sandbox, handler: str, error: str, message: str
) -> None:
    done = sandbox.run(handler)
    assert done.kinds == [b"E"]
    assert (done.failure["error"], done.failure["message"]) == (error, message)


@pytest.mark.parametrize(("call", "code"), [("sys.exit(3)", 3), ("os._exit(4)", 4), ("exit(5)", 5)])
def test_an_exit_is_no_result(sandbox: Sandbox, call: str, code: int) -> None:
    done = sandbox.run(f"import os, sys\ndef handler(event, context): {call}")
    assert (done.kinds, done.exit_code) == ([b"A"], code)


def test_a_dispatcher_that_hangs_up_before_a_task_ends_the_sandbox(sandbox: Sandbox) -> None:
    sandbox.write("def handler(event, context): pass")
    process = sandbox.start()
    out, log = process.communicate(b"", timeout=PATIENCE)
    assert (split(out), log, process.returncode) == ([(b"A", b"{}")], b"", 0)


def test_sigterm_lets_finally_blocks_run(sandbox: Sandbox) -> None:
    sandbox.write("""
        import time
        def handler(event, context):
            try:
                context.progress(0.5, "started")
                time.sleep(600)
            finally:
                print("cleaned up")
    """)
    process = sandbox.start()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(task(b"null"))
    process.stdin.flush()
    assert process.stdout.read(7) == frame(b"A", b"{}")
    assert process.stdout.read(1) == b"G"
    # A signal that comes after Python has looked for one, and before the kernel sleeps, wakes nobody.
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=PATIENCE)
    assert (process.returncode, log) == (143, b"cleaned up\n")


# --- what a handler says of another attempt -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "advice"),
    [
        ("mayfly.Retry('busy')", {"advice": "retry"}),
        ("mayfly.Retry('busy', after=30)", {"advice": "retry", "retryAfter": 30}),
        ("mayfly.Retry('busy', after=0.5)", {"advice": "retry", "retryAfter": 0.5}),
        ("mayfly.Retry('busy', after=0)", {"advice": "retry", "retryAfter": 0}),
        ("mayfly.Permanent('busy')", {"advice": "permanent"}),
        ("Busy()", {"advice": "retry", "retryAfter": 7}),
        ("Gone('busy')", {"advice": "permanent"}),
        ("Reckless('busy')", {"advice": "retry"}),
        ("ValueError('busy')", {}),
    ],
)
def test_a_handler_may_ask_for_another_attempt_or_for_none(
    sandbox: Sandbox, raised: str, advice: dict[str, Any]
) -> None:
    done = sandbox.run(f"""
        import mayfly
        class Busy(mayfly.Retry):
            after = 7
            def __init__(self):
                super().__init__("busy")
        class Gone(mayfly.Permanent, LookupError):
            pass
        class Reckless(mayfly.Retry):
            after = float("inf")
        def handler(event, context):
            raise {raised}
    """)
    failure = done.failure
    assert (failure["type"], failure["message"]) == ("Function.Error", "busy")
    assert {key: failure[key] for key in ("advice", "retryAfter") if key in failure} == advice


def test_what_a_retry_was_raised_from_stays_in_its_traceback(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import mayfly
        async def handler(event, context):
            try:
                {}["customer"]
            except KeyError as error:
                raise mayfly.Retry("not there yet", after=5) from error
    """)
    assert (done.failure["error"], done.failure["retryAfter"]) == ("Retry", 5)
    assert done.failure["traceback"].startswith('Traceback (most recent call last):\n  File "handler.py"')
    assert "KeyError: 'customer'" in done.failure["traceback"]
    assert done.failure["traceback"].endswith("mayfly.Retry: not there yet\n")


def test_a_handler_may_give_advice_while_it_is_imported(sandbox: Sandbox) -> None:
    done = sandbox.run("import mayfly\nraise mayfly.Retry('no database', after=1)")
    assert done.kinds == [b"E"]
    assert (done.failure["advice"], done.failure["retryAfter"]) == ("retry", 1)


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), 10**400, MAX_AFTER + 1, "30"])
def test_a_time_that_no_task_can_wait_is_refused_where_it_is_raised(after: Any) -> None:
    with pytest.raises(ValueError, match="after takes seconds, from 0 to 31622400"):
        mayfly.Retry("busy", after=after)


def test_a_handlers_tests_find_the_same_exceptions_as_its_sandbox() -> None:
    assert (mayfly.Retry("busy", after=30).after, mayfly.Retry("busy").after) == (30, None)
    assert str(mayfly.Permanent("gone")) == "gone"
    again = pickle.loads(pickle.dumps(mayfly.Retry("busy", after=30)))
    assert (type(again), str(again), again.after) == (mayfly.Retry, "busy", 30)
    assert MAX_AFTER == MAX_DELAY_SECONDS


def test_a_function_may_have_a_mayfly_of_its_own(sandbox: Sandbox) -> None:
    (sandbox.folder / "mayfly.py").write_text("class Retry(Exception): pass\nmine = True")
    done = sandbox.run("""
        import mayfly
        def handler(event, context):
            raise mayfly.Retry(str(mayfly.mine))
    """)
    assert done.failure["message"] == "True"
    assert "advice" not in done.failure


# --- what a handler gets ------------------------------------------------------------------------------------


def test_the_context_has_mayflys_names_and_lambdas(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import time
        def handler(event, context):
            names = ("task_id attempt function_name function_version invoked_function_arn memory_limit_in_mb "
                     "aws_request_id log_group_name log_stream_name client_context").split()
            left = context.get_remaining_time_in_millis()
            assert 0 < left <= 30_000 and context.deadline > time.time()
            return {name: getattr(context, name) for name in names}
    """)
    assert done.result == {
        "task_id": "0199-task",
        "attempt": 2,
        "function_name": "resize",
        "function_version": "abc123",
        "invoked_function_arn": "arn:mayfly:lambda:local:000000000000:function:resize",
        "memory_limit_in_mb": 256,
        "aws_request_id": "0199-task",
        "log_group_name": "/mayfly/resize",
        "log_stream_name": "0199-task/2",
        "client_context": None,
    }


def test_progress_is_told_while_the_handler_runs(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        def handler(event, context):
            context.progress(0.25, "a quarter")
            context.progress(1)
    """)
    assert done.kinds == [b"A", b"G", b"G", b"R", b"B"]
    assert done.json(b"G") == {"fraction": 0.25, "message": "a quarter"}


def test_a_million_tellings_are_a_few_frames_and_the_last_one(sandbox: Sandbox) -> None:
    began = time.monotonic()
    done = sandbox.run("""
        def handler(event, context):
            for step in range(1_000_001):
                context.progress(step / 1_000_000, str(step))
    """)
    told = [json.loads(body) for kind, body in done.frames if kind == b"G"]
    assert told[0]["message"] == "0"
    assert told[-1] == {"fraction": 1.0, "message": "1000000"}
    assert len(told) <= 2 + (time.monotonic() - began) * 20
    assert done.kinds[-2:] == [b"R", b"B"]


def test_the_last_progress_is_told_before_a_failure_too(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        def handler(event, context):
            for step in range(1001):
                context.progress(step / 1000)
            raise ValueError
    """)
    assert done.kinds[-2:] == [b"G", b"E"]
    assert json.loads(done.frames[-2][1])["fraction"] == 1


def test_progress_that_came_too_soon_is_told_while_the_handler_works_on(sandbox: Sandbox) -> None:
    sandbox.write("""
        import os, time
        def handler(event, context):
            context.progress(0.1)
            context.progress(0.2)
            context.progress(0.3)
            if os.fork() == 0:
                context.progress(0.4)
                os._exit(0)
            os.wait()
            # In naps: a signal that comes after Python looked for one, and before a long wait, wakes nobody.
            while True:
                time.sleep(0.05)
    """)
    process = sandbox.start()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(task(b"null"))
    process.stdin.flush()
    said = b""
    while b'"fraction":0.3' not in said:
        chunk = os.read(process.stdout.fileno(), 65536)
        assert chunk, said
        said += chunk
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143


def test_progress_beyond_one_is_refused(sandbox: Sandbox) -> None:
    done = sandbox.run("def handler(event, context): context.progress(50)")
    assert done.failure["message"] == "progress takes a fraction from 0 to 1, not 50"


def test_the_tasks_environment_is_there_when_the_handler_is_called(sandbox: Sandbox) -> None:
    done = sandbox.run(
        "import os\ndef handler(event, context): return os.environ['KEY']", env={"KEY": "secret"}
    )
    assert done.result == "secret"


@pytest.mark.parametrize(
    ("payload", "content_type", "seen"),
    [
        (b'{"a": 1}', "application/json; charset=utf-8", "{'a': 1}"),
        (b"[1]", "application/vnd.x+json", "[1]"),
        (b"", "application/json", "None"),
        (b'{"a": 1}', "text/plain", "b'{\"a\": 1}'"),
        (b"\xff\xd8", "image/jpeg", "b'\\xff\\xd8'"),
    ],
)
def test_json_is_parsed_and_anything_else_stays_bytes(
    sandbox: Sandbox, payload: bytes, content_type: str, seen: str
) -> None:
    done = sandbox.run("def handler(event, context): return repr(event)", payload, content_type)
    assert done.result == seen


def test_a_payload_of_many_megabytes_goes_through_both_ways(sandbox: Sandbox) -> None:
    payload = os.urandom(6 << 20)
    done = sandbox.run("def handler(event, context): return event", payload, "application/octet-stream")
    assert done.body(b"B") == payload


def test_a_hint_of_bytes_gets_json_unparsed(sandbox: Sandbox) -> None:
    done = sandbox.run("def handler(event: bytes, context): return repr(event)", b"[1, 2]")
    assert done.result == "b'[1, 2]'"


TYPED = {
    "dataclass": """
        from dataclasses import dataclass, field
        @dataclass
        class Size:
            width: int
            height: float = 1.5
        @dataclass
        class Job:
            sizes: list[Size]
            mode: "str | None" = None
            tags: dict[str, int] = field(default_factory=dict)
        def handler(event: Job, context):
            assert isinstance(event.sizes[0], Size) and isinstance(event.sizes[0].height, float)
            return event
    """,
    "pydantic": """
        from __future__ import annotations
        from pydantic import BaseModel
        class Size(BaseModel):
            width: int
            height: float = 1.5
        class Job(BaseModel):
            sizes: list[Size]
            mode: str | None = None
            tags: dict[str, int] = {}
        async def handler(event: Job, context):
            assert isinstance(event.sizes[0], Size)
            return event
    """,
    "decorated": """
        import functools
        from dataclasses import dataclass, field
        @dataclass
        class Job:
            sizes: list
            mode: str | None = None
            tags: dict[str, int] = field(default_factory=dict)
        def logged(function):
            @functools.wraps(function)
            def wrapper(*arguments):
                return function(*arguments)
            return wrapper
        class Shop:
            @logged
            def handle(self, event: Job, context):
                assert isinstance(event, Job)
                sizes = [{"height": 1.5} | size for size in event.sizes]
                sizes[1]["height"] = 2.0
                return {"sizes": sizes, "mode": event.mode, "tags": event.tags}
        handler = Shop().handle
    """,
}


@pytest.mark.parametrize("handler", TYPED.values(), ids=TYPED)
def test_a_type_hint_makes_the_event(sandbox: Sandbox, handler: str) -> None:
    done = sandbox.run(handler, b'{"sizes": [{"width": 3}, {"width": 4, "height": 2}], "tags": {"a": 1}}')
    assert done.result == {
        "sizes": [{"width": 3, "height": 1.5}, {"width": 4, "height": 2.0}],
        "mode": None,
        "tags": {"a": 1},
    }


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b'{"sizes": [{"width": "3"}]}', 'event.sizes[0].width is no integer: "3"'),
        (b'{"sizes": [{"width": true}]}', "event.sizes[0].width is no integer: true"),
        (b'{"sizes": {}}', "event.sizes is no array: {}"),
        (b"{}", "event.sizes is missing"),
        (b'{"sizes": [], "size": 1}', "event.size is unknown; there are: sizes, mode, tags"),
        (b"5", "event is no object: 5"),
        (b'{"sizes": [], "mode": 5}', "event.mode is no string: 5; event.mode is no null: 5"),
    ],
)
def test_an_event_that_does_not_fit_is_refused_with_its_place(
    sandbox: Sandbox, payload: bytes, message: str
) -> None:
    done = sandbox.run(TYPED["dataclass"], payload)
    assert (done.failure["error"], done.failure["message"]) == ("BadEvent", message)


# --- its log, and the streams that it does not get ----------------------------------------------------------


def test_everything_that_is_printed_is_log(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import logging, os, subprocess, sys
        print("imported")
        def handler(event, context):
            print("printed")
            os.write(1, b"written\\n")
            subprocess.run(["echo", "echoed"])
            print("told", file=sys.stderr)
            context.logger.info("logged %d", 1)
            context.logger.debug("not shown")
            logging.getLogger().warning("rooted")
            context.log("lambda's")
            return sys.stdin.read()
    """)
    assert done.result == ""
    assert done.log.splitlines() == [
        "imported", "printed", "written", "echoed", "told", "INFO resize: logged 1", "WARNING root: rooted",
        "lambda's",
    ]  # fmt: skip


def test_lambdas_way_to_log_shows_its_lines(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import logging
        logger = logging.getLogger()
        logger.setLevel("INFO")
        def handler(event, context):
            logger.info("hello")
    """)
    assert done.log == "INFO root: hello\n"


def test_a_child_process_inherits_no_stream_of_the_dispatcher(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import subprocess
        def handler(event, context):
            return subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True).stdout.split()
    """)
    assert not {"501", "502"} & set(done.result)


def test_a_forked_child_that_returns_gives_no_second_answer(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import os
        def handler(event, context):
            child = os.fork()
            if child == 0:
                return "child"
            os.waitpid(child, 0)
            return "parent"
    """)
    assert done.kinds == [b"A", b"R", b"B"]
    assert done.result == "parent"


def test_a_thread_left_behind_does_not_hold_the_sandbox(sandbox: Sandbox) -> None:
    done = sandbox.run("""
        import threading, time
        def handler(event, context):
            threading.Thread(target=time.sleep, args=(600,)).start()
            return "done"
    """)
    assert (done.result, done.exit_code) == ("done", 0)


# --- its description ----------------------------------------------------------------------------------------


def test_a_plain_handler_takes_anything(sandbox: Sandbox) -> None:
    about = sandbox.describe("print('noise')\ndef handler(event, context): return event")
    assert list(about.pop("compiled")) == [cache_from_source("handler.py")]
    assert about == {
        "schema": None,
        "acceptsBytes": True,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "error": None,
    }


def test_a_dataclass_is_described(sandbox: Sandbox) -> None:
    about = sandbox.describe(TYPED["dataclass"])
    size = {
        "type": "object",
        "title": "Size",
        "properties": {"width": {"type": "integer"}, "height": {"type": "number", "default": 1.5}},
        "required": ["width"],
        "additionalProperties": False,
    }
    assert about["acceptsBytes"] is False
    assert about["schema"] == {
        "type": "object",
        "title": "Job",
        "properties": {
            "sizes": {"type": "array", "items": size},
            "mode": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "tags": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
        "required": ["sizes"],
        "additionalProperties": False,
    }


def test_a_pydantic_model_is_described_by_pydantic(sandbox: Sandbox) -> None:
    schema = sandbox.describe(TYPED["pydantic"])["schema"]
    assert schema["required"] == ["sizes"]
    assert schema["properties"]["sizes"]["items"] == {"$ref": "#/$defs/Size"}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        ("int", {"type": "integer"}),
        ("list[str]", {"type": "array", "items": {"type": "string"}}),
        ("dict[str, Any]", {"type": "object"}),
        ("Literal['a', 2]", {"enum": ["a", 2]}),
        ("Colour", {"enum": ["r", "g"]}),
        ("int | None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (
            "tuple[int, str]",
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}],
             "minItems": 2, "maxItems": 2},
        ),
        (
            "Movie",
            {"type": "object", "title": "Movie",
             "properties": {"name": {"type": "string"}, "year": {"type": "integer"}}, "required": ["name"]},
        ),
        (
            "Node",
            {"type": "object", "title": "Node", "properties": {"next": {"anyOf": [{}, {"type": "null"}]}},
             "required": ["next"], "additionalProperties": False},
        ),
        ("Annotated[int, 'pixels']", {"type": "integer"}),
        ("datetime.date", {}),
        ("bytes", None),
        ("dict", None),
        ("Any", None),
        ("object", None),
    ],
)  # fmt: skip
def test_what_a_hint_says_becomes_a_schema(sandbox: Sandbox, hint: str, schema: Any) -> None:
    about = sandbox.describe(f"""
        import datetime, enum
        from dataclasses import dataclass
        from typing import Annotated, Any, Literal, NotRequired, TypedDict
        class Colour(enum.Enum):
            RED = "r"
            GREEN = "g"
        class Movie(TypedDict):
            name: str
            year: NotRequired[int]
        @dataclass
        class Node:
            next: "Node | None"
        def handler(event: {hint}, context):
            pass
    """)
    assert (about["error"], about["schema"]) == (None, schema)


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (
            "def handler(event, context)\n  pass",
            {"message": "SyntaxError: expected ':'", "file": "handler.py", "line": 1},
        ),
        (
            "import os\n\nimport nowhere",
            {
                "message": "No module named 'nowhere'; if it is a package, name it in requirements.txt",
                "file": "handler.py",
                "line": 3,
            },
        ),
        (
            "import helper",
            {"message": "ZeroDivisionError: division by zero", "file": "helper.py", "line": 2},
        ),
        (
            "import os\nos.environ['KEY']",
            {"message": "KeyError: 'KEY'", "file": "handler.py", "line": 2},
        ),
        (
            "import sys\nsys.exit(3)",
            {
                "message": "handler.py ended the process while it was imported (exit code 3)",
                "file": "handler.py",
                "line": 2,
            },
        ),
        (
            "\ndef handler(event): pass",
            {
                "message": "handler takes two arguments: `def handler(event, context): ...`",
                "file": "handler.py",
                "line": 2,
            },
        ),
        (
            "def handler(event: Nowhere, context): pass",
            {"message": "NameError: name 'Nowhere' is not defined", "file": "handler.py", "line": 1},
        ),
        (
            "\ndef handler(event: 'Nowhere', context): pass",
            {
                "message": "the type hint on `event` cannot be read: name 'Nowhere' is not defined",
                "file": "handler.py",
                "line": 2,
            },
        ),
        (
            "x = 1",
            {
                "message": "handler.py defines no `handler`: add `def handler(event, context): ...`",
                "file": None,
                "line": None,
            },
        ),
    ],
)
def test_a_broken_handler_is_described_with_file_and_line(
    sandbox: Sandbox, handler: str, error: dict[str, Any]
) -> None:
    assert sandbox.describe(handler, helper__py="\n1 / 0\n")["error"] == error


def test_it_is_armed_before_it_imports_what_only_a_task_needs(sandbox: Sandbox) -> None:
    """What the start of every sandbox waits for: the interpreter, and nothing that is slow to import."""
    done = sandbox.run("""
        import sys
        slow = {"mayfly", "json", "logging", "asyncio", "typing", "re", "inspect", "signal", "traceback"}
        at_import = sorted(slow & set(sys.modules))
        def handler(event, context):
            return at_import
    """)
    assert done.result == []


# --- a mark at the end of its log


@pytest.mark.parametrize(
    ("handler", "log"),
    [
        ("def handler(event, context): 1 / 0", b"\0end\n"),
        ("import sys\ndef handler(event, context): sys.exit(3)", b""),
        ("import os\ndef handler(event, context): os.close(2)", b""),
    ],
    ids=["an error", "an exit", "a closed log"],
)
def test_a_log_ends_with_its_mark(sandbox: Sandbox, handler: str, log: bytes) -> None:
    assert answer_then_rest(sandbox, handler, hang_up=False) == (log, "ended")


def test_after_a_result_it_goes_when_the_dispatcher_hangs_up(sandbox: Sandbox) -> None:
    handler = "def handler(event, context): print('one')"
    assert answer_then_rest(sandbox, handler, hang_up=True) == (b"one\n\0end\n", "ended")


def test_threads_that_a_handler_left_stand_still_after_its_result(sandbox: Sandbox) -> None:
    handler = """
        import threading
        def handler(event, context):
            threading.Thread(target=threading.Event().wait).start()
    """
    assert answer_then_rest(sandbox, handler, hang_up=False) == (b"\0end\n", "stopped")


LAMBDA = """
import json

print("loading")


def lambda_handler(event, context):
    assert context.get_remaining_time_in_millis() > 0
    assert context.invoked_function_arn.split(":")[-1] == context.function_name
    assert context.identity.cognito_identity_id is None
    return {"statusCode": 200, "body": json.dumps([event["key1"], context.aws_request_id])}
"""


@pytest.mark.parametrize(
    ("module", "entry"),
    [("lambda_function.py", "lambda_function.lambda_handler"), ("app/main.py", "app.main.lambda_handler")],
)
def test_the_image_may_name_another_handler(sandbox: Sandbox, module: str, entry: str) -> None:
    path = sandbox.folder / module
    path.parent.mkdir(exist_ok=True)
    path.write_text(LAMBDA)
    process = sandbox.start(MAYFLY_HANDLER=entry)
    out, log = process.communicate(task(b'{"key1": "value1"}'), timeout=PATIENCE)
    done = Outcome(split(out), log.decode(), process.returncode)
    assert done.kinds == [b"A", b"R", b"B"], done
    assert json.loads(done.frames[-1][1])["statusCode"] == 200


def test_another_handler_that_is_not_there_is_named(sandbox: Sandbox) -> None:
    (sandbox.folder / "lambda_function.py").write_text("def handler(event, context): ...")
    process = sandbox.start("describe", MAYFLY_HANDLER="lambda_function.lambda_handler")
    out, _ = process.communicate(timeout=PATIENCE)
    assert json.loads(out)["error"]["message"] == (
        "lambda_function.py defines no `lambda_handler`: add `def lambda_handler(event, context): ...`"
    )


# --- files


def streamed(payload: bytes, content_type: str) -> bytes:
    told, _, _ = task(b"", content_type, None).rpartition(frame(b"P", b""))
    return told + frame(b"S", len(payload).to_bytes(8, "big")) + payload


def run_streamed(sandbox: Sandbox, handler: str, payload: bytes, content_type: str = "image/png") -> Outcome:
    sandbox.write(handler)
    process = sandbox.start()
    out, log = process.communicate(streamed(payload, content_type), timeout=PATIENCE)
    return Outcome(split(out), log.decode(), process.returncode)


PATH = """
    import pathlib

    def handler(event: pathlib.Path, context):
        data = event.read_bytes()
        event.unlink()
        return [len(data), data[:4].decode(), event.suffix]
"""
STREAM = """
    import typing

    def handler(event: typing.BinaryIO, context):
        first = event.read(4)
        return [first.decode(), len(event.read()), event.read().decode()]
"""


@pytest.mark.parametrize("send", [run_streamed, Sandbox.run])
def test_a_handler_may_take_its_payload_as_a_file(sandbox: Sandbox, send: Any) -> None:
    payload = b"abcd" + b"x" * 3_000_000
    assert send(sandbox, PATH, payload, "image/png").result == [len(payload), "abcd", ".png"]


@pytest.mark.parametrize("send", [run_streamed, Sandbox.run])
def test_a_handler_may_read_its_payload_as_a_stream(sandbox: Sandbox, send: Any) -> None:
    assert send(sandbox, STREAM, b"abcdefgh", "image/png").result == ["abcd", 4, ""]


def test_a_stream_need_not_be_read(sandbox: Sandbox) -> None:
    outcome = run_streamed(
        sandbox, "import typing\ndef handler(event: typing.BinaryIO, context): return 1", b"x"
    )
    assert outcome.result == 1


def test_json_is_a_file_as_well_for_who_asks_for_one(sandbox: Sandbox) -> None:
    assert sandbox.run(PATH, b'{"a":1}').result == [7, '{"a"', ".json"]


def test_a_handler_that_asks_for_no_file_gets_a_streamed_payload_as_bytes(sandbox: Sandbox) -> None:
    handler = "def handler(event, context): return [type(event).__name__, len(event)]"
    assert run_streamed(sandbox, handler, b"x" * 100_000).result == ["bytes", 100_000]


FILES = """
    import io
    import pathlib
    import tempfile

    def handler(event, context):
        folder = pathlib.Path(tempfile.mkdtemp())
        path = folder / "picture.png"
        path.write_bytes(b"12345" * 500_000)
        if event == "path":
            return path
        if event == "typed":
            return path, "image/x-own"
        if event == "open":
            file = path.open("r+b")
            file.seek(0, 2)
            file.write(b"6")
            return file
        if event == "unnamed":
            file = tempfile.TemporaryFile()
            file.write(b"7")
            return file
        if event == "memory":
            return io.BytesIO(b"8")
        if event == "text":
            return path.open()
        if event == "closed":
            with path.open("rb") as file:
                return file
        return folder / event
"""


@pytest.mark.parametrize(
    ("event", "content_type", "size", "end"),
    [
        ("path", "image/png", 2_500_000, b"5"),
        ("typed", "image/x-own", 2_500_000, b"5"),
        ("open", "image/png", 2_500_001, b"6"),
        ("unnamed", "application/octet-stream", 1, b"7"),
        ("memory", "application/octet-stream", 1, b"8"),
    ],
)
def test_a_result_may_be_a_file(
    sandbox: Sandbox, event: str, content_type: str, size: int, end: bytes
) -> None:
    outcome = sandbox.run(FILES, json.dumps(event).encode())
    assert outcome.kinds[-2:] == [b"R", b"B"], outcome
    assert outcome.json(b"R") == {"contentType": content_type}
    body = outcome.body(b"B")
    assert (len(body), body[-1:]) == (size, end)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("text", "result: it is a file of text: open it with mode 'rb', or return its path"),
        ("closed", "result: it is a file that is closed: return its path, or bytes"),
        ("none.png", "none.png' cannot be read: No such file or directory"),
        ("", "cannot be read: Is a directory"),
    ],
)
def test_what_is_no_file_of_bytes_is_no_result(sandbox: Sandbox, event: str, message: str) -> None:
    failure = sandbox.run(FILES, json.dumps(event).encode()).failure
    assert failure["type"] == "Function.BadResult"
    assert failure["message"].endswith(message)
