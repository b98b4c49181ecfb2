"""Mayfly, end to end: submitted over HTTP, run, its result in S3, its status COMPLETED in Redis.

A task counts when Redis says COMPLETED. After each slice the objects in S3 of at least 500 of its tasks, or
of all, are read and compared with what Redis shows of their results. Where a sandbox is used once, no more
tasks count than sandboxes were made while the clock ran, however many were ready before.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from itertools import cycle, islice
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from benchmarks import feed
from benchmarks.arena import PARKED, Arena
from benchmarks.contenders.base import Contender, Measured, Unavailable
from benchmarks.contenders.starlette import load
from benchmarks.posting import Connection, request
from benchmarks.stage import Program
from mayfly.adapters.kafka import client_config, lane_topic
from mayfly.settings import MIB
from mayfly.task import Envelope, Lane, encode, new_task_id

BATCH_BYTES: Final = 4 * MIB
"""Of the tasks that are posted in one request, at most."""
COLD: Final = 10
"""Containers that have ended before the clock starts: a dispatcher that has just begun is no steady state."""
PAUSES: Final = 3
PAUSE: Final = 3.0
"""How many pauses, and of how many seconds, where tasks are served and not measured."""
TURNS: Final = 8
"""Tasks that have ended for each slot before the clock of the first slice after a start begins: by then all
processes are started."""
FIRST: Final = 3
"""Tasks that are run one by one before anybody's first slice: something has to be started for them."""
SETTLE: Final = 3.0
"""Seconds after those: what they used up, and what the dispatcher keeps ready, is there by then."""
REST: Final = 0.5
"""Seconds after a slice: what it used up is made again, and what it left is removed, in nobody else's."""


