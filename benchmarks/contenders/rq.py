"""RQ with Redis: its own worker, which forks a process for each task, as many workers as run at once."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import redis
import rq

from benchmarks import feed
from benchmarks.contenders.base import Contender, Measured

if TYPE_CHECKING:
    from benchmarks.arena import Arena

DATABASE: Final = 2
QUEUE: Final = "bench"
KEEP: Final = 50
NOOP: Final = "benchmarks.contenders.noop.noop"


class Rq(Contender):
    name = "rq"

    def __init__(self, arena: "Arena", at_once: int) -> None:
        self.at_once = at_once
        self._arena = arena
        self.submitted = 0

    def prepare(self) -> None:
        self._url = f"{self._arena.redis_for_peers()}/{DATABASE}"
        self._redis = redis.Redis.from_url(self._url)
        self._queue = rq.Queue(QUEUE, connection=self._redis)

    def run(self, seconds: float) -> Measured:
        self._redis.flushdb()
        self.submitted = 0
        command = [str(Path(sys.executable).parent / "rq"), "worker", "--url", self._url, "--quiet", QUEUE]
        with ExitStack() as workers:
            for number in range(self.at_once):
                workers.enter_context(self._arena.program(f"rq-{number}", command, kill=True))
            flow = feed.measure(self, seconds, KEEP)
        return Measured(flow.count, flow.seconds)

    def submit(self, count: int) -> None:
        for _ in range(count):
            self._queue.enqueue(NOOP)
        self.submitted += count

    def done(self) -> int:
        return int(self._redis.zcard(self._queue.finished_job_registry.key))


def versions() -> dict[str, str]:
    return {"rq": rq.VERSION}
