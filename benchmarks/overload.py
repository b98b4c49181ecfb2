"""`python -m benchmarks.overload`: five times what a gateway takes, for half a minute.

First what it takes is measured, by as many connections as keep it busy. Then so many requests a second are
sent, whatever becomes of them, by processes of our own: half of them by a tenant that has a limit. A
dispatcher runs what was accepted afterwards, and the log is read. Prints what was promised and what was seen;
exits 1 where a promise was not kept.
"""

import argparse
import asyncio
import http.client
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis

from benchmarks.posting import Connection
from benchmarks.stage import Program, Report, Stack, own_stack, until
from mayfly.adapters.kafka import ensure_topics, events_topic, lane_topic, replay
from mayfly.events import Finished, decode_event
from mayfly.identity.keys import new_credential
from mayfly.settings import Settings
from mayfly.stack import environment
from mayfly.stack.home import Home
from mayfly.stack.stack import settings_of
from mayfly.task import Lane

FUNCTION: Final = "overload-echo"
HANDLER: Final = "def handler(event, context):\n    return None\n"
ALLOWED: Final = frozenset({202, 429, 503})
HEALTH_SECONDS: Final = 1.0
PROBE_SECONDS: Final = 0.05
SAMPLE_SECONDS: Final = 0.5
MOST_GROWTH_MIB: Final = 24.0
"""From the first third of the time to the last: what is not freed at such a rate is far more."""
BUSY: Final = 64
"""Connections that keep a gateway busy."""
SLOTS: Final = "64"
HELD: Final = "overload-held"
FREE: Final = "overload-free"


# --- the load: a process of its own


def send(url: str, key: str, rate: float, seconds: float, count: int) -> dict[str, Any]:
    """Requests at that rate (0: as fast as they are answered), over so many connections. Where none is free
    because the gateway has not answered, what is due is sent as soon as one is."""
    body = json.dumps({"taskType": FUNCTION, "payload": None}).encode()
    head = f"POST /tasks HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\nauthorization: Bearer {key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    connections = {one.open(): one for one in (Connection(url) for _ in range(count))}
    free, answers, ids, broken = list(connections), Counter[int](), [], 0
    sent = 0
    with select.epoll() as poll:
        for number in connections:
            poll.register(number, select.EPOLLIN)
        began = time.monotonic()
        end = began + seconds
        while (now := time.monotonic()) < end or len(free) < len(connections):
            due = 0 if now >= end else len(free) if not rate else int(rate * (now - began)) - sent
            for _ in range(min(due, len(free))):
                number = free.pop()
                try:
                    connections[number].send(request)
                except OSError:
                    broken += 1
                    free.append(_anew(poll, connections, number))
                    continue
                sent += 1
            for number, _ in poll.poll(0.001 if len(free) < len(connections) or rate else 0):
                try:
                    status, answer = connections[number].receive()
                except OSError:
                    # An idle one that the gateway closed is no broken answer.
                    broken += number not in free
                    if number in free:
                        free.remove(number)
                    free.append(_anew(poll, connections, number))
                    continue
                answers[status] += 1
                if status == 202:
                    ids.append(json.loads(answer)["taskId"])
                free.append(number)
    took = time.monotonic() - began
    for connection in connections.values():
        connection.close()
    return {"answers": answers, "ids": ids, "broken": broken, "seconds": took, "sent": sent}


def _anew(poll: select.epoll, connections: dict[int, Connection], number: int) -> int:
    with suppress(OSError):
        poll.unregister(number)
    connection = connections.pop(number)
    connection.close()
    connection = Connection(connection.url)
    new = connection.open()
    connections[new] = connection
    poll.register(new, select.EPOLLIN)
    return new


class Load:
    """Processes that send at the same time."""

    def __init__(self, base: Path, url: str, seconds: float) -> None:
        self._base, self._url, self._seconds = base, url, seconds
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, key: str, rate: float, connections: int) -> None:
        out = self._base / f"load-{len(self._running)}.json"
        command = [sys.executable, "-m", "benchmarks.overload", "--send", self._url, "--key", key]
        command += ["--rate", str(rate), "--seconds", str(self._seconds), "--connections", str(connections)]
        with out.open("wb") as stdout:
            self._running.append((subprocess.Popen(command, stdout=stdout), out))

    def results(self) -> list[dict[str, Any]]:
        """Once all have ended."""
        found = []
        for process, out in self._running:
            if process.wait(self._seconds + 120) != 0:
                raise RuntimeError("a process of the load failed")
            found.append(json.loads(out.read_text()))
        return found


