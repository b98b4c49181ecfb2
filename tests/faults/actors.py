"""Who acts in a run: clients that submit, a client that watches, and a saboteur."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx

from tests.faults import functions
from tests.faults.history import Answer, History, Request, Sighting
from tests.faults.schedule import Fault
from tests.faults.stage import Resume, Stage

KEYED_SHARE: Final = 0.9
CLIENTS: Final = 8
AGAIN_SECONDS: Final = 0.5
WATCHERS: Final = 4
LOOKED_AT_AGAIN: Final = 10
"""Of the tasks that have ended, so many are read again by each watcher in each round."""


class Submitter:
    """Clients that want `count` tasks, and go on for `seconds`; never more than `most` are open at once.

    With an Idempotency-Key a client asks until it has its 202. Without one it asks once: it could not tell
    whether a second time made a second task.
    """

    def __init__(
        self, history: History, url: str, watcher: "Watcher", *, count: int, seconds: float, most: int
    ) -> None:
        self._history = history
        self._url = url
        self._watcher = watcher
        self._count = count
        self._seconds = seconds
        self._most = most

    async def run(self) -> None:
        wanted = self._requests()
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=20, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(CLIENTS):
                group.create_task(self._client(http, wanted))

    def _requests(self) -> Iterator[Request]:
        draw = random.Random(self._history.seed)
        until = time.monotonic() + self._seconds
        for index in itertools.count():
            if index >= self._count and time.monotonic() >= until:
                return
            name, payload = functions.draw(draw, index)
            keyed = draw.random() < KEYED_SHARE
            key = functions.key(self._history.seed, index) if keyed else None
            yield Request(index, name, payload, key)

    async def _client(self, http: httpx.AsyncClient, wanted: Iterator[Request]) -> None:
        for request in wanted:
            while self._watcher.open >= self._most:
                await asyncio.sleep(0.05)
            self._history.requests.append(request)
            while not (answer := await self._ask(http, request)).accepted:
                request.answers.append(answer)
                if request.key is None or not answer.ambiguous:
                    break
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                request.answers.append(answer)
                assert answer.task_id is not None
                self._watcher.follow(answer.task_id)

    async def _ask(self, http: httpx.AsyncClient, request: Request) -> Answer:
        headers = {"idempotency-key": request.key} if request.key else {}
        body = {"taskType": request.function, "payload": request.payload}
        try:
            answer = await http.post("/tasks", json=body, headers=headers)
        except httpx.HTTPError as error:
            return Answer(time.monotonic(), None, error=type(error).__name__)
        told: dict[str, Any] = answer.json()
        return Answer(time.monotonic(), answer.status_code, told.get("taskId"), told.get("code"))


class Watcher:
    """Reads the accepted tasks all the time: those that are open, and again some of those that have ended."""

    def __init__(self, history: History, url: str) -> None:
        self._history = history
        self._url = url
        # Each watcher has its own tasks: what it saw of one is then in the order in which it was.
        self._open: list[set[str]] = [set() for _ in range(WATCHERS)]
        self._ended: list[list[str]] = [[] for _ in range(WATCHERS)]
        self._draw = random.Random(history.seed)

    @property
    def open(self) -> int:
        return sum(map(len, self._open))

    def follow(self, task_id: str) -> None:
        number = hash(task_id) % WATCHERS
        if task_id not in self._ended[number]:
            self._open[number].add(task_id)

    async def run(self) -> None:
        """Until it is cancelled."""
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=20, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            for number in range(WATCHERS):
                group.create_task(self._watch(http, number))

    async def _watch(self, http: httpx.AsyncClient, number: int) -> None:
        unread: set[str] = set()
        while True:
            ended = self._ended[number]
            again = self._draw.sample(ended, min(len(ended), LOOKED_AT_AGAIN))
            for task_id in [*self._open[number], *again]:
                sighting = await self._look(http, task_id)
                if sighting and sighting.terminal and task_id in self._open[number]:
                    self._open[number].discard(task_id)
                    ended.append(task_id)
                    if sighting.status == "COMPLETED":
                        unread.add(task_id)
            for task_id in list(unread):
                if await self._read_result(http, task_id):
                    unread.discard(task_id)
            await asyncio.sleep(0.2)

    async def _look(self, http: httpx.AsyncClient, task_id: str) -> Sighting | None:
        reads = self._history.reads
        try:
            answer = await http.get(f"/tasks/{task_id}")
        except httpx.HTTPError:
            reads.broken += 1
            # Nobody is there: the others need not find that out at once.
            await asyncio.sleep(AGAIN_SECONDS)
            return None
        if answer.status_code == httpx.codes.OK:
            reads.shown += 1
            sighting = Sighting.of(answer.json())
            self._history.see(time.monotonic(), task_id, sighting)
            return sighting
        if answer.status_code == httpx.codes.NOT_FOUND:
            reads.unknown += 1
        else:
            reads.unavailable += 1
        return None

    async def _read_result(self, http: httpx.AsyncClient, task_id: str) -> bool:
        try:
            answer = await http.get(f"/tasks/{task_id}/result")
        except httpx.HTTPError:
            return False
        if answer.status_code != httpx.codes.OK:
            return False
        result = answer.json()
        # The rest of a large one is checked by the audit, in S3.
        self._history.results[task_id] = {name: result.get(name) for name in ("index", "attempt")}
        return True


class Saboteur:
    """Does what the schedule says, until it is told that it is enough."""

    def __init__(
        self, history: History, stage: Stage, faults: Iterator[Fault], say: Callable[[str], None]
    ) -> None:
        self._history = history
        self._stage = stage
        self._faults = faults
        self._say = say
        self._pauses: dict[asyncio.Task[None], Resume] = {}

    async def run(self) -> None:
        """Until it is cancelled, or the schedule ends. What is stopped goes on then."""
        began = time.monotonic()
        try:
            for fault in self._faults:
                await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
                await self._do(fault)
            await asyncio.gather(*self._pauses)
        finally:
            for pause, resume in list(self._pauses.items()):
                pause.cancel()
                self._over(resume)

    async def _do(self, fault: Fault) -> None:
        resume = await self._stage.hit(fault)
        if resume is None:
            self._history.skipped += 1
            self._say(f"{fault}: it is not up")
            return
        self._say(str(fault))
        self._history.faults.append((time.monotonic(), fault))
        self._history.last_fault = time.monotonic()
        if fault.seconds:
            pause = asyncio.create_task(self._wait(fault.seconds, resume))
            self._pauses[pause] = resume
            pause.add_done_callback(lambda done: self._pauses.pop(done, None))

    async def _wait(self, seconds: float, resume: Resume) -> None:
        await asyncio.sleep(seconds)
        self._over(resume)

    def _over(self, resume: Resume) -> None:
        resume()
        self._history.last_fault = time.monotonic()