class Tasks:
    """A `feed.Queue` of tasks that are posted in batches, `functions` in turn, each with a payload of so many
    bytes. Those that are timed one by one are posted one by one."""

    def __init__(self, arena: Arena, functions: Sequence[str], payload: int) -> None:
        self._arena = arena
        self._connection = Connection(arena.url)
        bodies = [
            json.dumps({"taskType": name, "payload": "x" * payload or None}).encode() for name in functions
        ]
        self._bodies = cycle(bodies)
        self._most = max(1, BATCH_BYTES // len(bodies[0]))
        self._base = 0
        self.submitted = 0
        self.dispatchers: Sequence[Program] = ()
        """Whose end is told, for no task would end then."""

    def begin(self) -> None:
        """Nothing of these waits; what others have completed meanwhile does not count."""
        self._base = self._arena.completed() - self.submitted

    def submit(self, count: int) -> None:
        while count:
            some = min(count, self._most)
            body = b"[" + b",".join(islice(self._bodies, some)) + b"]"
            status, answer = self._ask("POST", "/tasks/batch", body)
            if status != HTTPStatus.OK or json.loads(answer)["accepted"] != some:
                raise RuntimeError(f"a batch was answered {status}: {answer[:300].decode(errors='replace')}")
            self.submitted += some
            count -= some

    def done(self) -> int:
        for dispatcher in self.dispatchers:
            if why := dispatcher.ended:
                raise Unavailable(f"the dispatcher ended: {why}")
        return self._arena.completed() - self._base

    def one(self) -> float:
        """How long one task takes until its client sees that it is COMPLETED, in milliseconds."""
        began = time.perf_counter()
        _, accepted = self._ask("POST", "/tasks", next(self._bodies))
        _, seen = self._ask("GET", f"/tasks/{json.loads(accepted)['taskId']}?wait=60")
        took = time.perf_counter() - began
        if (status := json.loads(seen)["status"]) != "COMPLETED":
            raise Unavailable(f"a task that was waited for is {status}")
        self.submitted += 1
        return took * 1000

    def _ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        return self._connection.exchange(request(self._arena.url, method, path, body))

    def close(self) -> None:
        self._connection.close()


class Mayfly(Contender):
    """A function's tasks on one dispatcher, with `at_once` slots.

    `keep` tasks wait while the rate is measured. For `singles` seconds before the first slice, tasks
    are timed one by one, with a pause between them in which what they used up can be made again; where none
    are kept waiting, that is done for the whole slice, and no rate is measured.
    """

    dispatchers = 1
    payload = 0
    """Bytes of each task's."""
    copies = 0
    """Functions of the same image that take turns, where it is not the one alone."""

    def __init__(
        self,
        arena: Arena,
        name: str,
        isolation: str,
        at_once: int,
        *,
        keep: int,
        singles: float = 0.0,
        pause: float = 0.0,
        runtime: str | None = None,
    ) -> None:
        self.name, self.at_once = name, at_once
        self._arena = arena
        self._isolation = isolation
        self._functions = [f"bench-{isolation}"]
        self._keep, self._singles, self._pause = keep, singles, pause
        self._settings = _settings(at_once, runtime)
        self._tasks: Tasks | None = None
        self._is_new = True

    def prepare(self) -> None:
        self._arena.require(self._isolation)
        if self.copies:
            self._functions = self._arena.copies(self._isolation, self.copies)

    @contextmanager
    def up(self) -> Iterator[None]:
        """Returns when nothing is being started any more: that would be in the slice of whoever is first."""
        tasks = self._tasks = Tasks(self._arena, self._functions, self.payload)
        self._is_new = True
        queue = f"bench-{self._isolation}"
        with self._arena.dispatchers(queue, self.dispatchers, self._settings) as tasks.dispatchers:
            try:
                for _ in range(FIRST):
                    tasks.one()
                time.sleep(SETTLE)
                yield
            finally:
                tasks.close()
                self._tasks = None

    def run(self, seconds: float) -> Measured:
        """Of a contender that is up."""
        tasks = self._tasks
        assert tasks is not None
        tasks.begin()
        is_first, self._is_new = self._is_new, False
        if not self._keep:
            latencies = tuple(self._time_singles(tasks, seconds))
            self._arena.take()
            return Measured(len(latencies), sum(latencies) / 1000, latencies)
        latencies = tuple(self._time_singles(tasks, self._singles)) if is_first and self._singles else ()
        flow = feed.measure(tasks, seconds, self._keep, after=self._after(is_first))
        resident = sum(program.resident_mib for program in tasks.dispatchers)
        feed.finish(tasks)
        made = self._arena.take()
        time.sleep(REST)
        count = flow.count
        if self._isolation != "warm":
            # What was ready before the clock started is no achievement of this slice.
            count = min(count, sum(0 < one - flow.began < flow.seconds for one in made))
        return Measured(count, flow.seconds, latencies, resident_mib=resident)

    def serve(self, count: int) -> None:
        """At least so many tasks, of which none is measured, with pauses: the JVMs' compilers take what
        nobody else wants."""
        with self.up():
            assert self._tasks is not None
            self._tasks.begin()
            for _ in range(PAUSES):
                feed.measure(self._tasks, 0.0, self._keep, after=count // PAUSES)
                feed.finish(self._tasks)
                self._arena.take()
                time.sleep(PAUSE)

    def _after(self, is_first: bool) -> int:
        """What has ended before the clock starts. In the first slice, where processes are to be started that
        then make or serve many sandboxes, all that was submitted before the first one was, and enough for all
        to be started; after that, what each slot has begun with."""
        if not is_first:
            return self.at_once
        least = COLD if self._isolation == "container" else max(self._keep, TURNS * self.at_once)
        return max(least, self.copies)

    def _time_singles(self, tasks: Tasks, seconds: float) -> Iterator[float]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._pause)
            yield tasks.one()


class Post(Contender):
    """POSTs to the gateway, one process, of tasks that nobody runs: each is in the log, acknowledged by all
    replicas that are in sync, before its 202."""

    name = "post"
    at_once = 1

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def prepare(self) -> None:
        self._arena.make_queue(PARKED)

    def run(self, seconds: float) -> Measured:
        before = self._arena.commands(PARKED)
        measured, posted = load(self._arena.url, seconds)
        appended = self._arena.commands(PARKED) - before
        assert appended == posted, f"{posted} were answered 202, {appended} are in the log"
        return measured


class Backlog(Contender):
    """The rate at which a backlog drains that stays as long as it is: what ends is made up for.

    Nobody posts a million tasks in a minute, so these are appended to Kafka by Mayfly's own encoder, before
    the first slice, and in each to make up for what ended: for the short backlog and the long one alike.
    """

    def __init__(
        self,
        arena: Arena,
        name: str,
        isolation: str,
        at_once: int,
        waiting: int,
        *,
        runtime: str | None = None,
    ) -> None:
        self.name, self.at_once = name, at_once
        self._arena = arena
        self._settings = _settings(at_once, runtime)
        self._isolation, self._function = isolation, f"bench-{isolation}"
        self._queue = name.replace("_", "-")
        self._keep = waiting
        self.submitted = self._done = 0
        self._base = 0
        self._dispatchers: list[Program] = []

    def prepare(self) -> None:
        self._arena.require(self._isolation)
        self._arena.make_queue(self._queue)
        self._producer = Producer(
            client_config(
                self._arena.settings,
                **{"acks": "all", "linger.ms": 1, "partitioner": "murmur2_random", "on_delivery": _delivered,
                   "delivery.report.only.error": True},
            )
        )  # fmt: skip
        self.submit(self._keep)

    def run(self, seconds: float) -> Measured:
        self._base = self._arena.completed() - self._done
        with self._arena.dispatchers(self._queue, 1, self._settings) as self._dispatchers:
            flow = feed.measure(self, seconds, self._keep, after=TURNS * self.at_once)
            resident = sum(program.resident_mib for program in self._dispatchers)
        self._done = self._arena.completed() - self._base
        self._arena.take()
        return Measured(flow.count, flow.seconds, resident_mib=resident)

    def submit(self, count: int) -> None:
        topic = lane_topic(self._queue, Lane.NORMAL)
        for _ in range(count):
            envelope = Envelope(task_type=self._function, task_id=new_task_id())
            while True:
                try:
                    self._producer.produce(topic, encode(envelope), key=envelope.task_id)
                except BufferError:
                    self._producer.poll(0.1)
                else:
                    break
        self._producer.flush()
        self.submitted += count

    def done(self) -> int:
        for dispatcher in self._dispatchers:
            if why := dispatcher.ended:
                raise Unavailable(f"the dispatcher ended: {why}")
        return self._arena.completed() - self._base


def _settings(slots: int, runtime: str | None) -> dict[str, str]:
    """A dispatcher's, beside those of its stack."""
    return {"MAYFLY_SLOTS": str(slots)} | ({"MAYFLY_RUNTIME": runtime} if runtime else {})


def _delivered(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        raise RuntimeError(f"Kafka did not take a command: {error.str()}")
