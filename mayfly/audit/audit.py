"""One audit, from the first record of the log to the report."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from mayfly.audit import checks
from mayfly.audit.checks import Hash
from mayfly.audit.ledger import Ended, Ledger
from mayfly.audit.report import Finding, Report, tally
from mayfly.retention import FOR_EVER, Retention
from mayfly.task import BlobRef, Status

RESULTS: Final = 1000
"""Results that are read before they are judged: what is known of them is in memory meanwhile."""
PAUSE_SECONDS: Final = 1.0
"""Between two looks at what is off, while it may still settle."""


class Log(Protocol):
    """Raises `LogUnavailable`."""

    queues: set[str]

    def read(self, ledger: Ledger) -> set[str]:
        """Goes on from where it stopped to the log's end; the tasks that it met."""


class Hashes(Protocol):
    """Each method raises `ReadModelUnavailable`."""

    def all(self) -> AsyncIterator[list[tuple[str, Hash | None]]]: ...

    async def of(self, ids: Sequence[str]) -> list[tuple[str, Hash | None]]: ...


class Objects(Protocol):
    async def of(self, keys: Iterable[str]) -> dict[str, BlobRef | None]:
        """Raises `BlobsUnavailable`."""


class Audit:
    """`only` names the queue to look at; None is all of them. What `retention` lets be swept is not missed.

    Raises what its parts raise.
    """

    def __init__(
        self,
        log: Log,
        hashes: Hashes,
        objects: Objects,
        *,
        only: str | None = None,
        retention: Retention = FOR_EVER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._hashes = hashes
        self._objects = objects
        self._only = only
        self._clock = clock
        self._ledger = Ledger(retention)
        self._hash_count = self._result_count = self._result_bytes = 0

    async def run(self, settle: float = 0.0) -> Report:
        """Looks at everything once, and for `settle` seconds again at what was off and may be so only for
        a moment: Redis and the dead letters follow the log. Where tasks go on there is always something that
        is just on its way, so of two looks only what was off in both counts."""
        began = self._clock()
        await asyncio.to_thread(self._log.read, self._ledger)
        read_model = await self._look_at_all()
        results = await self._look_at_results(checks.results(self._ledger))
        read = self._clock()
        before: list[Finding] | None = None
        while True:
            seen = self._not_swept([*read_model.values(), *results, *self._by_the_log()])
            found = [one for one in seen if not one.kind.may_settle or before is None or one in before]
            left = read + settle - self._clock()
            if left <= 0 or not any(finding.kind.may_settle for finding in found):
                break
            before = seen
            await asyncio.sleep(min(PAUSE_SECONDS, left))
            ended = set(self._ledger.ended)
            met = await asyncio.to_thread(self._log.read, self._ledger)
            read_model = await self._look_at(sorted(met | read_model.keys()))
            fresh = ((one, self._ledger.ended[one]) for one in met - ended if one in self._ledger.ended)
            results += await self._look_at_results(
                (one, end) for one, end in fresh if end.status is Status.COMPLETED
            )
        return self._report(found, self._clock() - began)

    # --- Redis

    async def _look_at_all(self) -> dict[str, Finding]:
        suspects: dict[str, Hash | None] = {}
        seen: set[str] = set()
        async for page in self._hashes.all():
            for task_id, found in page:
                if self._only in (None, found.queue if found else None):
                    seen.add(task_id)
                    if checks.judge(self._ledger, task_id, found):
                        suspects[task_id] = found
        self._hash_count = len(seen)
        suspects |= dict.fromkeys(self._ledger.accepted.keys() - seen)
        return await self._judge(suspects)

    async def _look_at(self, ids: Sequence[str]) -> dict[str, Finding]:
        found = dict(await self._hashes.of(ids))
        suspects = {one: seen for one, seen in found.items() if checks.judge(self._ledger, one, seen)}
        return await self._judge(suspects)

    async def _judge(self, suspects: dict[str, Hash | None]) -> dict[str, Finding]:
        """Redis was read after the log, and may have gone on: what it says is held against a log that has
        gone on as well."""
        if suspects:
            await asyncio.to_thread(self._log.read, self._ledger)
        judged = ((one, checks.judge(self._ledger, one, seen)) for one, seen in suspects.items())
        return {task_id: finding for task_id, finding in judged if finding}

    # --- S3 and the log itself

    async def _look_at_results(self, tasks: Iterator[tuple[str, Ended]]) -> list[Finding]:
        found = []
        for some in _batches(tasks, RESULTS):
            stored = await self._objects.of([end.result.key for _, end in some if end.result])
            for task_id, ended in some:
                blob = stored.get(ended.result.key) if ended.result else None
                self._result_count += blob is not None
                self._result_bytes += blob.size if blob else 0
                if finding := checks.judge_result(task_id, ended, blob):
                    found.append(finding)
        return found

    def _by_the_log(self) -> Iterator[Finding]:
        yield from self._ledger.findings()
        yield from checks.dead_letters(self._ledger, _now())

    def _not_swept(self, found: Iterable[Finding]) -> list[Finding]:
        now = _now()
        return [one for one in found if not checks.may_be_swept(one, self._ledger, now)]

    def _report(self, found: list[Finding], seconds: float) -> Report:
        counted, shown = tally(found)
        queues = sorted(self._log.queues)
        return Report(
            queues=tuple(self._ledger.counts(queue) for queue in queues),
            hashes=self._hash_count,
            results=self._result_count,
            result_bytes=self._result_bytes,
            dead_letters=len(self._ledger.dead_letters),
            found=counted,
            findings=shown,
            notes=tuple(
                f"the log of queue {queue} does not begin at its beginning: what was cut off is not judged"
                for queue in sorted(self._ledger.trimmed)
            ),
            seconds=seconds,
        )


def _now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _batches(tasks: Iterator[tuple[str, Ended]], size: int) -> Iterator[list[tuple[str, Ended]]]:
    # Its own list: the ledger may grow while a batch is looked at.
    every = iter(list(tasks))
    while some := list(itertools.islice(every, size)):
        yield some
