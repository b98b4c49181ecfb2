"""The first process of a sandbox whose streams nobody holds: it carries them, by a store's presigned URLs.

It starts the bootstrap anew, as a child, and is to it what an engine is elsewhere: it gives it what was
written to it, takes what it says and how it ends, and ends it when it is told to or its time is up. Where the
URLs are is in `MAYFLY_ORDERS`; `dispatcher/runtimes/carried.py` has the other end, and says what the objects
hold.

An orphan ends by itself: one whose task does not come, whose time is up, or whose orders nobody renews.
"""
# This is a process of its own, in the sandbox: it has no other way to read a URL.
# ruff: noqa: S310, PTH123

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import mayfly_memory

ORDERS = "MAYFLY_ORDERS"
AWAY = (OSError, http.client.HTTPException)
READ_BYTES = 64 * 1024
FRAMES_BYTES = 1 << 20
"""For all frames that are neither a result's body nor progress."""
PROGRESS_BYTES = 1 << 18
"""Of one frame."""
REQUEST_SECONDS = 20.0
RETRY_SECONDS = 5.0
"""Between two tries to read orders that are old."""
RENEWAL_SECONDS = 120.0
"""How old the orders may grow: they are written anew as often."""
ABANDONED_SECONDS = 900.0
"""Orders that were read and are the same for so long have nobody who looks after them."""
TASK_SECONDS = 300.0
"""Within which a task comes, where one comes at all."""
LATE_SECONDS = 1.0
"""Over the function's time: the dispatcher's clock decides, this one makes sure."""
GRACE_SECONDS = 2.0
"""Between SIGTERM and SIGKILL."""
LINGER_SECONDS = 1.0
"""How long the pipes of a process that is gone are read, where its children hold them open."""
LAST_SECONDS = 900.0
"""How long it is tried to tell how the function ended."""
TICK_SECONDS = 0.1
PUT_SECONDS = (0.5, 30.0)
"""Between two tellings: a twentieth of the time that it has run, between these."""
PIECE_SECONDS = (0.2, 15.0)
"""Between two looks whether more was written to it: ever longer."""


def web() -> urllib.request.OpenerDirector:
    """HTTP and nothing else: what is usual opens files too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


WEB = web()


class Transcript:
    """All that the function has said until now, as the dispatcher reads it. It only grows at its end."""

    def __init__(self, caps: dict) -> None:
        self._lock = threading.Lock()
        self._body = bytearray()
        self._left = {b"L": caps["log"], b"O": caps["result"] + FRAMES_BYTES}
        self._header = bytearray()
        self._due = 0
        self._progress = b""
        self.dropped = 0
        self.changed = False

    def hear_log(self, data: bytes) -> None:
        with self._lock:
            self.dropped += self._add(b"L", data)

    def hear(self, data: bytes) -> None:
        """Frames, however they are cut. Of progress that nobody was told yet, only the latest is kept."""
        with self._lock:
            at = 0
            while at < len(data):
                if not self._due:
                    at = self._open(data, at)
                    continue
                part = data[at : at + self._due]
                at += len(part)
                self._due -= len(part)
                if self._progress:
                    self._progress += part
                    self.changed = True
                else:
                    self._add(b"O", part)

    def _open(self, data: bytes, at: int) -> int:
        part = data[at : at + 5 - len(self._header)]
        self._header += part
        if len(self._header) == 5:
            due = int.from_bytes(self._header[1:], "big")
            if self._header[:1] == b"G" and due <= PROGRESS_BYTES:
                self._progress = bytes(self._header)
            else:
                self._tell_progress()
                self._add(b"O", bytes(self._header))
            self._due = due
            self._header.clear()
        return at + len(part)

    def _tell_progress(self) -> None:
        """Unless it waits for the rest of it."""
        if self._progress and not self._due:
            self._write(b"O", self._progress)
            self._progress = b""

    def _add(self, kind: bytes, data: bytes) -> int:
        """How many bytes were over the cap."""
        kept = data[: self._left[kind]]
        self._left[kind] -= len(kept)
        if kept:
            self._write(kind, kept)
        return len(data) - len(kept)

    def _write(self, kind: bytes, body: bytes) -> None:
        self._body += kind + len(body).to_bytes(4, "big") + body
        self.changed = True

    def end(self, told: dict) -> None:
        with self._lock:
            self._tell_progress()
            self._write(b"X", json.dumps({**told, "dropped": self.dropped}).encode())

    def take(self) -> bytes:
        with self._lock:
            self._tell_progress()
            self.changed = False
            return bytes(self._body)


class Store:
    """The objects, by the URLs of the orders."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._read_at = self._tried_at = 0.0
        self._new_at = time.monotonic()
        self.orders: dict = {}

    @property
    def is_abandoned(self) -> bool:
        """Whether they could be read all the time, and were the same."""
        return self._read_at - self._new_at > ABANDONED_SECONDS

    def renew(self) -> None:
        """Read the orders, if they are old."""
        now = time.monotonic()
        if self.orders and (now - self._read_at < RENEWAL_SECONDS or now - self._tried_at < RETRY_SECONDS):
            return
        self._tried_at = now
        body = self.get(self._url)
        if body is None:
            return
        self._read_at = time.monotonic()
        orders = json.loads(body)
        if orders != self.orders:
            self.orders, self._new_at, self._url = orders, self._read_at, orders["orders"]

    def get(self, url: str):
        """None where there is no such object, or the store is away."""
        try:
            with WEB.open(url, timeout=REQUEST_SECONDS) as answer:
                return answer.read()
        except AWAY:
            return None

    def put(self, body: bytes) -> bool:
        request = urllib.request.Request(self.orders["output"], data=body, method="PUT")
        request.add_header("Content-Type", "application/octet-stream")
        try:
            with WEB.open(request, timeout=REQUEST_SECONDS):
                return True
        except urllib.error.HTTPError:
            self._read_at = 0.0  # the URL is too old, perhaps: the next one is asked for
        except AWAY:
            pass
        return False


