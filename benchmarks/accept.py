"""`make accept`: every promise in seconds or rates, measured on a stack of its own, each beside its bound.

Exits 1 if one was not kept. What has no bound is printed because one asks for it: it depends on the machine.
"""

import argparse
import asyncio
import http.client
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import threading
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from benchmarks import lifecycle
from benchmarks.stage import DISPATCHERS, PATIENCE, REPOSITORY, Report, Stack, own_stack, until
from mayfly.adapters.kafka import ensure_topics
from mayfly.client import Client, Task
from mayfly.stack import environment
from mayfly.stack.stack import settings_of
from mayfly.task import Status

SHARED: Final = 300
IDLE_QUEUE: Final = "accept"
"""Nobody serves it, so that a POST can be measured without what it starts."""

ECHO = "def handler(event, context):\n    return event\n"
NAP = "import time\n\n\ndef handler(event, context):\n    time.sleep(event)\n    return event\n"


# --- what is measured


def starts(stack: Stack, report: Report) -> None:
    report.seconds("the first start, images built as far as they are not there", stack.start())
    began = time.monotonic()
    code = stack.stop()
    report.add("a stop in order", "exit code 0", f"{time.monotonic() - began:.2f} s, {code}", code == 0)
    report.seconds("the next start, until every part and function is ready", stack.start(), at_most=30)


def heartbeats(client: Client, report: Report) -> None:
    worst = 0.0
    until(lambda: len(client.workers()) == DISPATCHERS, "every dispatcher is seen")
    end = time.monotonic() + 6
    while time.monotonic() < end:
        workers = client.workers()
        now = time.time()
        beats = [worker.last_heartbeat for worker in workers if worker.last_heartbeat]
        worst = max(worst, *(now - beat.timestamp() for beat in beats))
        time.sleep(0.02)
    report.seconds("the oldest heartbeat that /workers shows", worst, at_most=1)


def folders(stack: Stack, client: Client, report: Report) -> None:
    def version() -> str | None:
        return next((one.version for one in client.functions() if one.name == "accept-dropped"), None)

    before: str | None = None
    for what, handler in (("new", ECHO), ("changed", ECHO + "\n\nCHANGED = True\n")):
        length = stack.output.stat().st_size
        stack.write("accept-dropped", handler)
        began = time.monotonic()
        until(lambda: stack.says("accept-dropped", after=length), "the folder is noticed")  # noqa: B023 - over before the next turn
        report.seconds(f"a {what} folder is picked up", time.monotonic() - began, at_most=2)
        until(lambda: version() not in (None, before), "the folder is served")  # noqa: B023 - over before the next turn
        report.seconds(f"a {what} folder is served", time.monotonic() - began)
        before = version()
        task = client.wait(client.submit("accept-dropped", what).task_id, timeout=PATIENCE)
        assert task.result == what, task


def waiting(client: Client, report: Report) -> None:
    """One task at a time, each waited for over HTTP."""
    whole, late = [], []
    for number in range(30):
        began = time.monotonic()
        task = client.wait(client.submit("echo", number).task_id, timeout=PATIENCE)
        whole.append(time.monotonic() - began)
        assert task.finished_at is not None
        late.append(time.time() - task.finished_at.timestamp())
    report.seconds("?wait answers after the function's end: median", statistics.median(late), at_most=1)
    report.seconds("?wait answers after the function's end: worst of 30", max(late), at_most=2)
    report.seconds(
        "a task in a fresh container, from its POST to its result: median", statistics.median(whole)
    )
    napping = client.submit("accept-nap", 4).task_id
    with httpx.Client(base_url=client.url, timeout=60, trust_env=False) as http:
        began = time.monotonic()
        http.get(f"/tasks/{napping}", params={"wait": "1"}).raise_for_status()
        report.seconds("?wait=1 on a task that goes on", time.monotonic() - began, at_most=2)
    client.wait(napping, timeout=PATIENCE)


def sharing(client: Client, report: Report) -> None:
    began = time.monotonic()
    ids = [client.submit("echo", number).task_id for number in range(SHARED)]
    tasks = [client.wait(task_id, timeout=PATIENCE) for task_id in ids]
    seconds = time.monotonic() - began
    once = sum(task.status is Status.COMPLETED and task.attempt == 1 for task in tasks)
    stored = sum(
        json.loads(client.result_bytes(task.task_id).body) == number for number, task in enumerate(tasks)
    )
    workers = len({task.dispatcher for task in tasks})
    report.add(
        f"{SHARED} tasks at once: each COMPLETED once, its result in S3",
        f"{SHARED}, {SHARED}",
        f"{once}, {stored}",
        once == stored == SHARED,
    )
    report.add("dispatchers that had a part of them", str(DISPATCHERS), str(workers), workers == DISPATCHERS)
    report.add("tasks a second, a fresh container each", "", f"{SHARED / seconds:.1f}/s")


