"""Delivers the notices of tasks' ends: which are due, how many at once, and what follows an attempt.

Each partition of `mayfly.<queue>.webhooks` has one dispatcher that delivers what is in it. What came of an
attempt is in the notice's record before the next one is made, and a notice that was delivered is taken away.
Who takes the partition over reads it from its beginning. So each is delivered at least once, and twice where
its dispatcher died between the answer and the tombstone.
"""

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import structlog

from dispatcher.claims import backoff
from dispatcher.courier import Answer, Undelivered
from mayfly.errors import LogUnavailable, SecretsUnavailable
from mayfly.faultpoints import FaultPoint, reached
from mayfly.identity.vault import Unopened
from mayfly.task import encode
from mayfly.waking import woken
from mayfly.webhooks import callback
from mayfly.webhooks.notice import Notice, decode_notice
from mayfly.webhooks.signing import signatures

log = structlog.get_logger(__name__)

AT_ONCE: Final = 32
AT_ONCE_OF_A_HOST: Final = 8
"""A receiver that does not answer holds up its own deliveries, and nobody else's."""
FIRST_PAUSE_SECONDS: Final = 2.0
"""The bound of the first pause, which doubles with each attempt."""
LONGEST_PAUSE_SECONDS: Final = 3600.0
GIVE_UP_MS: Final = 86_400_000
"""After the first attempt: a day."""
GRACE_SECONDS: Final = 3.0
IDLE_SECONDS: Final = 60.0
DONE: Final = range(200, 300)
GONE: Final = 410
BUSY: Final = (429, 503)
"""With these a receiver may say when to come again."""