class Function:
    """The bootstrap, in a session of its own."""

    def __init__(self, environment: dict) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:-1]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self.late = self.told = False
        self.deadline = None
        """On the clock of the wall, once the task has come."""
        self._ends_at = None
        self._killed = False
        self._kills = mayfly_memory.oom_kills()
        # Who is too large is the function, and not what carries it.
        with contextlib.suppress(OSError), open(f"/proc/{self.process.pid}/oom_score_adj", "w") as score:
            score.write("1000")

    def end(self) -> None:
        if self._ends_at is None:
            self._ends_at = time.monotonic() + GRACE_SECONDS
            self._signal(signal.SIGTERM)
        elif time.monotonic() >= self._ends_at and not self._killed:
            self._killed = True
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            # Its children get the last one only: how they end is the function's to say.
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def outcome(self) -> dict:
        code = self.process.returncode
        return {
            "code": 128 - code if code < 0 else code,
            "oom": mayfly_memory.oom_kills() > self._kills,
            "late": self.late,
            "told": self.told,
        }


def read(pipe, hear) -> threading.Thread:
    def run() -> None:
        while data := pipe.read1(READ_BYTES):
            hear(data)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def feed(store: Store, function: Function) -> None:
    """Give the function what was written to it, a piece after the other. Nothing here outlives it."""
    url, first, pause = None, True, PIECE_SECONDS[0]
    stdin = function.process.stdin
    with contextlib.suppress(OSError):
        while True:
            piece = store.get(url or store.orders["input"])
            if piece is None:
                time.sleep(pause)
                # The first one is about to come.
                pause = min(1.0 if first else PIECE_SECONDS[1], 1.3 * pause)
                continue
            at = 4 + int.from_bytes(piece[:4], "big")
            url, data = piece[4:at].decode(), piece[at:]
            if first:
                function.deadline = deadline_of(data)
            stdin.write(data)
            stdin.flush()
            if not url:
                stdin.close()
                return
            first, pause = False, PIECE_SECONDS[0]


def deadline_of(data: bytes) -> float:
    """Of the task's frame, with which its input begins."""
    return json.loads(data[5 : 5 + int.from_bytes(data[1:5], "big")])["deadline"]


def carry(store: Store, function: Function, transcript: Transcript, stop: threading.Event) -> None:
    """Until the function has ended. What it says is told on the way, at a pace."""
    began, told_at = time.monotonic(), 0.0
    while function.process.poll() is None:
        now = time.monotonic()
        if stop.is_set():
            function.told = True
        elif function.deadline is None:
            function.told |= now - began > TASK_SECONDS
        elif time.time() > function.deadline + LATE_SECONDS:
            function.late = True
        store.renew()
        function.told |= store.is_abandoned
        if function.told or function.late:
            function.end()
        least, most = PUT_SECONDS
        if transcript.changed and now - told_at >= min(most, max(least, (now - began) / 20)):
            if not store.put(transcript.take()):
                transcript.changed = True
            told_at = time.monotonic()
        time.sleep(TICK_SECONDS)


def tell(store: Store, body: bytes) -> None:
    until, pause = time.monotonic() + LAST_SECONDS, 0.5
    while not store.put(body) and time.monotonic() < until:
        time.sleep(pause)
        pause = min(10.0, 2 * pause)
        store.renew()


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    store = Store(os.environ.pop(ORDERS))
    until = time.monotonic() + TASK_SECONDS
    while not store.orders:
        store.renew()
        if stop.is_set() or time.monotonic() > until:
            raise SystemExit("no orders could be had")
        if not store.orders:
            time.sleep(1)
    transcript = Transcript(store.orders["caps"])
    function = Function({**os.environ, **store.orders["env"]})
    readers = [
        read(function.process.stdout, transcript.hear),
        read(function.process.stderr, transcript.hear_log),
    ]
    threading.Thread(target=feed, args=(store, function), daemon=True).start()
    carry(store, function, transcript, stop)
    for reader in readers:
        reader.join(LINGER_SECONDS)
    transcript.end(function.outcome())
    tell(store, transcript.take())
    os._exit(0)  # a thread that still waits for more input has nobody to give it to
