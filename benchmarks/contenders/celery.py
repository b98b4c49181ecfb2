"""Celery with Redis as its broker and its result backend: a pool of processes, and a process per task.

The no-op's state goes to Redis, for that is what says that it has ended. Nothing else is stored, nothing is
isolated, no log is kept. The client has no result backend of its own: to subscribe to each result, as one
does by default, costs it and Redis more.
"""

import os
import sys
from typing import TYPE_CHECKING, Final

import celery
import redis

from benchmarks import feed
from benchmarks.contenders.base import Contender, Measured

if TYPE_CHECKING:
    from benchmarks.arena import Arena
    from benchmarks.stage import Program

BROKER, RESULTS = 0, 1
KEEP: Final = 200
FIRST: Final = 4
"""Tasks that have ended for each process before the clock starts, where each process is for one task."""
QUEUE: Final = "celery"

# The worker's own view: it imports this module and is told where Redis is.
app = celery.Celery("bench", broker=os.environ.get("BENCH_BROKER"), backend=os.environ.get("BENCH_RESULTS"))


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop() -> None: ...


class Celery(Contender):
    """`per_task`: each process ends after one task, and is forked anew for the next."""

    def __init__(self, arena: "Arena", at_once: int, *, per_task: bool) -> None:
        self.name = "celery_process_per_task" if per_task else "celery_prefork"
        self.at_once = at_once
        self._arena = arena
        self._per_task = per_task
        self.submitted = 0

    def prepare(self) -> None:
        url = self._arena.redis_for_peers()
        self._environment = {"BENCH_BROKER": f"{url}/{BROKER}", "BENCH_RESULTS": f"{url}/{RESULTS}"}
        self._results = redis.Redis.from_url(f"{url}/{RESULTS}")
        self._client = celery.Celery("bench", broker=f"{url}/{BROKER}")

    def run(self, seconds: float) -> Measured:
        self._results.flushall()
        self.submitted = 0
        with self._worker():
            after = FIRST * self.at_once if self._per_task else KEEP
            flow = feed.measure(self, seconds, KEEP, after=after)
        return Measured(flow.count, flow.seconds)

    def _worker(self) -> "Program":
        command = [sys.executable, "-m", "celery", "--app", __name__, "worker", "--pool", "prefork"]
        command += ["--concurrency", str(self.at_once), "--loglevel", "error"]
        # What only serves several workers, or somebody who watches.
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command += ["--max-tasks-per-child", "1"] if self._per_task else []
        return self._arena.program(self.name, command, self._environment, kill=True)

    def submit(self, count: int) -> None:
        for _ in range(count):
            self._client.send_task("noop", queue=QUEUE)
        self.submitted += count

    def done(self) -> int:
        """The results' database holds one key per task that has ended."""
        return int(self._results.dbsize())


def versions() -> dict[str, str]:
    return {"celery": celery.__version__}