class Courier(Protocol):
    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Raises `Undelivered`."""


class Topic(Protocol):
    async def append_notice(self, task_id: str, value: bytes | None) -> None:
        """Raises `LogUnavailable`: it may be there nevertheless."""


@dataclass(eq=False)
class _Waiting:
    """A notice that is not delivered. `line` is the host that it goes to."""

    notice: Notice
    partition: int
    line: str


@dataclass
class _Partition:
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    over: dict[str, str] = field(default_factory=dict)
    """Of tasks whose tombstone was not read back yet: the notice that it took away."""
    complete: bool = False
    """Whether it was read to the end that it had: what stands at its beginning may be gone by then."""


class Deliveries:
    """Implements `mayfly.adapters.kafka_shared.Reader`. `secrets` are a tenant's, to sign with, and may raise
    `Unopened` and `SecretsUnavailable`; `now` is in milliseconds since 1970; `told` is told what each attempt
    came to."""

    def __init__(
        self,
        courier: Courier,
        topic: Topic,
        *,
        secrets: Callable[[str], Awaitable[list[str]]],
        now: Callable[[], int],
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._courier = courier
        self._topic = topic
        self._secrets = secrets
        self._now = now
        self._told = told
        self._partitions: dict[int, _Partition] = {}
        self._due: list[tuple[int, int, _Waiting]] = []
        self._numbers = itertools.count()
        self._lines: dict[str, deque[_Waiting]] = {}
        self._sending: dict[str, int] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._closing = False

    def __len__(self) -> int:
        """The notices that are not delivered."""
        return sum(len(partition.waiting) for partition in self._partitions.values())

    # --- Reader: what stands in the topic

    def assigned(self, partition: int) -> None:
        self._partitions[partition] = _Partition()

    def revoked(self, partition: int) -> None:
        """What is under way goes on, but nothing is written of it any more."""
        self._partitions.pop(partition, None)

    def take(self, partition: int, key: str, value: bytes | None) -> None:
        own = self._partitions.get(partition)
        if own is None:
            return
        if value is None:
            # Ours, or of one that had the partition before: it is delivered.
            own.waiting.pop(key, None)
            own.over.pop(key, None)
            return
        notice = decode_notice(value)
        if notice is None:
            log.error("a record of the webhooks is no notice", partition=partition, task_id=key)
            return
        there = own.waiting.get(key)
        if own.over.get(key) == notice.id:
            return
        if there is not None and there.notice.id == notice.id and there.notice.attempts >= notice.attempts:
            # Our own record, or the first one once more, of an owner that took the task's partition over.
            return
        waiting = own.waiting[key] = _Waiting(notice, partition, _line(notice))
        if own.complete:
            self._schedule(waiting)

    def complete(self, partition: int) -> None:
        own = self._partitions.get(partition)
        if own is not None and not own.complete:
            own.complete = True
            for waiting in own.waiting.values():
                self._schedule(waiting)

    # --- when

    async def run(self) -> None:
        """Start what is due, for as long as this dispatcher lives."""
        while True:
            self._wake.clear()
            self._line_up()
            self._start()
            await woken(self._wake, self._pause())

    def _pause(self) -> float:
        if not self._due:
            return IDLE_SECONDS
        return min(max(self._due[0][0] - self._now(), 1) / 1000, IDLE_SECONDS)

    def _schedule(self, waiting: _Waiting) -> None:
        heapq.heappush(self._due, (waiting.notice.next_at, next(self._numbers), waiting))
        self._wake.set()

    def _line_up(self) -> None:
        while self._due and self._due[0][0] <= self._now():
            _, _, waiting = heapq.heappop(self._due)
            if self._still(waiting):
                self._lines.setdefault(waiting.line, deque()).append(waiting)

    def _start(self) -> None:
        """Each host has its turn."""
        for line in list(self._lines):
            queue = self._lines[line]
            while queue and self._room(line):
                waiting = queue.popleft()
                if self._still(waiting):
                    self._send(waiting)
            if not queue:
                del self._lines[line]

    def _room(self, line: str) -> bool:
        if self._closing:
            return False
        return len(self._running) < AT_ONCE and self._sending.get(line, 0) < AT_ONCE_OF_A_HOST

    def _send(self, waiting: _Waiting) -> None:
        line = waiting.line
        self._sending[line] = self._sending.get(line, 0) + 1
        task = asyncio.create_task(self._deliver(waiting))
        self._running.add(task)

        def ended(task: "asyncio.Task[None]") -> None:
            self._running.discard(task)
            self._sending[line] -= 1
            if not self._sending[line]:
                del self._sending[line]
            # Those that waited the longest for their turn are to have it.
            if (queue := self._lines.pop(line, None)) is not None:
                self._lines[line] = queue
            self._wake.set()
            if not task.cancelled() and (error := task.exception()):
                log.error("a delivery broke", exc_info=error)

        task.add_done_callback(ended)

    def _still(self, waiting: _Waiting) -> bool:
        """Whether it is ours to deliver."""
        own = self._partitions.get(waiting.partition)
        return own is not None and own.waiting.get(waiting.notice.task_id) is waiting

    # --- an attempt, and what follows it

    async def _deliver(self, waiting: _Waiting) -> None:
        notice = waiting.notice
        status, pause, last = None, 0.0, ""
        try:
            answer = await self._post(notice)
        except Undelivered as error:
            last = str(error)
        except Exception:
            # Whatever a receiver may have made of us, it is tried again like any other.
            log.exception("a delivery broke", task_id=notice.task_id)
            last = "internal error"
        else:
            status, last = answer.status, str(answer.status)
            if status in BUSY and answer.retry_after is not None:
                pause = min(answer.retry_after, LONGEST_PAUSE_SECONDS)
            if status in DONE:
                reached(FaultPoint.DELIVERED)
        after = self._after(notice, last, pause)
        if status in DONE or status == GONE or after.next_at - after.first_at > GIVE_UP_MS:
            self._told("delivered" if status in DONE else "given up")
            if status not in DONE:
                told = {"task_id": notice.task_id, "attempts": after.attempts, "last": last}
                log.warning("a webhook is given up", **told)
            await self._over(waiting)
        else:
            self._told("failed")
            log.info("a webhook was not delivered", task_id=notice.task_id, attempt=after.attempts, last=last)
            await self._again(waiting, after)

    async def _post(self, notice: Notice) -> Answer:
        """Raises `Undelivered`."""
        try:
            secrets = await self._secrets(notice.tenant)
        except (Unopened, SecretsUnavailable) as error:
            raise Undelivered(f"the tenant's secret cannot be opened: {error}") from error
        if not secrets:
            raise Undelivered("the tenant has no secret to sign with: `mayfly webhooks renew` makes one")
        body, at = bytes(notice.body), self._now() // 1000
        headers = {
            "content-type": "application/json",
            "user-agent": "mayfly-webhooks",
            "webhook-id": notice.id,
            "webhook-timestamp": str(at),
            "webhook-signature": signatures(secrets, notice.id, at, body),
        }
        return await self._courier.post(notice.url, headers, body)

    def _after(self, notice: Notice, last: str, least: float) -> Notice:
        now, attempts = self._now(), notice.attempts + 1
        # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        bound = min(FIRST_PAUSE_SECONDS * 2 ** min(attempts - 1, 20), LONGEST_PAUSE_SECONDS)
        pause = max(random.uniform(0, bound), least)  # noqa: S311 - nobody is to be kept from guessing it
        return msgspec.structs.replace(
            notice,
            attempts=attempts,
            first_at=notice.first_at or now,
            next_at=now + int(pause * 1000),
            last=last[:300],
        )

    async def _over(self, waiting: _Waiting) -> None:
        own, notice = self._partitions.get(waiting.partition), waiting.notice
        there = own.waiting.get(notice.task_id) if own else None
        if own is None or there is None or there.notice.id != notice.id:
            return
        del own.waiting[notice.task_id]
        own.over[notice.task_id] = notice.id
        await self._append(own, waiting, None)

    async def _again(self, waiting: _Waiting, after: Notice) -> None:
        own = self._partitions.get(waiting.partition)
        if own is None or not self._still(waiting):
            return
        waiting.notice = after
        await self._append(own, waiting, encode(after))
        if self._still(waiting):
            self._schedule(waiting)

    async def _append(self, own: _Partition, waiting: _Waiting, value: bytes | None) -> None:
        """Until it is acknowledged, or the partition is another's, who comes to the same by itself."""
        for delay in backoff():
            if self._partitions.get(waiting.partition) is not own:
                return
            try:
                return await self._topic.append_notice(waiting.notice.task_id, value)
            except LogUnavailable as error:
                log.warning("Kafka is away: a webhook's record waits", reason=str(error))
                await asyncio.sleep(delay)

    async def close(self) -> None:
        """What is under way has a moment; the next owner of its partition sends the rest again."""
        self._closing = True
        if self._running:
            await asyncio.wait(self._running, timeout=GRACE_SECONDS)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


def _line(notice: Notice) -> str:
    try:
        return callback.parse(notice.url).host
    except ValueError:
        return ""
