"""The first process in a Python function's sandbox: it imports the handler, then runs one task.

Its arguments may ask for something else: `once MARK`, that its log ends with a mark; `describe`
(`mayfly_describe.py`); `turns`, for many tasks, one after another (`mayfly_turns.py`); `forks`, for a process
of its own for each (`mayfly_relay.py`); `remote`, for one whose frames are carried (`mayfly_remote.py`).

It speaks frames with the dispatcher: a kind (one ASCII byte), the body's length (u32, big-endian), the body.

    dispatcher, on stdin      T  JSON: taskId taskType attempt deadline contentType version memoryMiB env
                              P  the payload's bytes; or, of one that need not fit a frame,
                              S  its length (u64, big-endian), behind which it comes as it is
                              M  before T, where tasks take turns: what is to end its log
    sandbox, on stdout        A  armed: the handler is imported, it waits
                              G  progress       {"fraction", "message"}
                              R  a result       {"contentType"}
                              B  the result's bytes
                              E  failed         {"type", "error", "message", "traceback"}, and where the
                                                handler says so "advice" (retry, permanent), "retryAfter"

The handler never sees those streams: while it runs, descriptor 1 is the log (stderr) and 0 is empty. A
process that ends without R and B, or E, says how by its exit code.

Every millisecond here is one of a cold start. So nothing is imported before a task needs it, `_signal` and
`_thread` stand in for their slow public faces, as `mayfly_json` does for `json`, and modules that are sure
to be needed later are imported after A, while the dispatcher still waits for its claim.
"""
# pathlib would cost more than all of this:
# ruff: noqa: PTH109, PTH112, PTH120, PTH208

import _signal
import _thread
import os
import sys
import time

OWN = os.path.dirname(__file__)
SITE = OWN + "/site"
FUNCTION = os.getcwd()
"""The image's working directory: `/function`."""
MODULE, _, HANDLER = os.environ.get("MAYFLY_HANDLER", "handler.handler").rpartition(".")
FILE = MODULE.replace(".", "/") + ".py"
"""Where the handler is: the image says it, where `function.toml` does."""

RESULT_FD = 501
TASK_FD = 502
"""Above what a function's own files get, so that it closes or writes to neither by accident."""

MAX_TEXT = 16 * 1024
"""Characters of a message or a traceback that are sent."""

SHORT = 64 * 1024
"""Bytes of a result that are copied to go with what tells of them."""

CO_COROUTINE = 0x80
"""Of a code object's `co_flags`: `inspect.CO_COROUTINE`, without the import of inspect."""

JSON = "application/json"


def head(kind: bytes, size: int) -> bytes:
    return kind + size.to_bytes(4, "big")


def frame(kind: bytes, body: bytes) -> bytes:
    return head(kind, len(body)) + body


class Channel:
    """Both directions of the conversation with the dispatcher, moved away from descriptors 0 and 1."""

    def __init__(self, tasks: int = 0, results: int = 1) -> None:
        os.dup2(tasks, TASK_FD, inheritable=False)
        os.dup2(results, RESULT_FD, inheritable=False)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        self._lock = _thread.allocate_lock()  # progress may be told from several threads
        self.stream = None
        self._reads = False
        self.pid = os.getpid()

    def send(self, kind: bytes, body: bytes) -> None:
        part = frame(kind, body)
        with self._lock:
            self._write(part)

    def send_json(self, kind: bytes, body: dict[str, object]) -> None:
        import mayfly_json

        self.send(kind, mayfly_json.dumps(body).encode())

    def send_result(self, told: bytes, body) -> None:
        """R and B: in one piece, where the body is short, so that who reads it is woken once."""
        told = frame(b"R", told)
        with self._lock:
            if not isinstance(body, bytes):
                self._write(told + head(b"B", body.size))
                for part in body.chunks():
                    self._write(part)
            elif len(body) <= SHORT:
                self._write(told + frame(b"B", body))
            else:
                self._write(told + head(b"B", len(body)))
                self._write(body)

    def receive(self, kind: bytes) -> bytes:
        """The body of the next frame. The dispatcher may hang up before a task: that is no failure."""
        header = self._read(5)
        if header[:1] != kind:
            raise RuntimeError(f"the dispatcher sent {header[:1]!r} where {kind!r} was due")
        return self._read(int.from_bytes(header[1:], "big"))

    def receive_payload(self, as_stream: bool):
        """The payload's bytes, or a stream that has them one after another."""
        header = self._read(5)
        size = int.from_bytes(header[1:], "big")
        if header[:1] == b"S":
            size = int.from_bytes(self._read(size), "big")
        elif header[:1] != b"P":
            raise RuntimeError(f"the dispatcher sent {header[:1]!r} where a payload was due")
        if not as_stream:
            self._reads = True
            payload = self._read(size)
            self._reads = False
            return payload
        import mayfly_files

        self.stream = mayfly_files.Stream(TASK_FD, size)
        return self.stream

    @property
    def has_unread(self) -> bool:
        """Whether a task has left some of its payload in the channel."""
        return self._reads or (self.stream is not None and self.stream.left > 0)

    @staticmethod
    def _write(part) -> None:
        while (sent := os.write(RESULT_FD, part)) < len(part):
            part = memoryview(part)[sent:]

    @staticmethod
    def _read(size: int) -> bytes:
        chunks, left = [], size
        while left:
            chunk = os.read(TASK_FD, min(left, 1 << 20))
            if not chunk:
                raise SystemExit(0)
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)