# --- beside it


class Probe:
    """Asks for the gateway's health, and how much memory it holds, all the while."""

    def __init__(self, url: str, gateway: Program) -> None:
        self._netloc, self._gateway = urlsplit(url).netloc, gateway
        self.seconds: list[float] = []
        self.mib: list[float] = []
        self.failed = 0
        self.why = ""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._ask, self._sample)]

    def __enter__(self) -> "Probe":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(PROBE_SECONDS):
            began = time.monotonic()
            connection = http.client.HTTPConnection(self._netloc, timeout=30)
            try:
                connection.request("GET", "/healthz")
                self.failed += connection.getresponse().status != 200
            except (OSError, http.client.HTTPException) as error:
                self.failed += 1
                self.why = f", {type(error).__name__}"
            finally:
                connection.close()
            self.seconds.append(time.monotonic() - began)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.mib.append(self._gateway.resident_mib)

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[98]

    @property
    def growth_mib(self) -> float:
        third = max(1, len(self.mib) // 3)
        return statistics.median(self.mib[-third:]) - statistics.median(self.mib[:third])


# --- what is measured


def measure(stack: Stack, report: Report, options: argparse.Namespace) -> None:
    stack.write(FUNCTION, HANDLER, f'isolation = "warm"\nqueue = "{FUNCTION}"\n')
    stack.start()
    env = environment(stack.directory)
    settings = settings_of({**env, "MAYFLY_QUEUE": FUNCTION})
    asyncio.run(ensure_topics(settings))
    admin = new_credential()
    port = Home(stack.base).port("gateway", None)
    own = {**os.environ, **env, "MAYFLY_PORT": str(port), "MAYFLY_AUTH": "true", "MAYFLY_QUEUE": FUNCTION}
    own |= {"MAYFLY_ADMIN_KEY": str(admin)}
    own.pop("MAYFLY_ADDRESS_FILE", None)
    command = [sys.executable, "-P", "-m", "gateway"]
    url = f"http://127.0.0.1:{port}"
    with Program(command, stack.base / "gateway.log", own, listens=port) as gateway:
        until(lambda: asked(url, "GET", "/readyz", str(admin))[0] == 200, "the gateway is ready")
        keys = [new_key(url, str(admin), tenant) for tenant in (FREE, HELD)]
        takes = capacity(stack.base, url, str(admin))
        report.add("it takes, by as many connections as keep it busy", "", f"{takes:,.0f}/s")
        limit = max(1.0, takes / 10)
        body = {"requestsPerSecond": limit}
        assert asked(url, "PUT", f"/tenants/{HELD}", str(admin), body)[0] == 200
        load = Load(stack.base, url, options.seconds)
        with Probe(url, gateway) as probe:
            for key in keys:
                load.start(key, takes * options.factor / 2, options.connections)
            results = load.results()
        told(report, options, takes, limit, results, probe)
    ids = {task_id for one in results for task_id in one["ids"]}
    dispatcher = {**os.environ, **env, "MAYFLY_QUEUE": FUNCTION, "MAYFLY_SLOTS": SLOTS}
    command = [sys.executable, "-P", "-m", "dispatcher"]
    with Program(command, stack.base / "dispatcher.log", dispatcher):
        took = drained(settings, len(ids))
    lost, unfinished = asyncio.run(missing(settings, ids))
    report.add("tasks that were accepted and are not in the log", "0", str(lost), lost == 0)
    seen = f"{unfinished}, of {len(ids):,} in {took:.0f} s"
    report.add("tasks that were accepted and have not ended", "0", seen, unfinished == 0)


def told(
    report: Report,
    options: argparse.Namespace,
    takes: float,
    limit: float,
    results: list[dict[str, Any]],
    probe: Probe,
) -> None:
    answers = [Counter({int(status): count for status, count in one["answers"].items()}) for one in results]
    together = sum(answers, Counter[int]())
    sent = sum(one["sent"] / one["seconds"] for one in results)
    report.add(
        f"sent, of {options.factor:g} times as much",
        "",
        f"{sent:,.0f}/s, which is {sent / takes:.1f} times as much",
    )
    shown = ", ".join(f"{status}: {count:,}" for status, count in sorted(together.items()))
    report.add("answers", "202, 429, 503", shown, set(together) <= ALLOWED)
    broken = sum(one["broken"] for one in results)
    report.add("requests without an answer", "0", str(broken), broken == 0)
    for name, one, result in zip(("without a limit", "with a limit"), answers, results, strict=True):
        rate = one[202] / result["seconds"]
        if name == "with a limit":
            most = limit * (result["seconds"] + 5) / result["seconds"] * 1.02
            report.add(f"accepted of the tenant {name}", f"<= {most:,.0f}/s", f"{rate:,.0f}/s", rate <= most)
        else:
            report.add(f"accepted of the tenant {name}", "", f"{rate:,.0f}/s")
    report.add("checks of health that failed", "0", f"{probe.failed}{probe.why}", probe.failed == 0)
    report.seconds("a check of health, p99", probe.p99, at_most=HEALTH_SECONDS)
    report.add(
        "growth of the gateway's resident memory, last third over first",
        f"<= {MOST_GROWTH_MIB:g} MiB",
        f"{probe.growth_mib:+.1f} MiB, to {probe.mib[-1]:.0f} MiB",
        probe.growth_mib <= MOST_GROWTH_MIB,
    )


def capacity(base: Path, url: str, key: str) -> float:
    """Tasks a second that it accepts of one client which sends as fast as it is answered."""
    accepted = 0.0
    for _ in range(2):
        # The first time warms it up.
        directory = Path(tempfile.mkdtemp(dir=base))
        load = Load(directory, url, 4.0)
        load.start(key, 0.0, BUSY)
        [result] = load.results()
        accepted = result["answers"].get("202", 0) / result["seconds"]
    return accepted


def asked(url: str, method: str, path: str, key: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def new_key(url: str, admin: str, tenant: str) -> str:
    status, made = asked(url, "POST", "/keys", admin, {"scopes": ["submit"], "tenant": tenant})
    assert status == 201, made
    return str(made["key"])


def drained(settings: Settings, count: int) -> float:
    """Seconds until nothing waits and nothing runs, as Redis has it."""
    client = redis.Redis.from_url(settings.redis.get_secret_value(), decode_responses=True)
    indexes = [f"mayfly:tasks{at}" for at in ("", f"@{FREE}", f"@{HELD}")]
    left = ("QUEUED", "SCHEDULED", "RETRYING", "IN_PROGRESS")

    def quiet() -> bool:
        return not any(client.zcard(f"{index}:status:{status}") for index in indexes for status in left)

    began = time.monotonic()
    deadline = began + 120 + count / 50
    while not quiet() and time.monotonic() < deadline:
        time.sleep(0.5)
    client.close()
    return time.monotonic() - began


async def missing(settings: Settings, ids: set[str]) -> tuple[int, int]:
    """How many are not in a lane, and how many have no `Finished` in the events."""
    there, ended = set(), set()
    places = list(_places(settings))
    async for batch in replay(settings, places):
        for entry in batch:
            if entry.topic != events_topic(FUNCTION):
                there.add(entry.key)
            elif entry.value is not None and isinstance(event := decode_event(entry.value), Finished):
                ended.add(event.task_id)
    return len(ids - there), len(ids - ended)


def _places(settings: Settings) -> Iterator[tuple[str, int]]:
    topics = [*(lane_topic(FUNCTION, lane) for lane in Lane), events_topic(FUNCTION)]
    return ((topic, number) for topic in topics for number in range(settings.partitions))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--factor", type=float, default=5, help="times what it takes (5)")
    parser.add_argument("--connections", type=int, default=500, help="of each of two processes (500)")
    parser.add_argument("--send", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        print(json.dumps(send(options.send, options.key, options.rate, options.seconds, options.connections)))
        return 0
    report = Report()
    with own_stack("overload", dispatchers=0) as stack:
        try:
            measure(stack, report, options)
        except (AssertionError, RuntimeError, TimeoutError, OSError) as error:
            report.add("everything could be measured", "", f"{type(error).__name__}: {error}", kept=False)
    return 0 if report.kept else 1


if __name__ == "__main__":
    sys.exit(main())