def takeover(stack: Stack, client: Client, report: Report) -> None:
    ids = [client.submit("accept-nap", 4).task_id for _ in range(12)]

    def held() -> dict[str, list[Task]]:
        found: dict[str, list[Task]] = {}
        for task in client.list(status=Status.IN_PROGRESS):
            found.setdefault(task.dispatcher or "", []).append(task)
        return found

    until(lambda: any(len(tasks) > 1 for tasks in held().values()), "a dispatcher is at work on two tasks")
    victim, tasks = max(held().items(), key=lambda item: len(item[1]))
    address = next(worker.address for worker in client.workers() if worker.id == victim)
    os.kill(stack.part(address or ""), signal.SIGKILL)
    killed = time.monotonic()

    def elsewhere(task_id: str) -> bool:
        task = client.get(task_id)
        # What ended just before the kill has its outcome, and nothing to be taken over.
        return task.dispatcher != victim or task.ended

    until(lambda: all(elsewhere(task.task_id) for task in tasks), "its tasks run elsewhere")
    promise = f"the {len(tasks)} tasks of a dispatcher that was killed by -9 run elsewhere"
    report.seconds(promise, time.monotonic() - killed, at_most=20)
    ended = [client.wait(task_id, timeout=PATIENCE) for task_id in ids]
    completed = sum(task.status is Status.COMPLETED for task in ended)
    report.add("tasks COMPLETED around the kill", str(len(ids)), str(completed), completed == len(ids))


def posting(url: str, report: Report) -> None:
    """POSTs of small tasks that nothing runs: each is in the log (acks=all) before its 202."""
    body = json.dumps({"taskType": "accept-parked", "payload": {"n": 1}})

    def post(seconds: float, into: list[float]) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            connection.request("POST", "/tasks", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 202, answer.status
            into.append(time.perf_counter() - began)
        connection.close()

    post(1, [])
    alone: list[float] = []
    post(4, alone)
    cuts = statistics.quantiles(alone, n=100)
    report.add("a POST, one client, p50 and p99", "", f"{cuts[49] * 1000:.2f} ms, {cuts[98] * 1000:.2f} ms")
    together: list[float] = []
    clients = [threading.Thread(target=post, args=(4, together)) for _ in range(16)]
    began = time.monotonic()
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    rate = len(together) / (time.monotonic() - began)
    cuts = statistics.quantiles(together, n=100)
    report.add(
        "POSTs a second, 16 clients in one process; p50 and p99",
        "",
        f"{rate:,.0f}/s; {cuts[49] * 1000:.2f} ms, {cuts[98] * 1000:.2f} ms",
    )


# --- the whole of it


def measure(stack: Stack, report: Report) -> None:
    shutil.copytree(REPOSITORY / "functions", stack.functions)
    stack.write("accept-nap", NAP)
    stack.write("accept-parked", ECHO, f'queue = "{IDLE_QUEUE}"\n')
    stack.write("accept-single", NAP, "concurrency = 1\n")
    starts(stack, report)
    settings = settings_of({**environment(stack.directory), "MAYFLY_QUEUE": IDLE_QUEUE})
    asyncio.run(ensure_topics(settings))
    with Client(stack.url) as client:
        heartbeats(client, report)
        folders(stack, client, report)
        waiting(client, report)
        sharing(client, report)
        takeover(stack, client, report)
        posting(stack.url, report)
        lifecycle.measure(stack, client, report)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accept", description=__doc__)
    parser.add_argument("--json", type=Path, help="write what was seen to this file as well")
    options = parser.parse_args()
    began, report = datetime.now().astimezone(), Report()
    with own_stack("accept") as stack:
        try:
            measure(stack, report)
        except (AssertionError, RuntimeError, TimeoutError, httpx.HTTPError) as error:
            report.add("everything could be measured", "", f"{type(error).__name__}: {error}", kept=False)
    if options.json:
        machine = {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        }
        seen = {"at": began.isoformat(timespec="seconds"), "machine": machine}
        options.json.write_text(
            json.dumps({**seen, "lines": [asdict(line) for line in report.lines]}, indent=1)
        )
    return 0 if report.kept else 1


if __name__ == "__main__":
    sys.exit(main())