def open_channel() -> Channel:
    print_in_turn()
    return Channel()


def print_in_turn() -> None:
    """Else a print would come after what was written to stderr later, or be lost by os._exit."""
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")


class Identity:
    """AWS's, of a caller that is none of Cognito's."""

    cognito_identity_id = None
    cognito_identity_pool_id = None


class Context:
    """A handler's second argument: what AWS Lambda's has, and `task_id`, `attempt`, `deadline`, `logger`
    and `progress`."""

    client_context = None
    identity = Identity()

    def __init__(self, task: dict, channel: Channel) -> None:
        self.task_id: str = task["taskId"]
        self.attempt: int = task["attempt"]
        self.deadline: float = task["deadline"]
        """Seconds since 1970, UTC: then the sandbox is ended."""
        self.aws_request_id = self.task_id
        self.function_name: str = task["taskType"]
        self.function_version: str = task["version"]
        self.invoked_function_arn = f"arn:mayfly:lambda:local:000000000000:function:{self.function_name}"
        self.memory_limit_in_mb: int = task["memoryMiB"]
        self.log_group_name = f"/mayfly/{self.function_name}"
        self.log_stream_name = f"{self.task_id}/{self.attempt}"
        self._channel = channel
        self._pace = None

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.deadline - time.time()) * 1000))

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell how far the task is: `fraction` from 0 to 1. Whoever watches the task sees the latest, at most
        20 times a second."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress takes a fraction from 0 to 1, not {fraction!r}")
        if self._pace is None:
            import mayfly_progress

            self._pace = mayfly_progress.Pace(lambda body: self._channel.send_json(b"G", body))
        self._pace.tell(float(fraction), str(message)[:MAX_TEXT])

    def _flush_progress(self) -> None:
        if self._pace is not None:
            self._pace.flush()

    def log(self, message: object) -> None:
        print(message)

    @property
    def logger(self):  # logging is imported only where it is used
        import logging

        show_log_lines()
        logger = logging.getLogger(self.function_name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        return logger


def show_log_lines() -> None:
    """Let a logger that has no handler write every line that its level lets through.

    `logging.lastResort` is what such a logger uses; by default it drops what is below WARNING. A function
    that calls `logging.basicConfig` has its own way, as anywhere.
    """
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.lastResort = handler


def load_handler():
    """What its module calls it. Whatever the import raises comes through."""
    sys.argv = [FILE]
    # -S leaves `site` out, and with it the names that scripts end themselves by.
    import builtins

    builtins.exit = builtins.quit = sys.exit
    sys.path.insert(0, FUNCTION)
    sys.path += [SITE, OWN]
    if os.path.isdir(SITE) and any(name.endswith(".pth") for name in os.listdir(SITE)):
        import site

        site.addsitedir(SITE)
    __import__(MODULE)
    try:
        handler = getattr(sys.modules[MODULE], HANDLER)
    except AttributeError:
        raise AttributeError(
            f"{FILE} defines no `{HANDLER}`: add `def {HANDLER}(event, context): ...`"
        ) from None
    if not callable(handler):
        raise TypeError(f"`{HANDLER}` in {FILE} is no function")
    return handler


def event_converter(handler):
    """What makes the event that the handler's type hint asks for, or None: then it is plain JSON or bytes."""
    code = getattr(handler, "__code__", None)
    hints = getattr(handler, "__annotations__", None)
    if not hints:
        return None
    plain_function = (
        code is not None and not hasattr(handler, "__wrapped__") and not hasattr(handler, "__self__")
    )
    if plain_function and code.co_argcount and hints.get(code.co_varnames[0], dict) in (dict, list, object):
        return None
    import mayfly_events

    return mayfly_events.converter(handler)


def make_event(payload, content_type: str, converter):
    kind = content_type.partition(";")[0].strip().lower()
    is_json = kind == JSON or kind.endswith("+json")
    if converter is not None:
        return converter.event(payload, is_json, content_type)
    if not is_json:
        return payload
    import mayfly_json

    return mayfly_json.loads(payload) if payload else None


def call(handler, event, context: Context):
    result = handler(event, context)
    if hasattr(result, "__await__"):
        import asyncio

        async def finish():  # an awaitable need not be a coroutine
            return await result

        return asyncio.run(finish())
    return result


def report_failure(channel: Channel, error: BaseException, kind: str = "Function.Error") -> None:
    if isinstance(error, MemoryError):
        kind = "Function.OutOfMemory"
        make_room()
    try:
        import mayfly_errors
    except OSError:  # the handler holds all the descriptors that there may be: this one is nobody's
        os.close(0)
        import mayfly_errors

    flush()
    channel.send_json(b"E", mayfly_errors.describe(error, kind, FUNCTION, MAX_TEXT))


def make_room() -> None:
    """For the report: where a process has a limit of its own on memory, the hard one is a little above."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S112 - the function may have closed or replaced it
            continue


def terminate(signum: int, frame: object) -> None:
    """SIGTERM comes a grace before SIGKILL: unwind, so that the handler's `finally` blocks run."""
    raise SystemExit(128 + signum)


def load_function():
    """The handler, and what makes its events. Whatever the import raises comes through."""
    handler = load_handler()
    converter = event_converter(handler)
    if getattr(getattr(handler, "__code__", None), "co_flags", 0) & CO_COROUTINE:
        import asyncio  # noqa: F401 - slow: better before the task than in it
    return handler, converter


def run(channel: Channel, mark: str = "") -> None:
    """One task, from the import of the handler to its outcome.

    Its log ends with the mark, if it is given one: that this process is gone shows a good while later. After
    a result it then rests until the dispatcher hangs up: what an engine does at its end would take the cores
    from what is still to be done for the task.
    """
    try:
        function = load_function()
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - a broken import is the function's outcome
        report_failure(channel, error)
        return
    channel.send(b"A", b"{}")
    has_result = answer(channel, *function)
    if mark:
        flush()
        try:
            os.write(2, b"\0" + mark.encode() + b"\n")
        except OSError:
            return  # the function has closed it: its end shows when this process is gone
        if has_result:
            rest()


def rest() -> None:
    """Takes no time that others' tasks need, until the dispatcher hangs up: to be killed is more work for an
    engine than to see the end."""
    if len(os.listdir("/proc/self/task")) > 1:
        # Threads that the handler left behind are to rest as well.
        os.kill(os.getpid(), _signal.SIGSTOP)
    while os.read(TASK_FD, 65536):
        pass
    # All is said, and nobody hears what the interpreter would do at its end.
    os._exit(0)


def answer(channel: Channel, handler, converter) -> bool:
    """One task, from its frames to its outcome: whether that is a result."""
    import mayfly_json
    import mayfly_results  # noqa: F401 - now, rather than between the result and its answer

    task = mayfly_json.loads(channel.receive(b"T"))
    # An update by nothing touches nine pages too, of which a forked process gets copies.
    if task["env"]:
        os.environ.update(task["env"])
    if "logging" in sys.modules:
        show_log_lines()
    context = Context(task, channel)
    failure = result = None
    try:
        payload = channel.receive_payload(converter is not None and converter.takes_stream)
        event = make_event(payload, task["contentType"], converter)
        result = call(handler, event, context)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - it is the function's outcome
        failure = error
    if os.getpid() != channel.pid:
        os._exit(0)  # the handler forked and its child came back here: only the parent may answer
    context._flush_progress()
    if failure is None:
        return report_result(channel, result)
    report_failure(channel, failure)
    return False


def report_result(channel: Channel, result: object) -> bool:
    import mayfly_json
    import mayfly_results

    try:
        content_type, body = mayfly_results.encode(result)
    except mayfly_results.BadResult as error:
        report_failure(channel, error, "Function.BadResult")
        return False
    except Exception as error:  # noqa: BLE001 - a model's own serializer raised
        report_failure(channel, error)
        return False
    flush()
    channel.send_result(mayfly_json.dumps({"contentType": content_type}).encode(), body)
    return True


def main() -> None:
    mode, *options = sys.argv[1:] or [""]
    if mode not in ("", "once"):
        sys.path.append(OWN)
    if mode == "describe":
        import mayfly_describe

        mayfly_describe.main(load_handler)
        return
    if mode == "remote":
        import mayfly_remote

        mayfly_remote.main()
        return
    if mode == "forks":
        import mayfly_relay

        mayfly_relay.main(options[0])
        return
    _signal.signal(_signal.SIGTERM, terminate)
    if mode == "turns":
        import mayfly_turns

        mayfly_turns.serve(sys.modules[__name__])
    else:
        run(open_channel(), *options)
    flush()
    os._exit(0)  # the outcome is told; threads that the handler left behind must not hold the sandbox


if __name__ == "__main__":  # else it is a parent of forks that has it anew
    main()
