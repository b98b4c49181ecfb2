"""The read model as the gateway asks it: tasks by id and in lists, dead letters, logs, changes.

`ReadModel` (`mayfly/adapters/redis.py`) is made of this and of what writes.
"""

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from mayfly.adapters.redis_connection import answering, next_message
from mayfly.task import DEFAULT_TENANT
from mayfly.view import Reservation, tenant_of

CHANGES: Final = "mayfly:changes"
CANCELS: Final = "mayfly:cancels"
TENANTS: Final = "mayfly:tenants"
"""Those that have tasks, but for the default one."""
ENDED: Final = "mayfly:tasks:ended"
Fields = dict[str, str]
Rows = list[Fields]
Ids = list[str]
Scored = list[tuple[str, float]]
Place = tuple[float, str]
"""In a sorted set: score and member."""

_OF_A_LETTER: Final = ("taskType", "errorType", "tenant")
_PAGE: Final = 200
_SCAN: Final = 10_000
"""Ids that one page of a list looks at: a rare combination of filters gets a short page and a cursor."""
RESERVED_SECONDS: Final = 86_400
"""How long a key is reserved for a task that never reached the log. One that did is written from there,
without an end."""


Gate = Callable[[], Awaitable[None]]


class LogChunk(NamedTuple):
    """A piece of what an attempt has logged; `id` is the stream's, `fence` the attempt's."""

    id: str
    fence: int
    text: str


Chunks = list[LogChunk]


class Reads:
    """Every method raises `ReadModelUnavailable` when Redis does not do its part."""

    _redis: Any
    """Its types say that every answer may be bytes; `decode_responses` says that none is."""
    _gate: Gate
    """Asked before tasks are looked up, and again before it is said that there is nothing, or no more: it
    raises `ReadModelUnavailable` while some are missing."""

    async def marked(self, queues: Iterable[str]) -> dict[str, int]:
        """How many partitions of each queue are marked as told everything."""
        names = list(queues)
        async with answering():
            pipeline = self._redis.pipeline(transaction=False)
            for queue in names:
                pipeline.hlen(marks_key(queue))
            return dict(zip(names, await pipeline.execute(), strict=True))

    async def get(self, task_id: str) -> Fields | None:
        await self._gate()
        async with answering():
            fields: Fields = await self._redis.hgetall(task_key(task_id))
        # A hash without its command's facts is half of a task: it is there as soon as they are.
        if "taskType" in fields:
            return fields
        # Nothing is an answer only if it was not flushed since the first look.
        await self._gate()
        return None

    async def changes(self) -> AsyncGenerator[tuple[str, str]]:
        """(task id, status) as they are projected. What happens while it is not subscribed is not told."""
        async with answering(), self._redis.pubsub() as subscription:
            await subscription.subscribe(CHANGES)
            while True:
                message = await next_message(subscription)
                if message and message["type"] == "subscribe":
                    yield "", ""
                elif message and message["type"] == "message":
                    change = json.loads(message["data"])
                    yield change["taskId"], change["status"]

    async def log_chunks(self, task_id: str, after: str = "", count: int = 1000) -> Chunks:
        """What was logged after that id of the stream, in order, at most so many pieces."""
        async with answering():
            found = await self._redis.xrange(log_key(task_id), min=_behind(after), max="+", count=count)
        return [LogChunk(one, int(fields["fence"]), fields["text"]) for one, fields in found]

    async def tell_cancel(self, task_id: str) -> None:
        """Tell who holds the task that its end was asked for."""
        async with answering():
            await self._redis.publish(CANCELS, task_id)

    async def batch(self, tenant: str, batch: str) -> Fields:
        """The status of each of the batch's tasks, by id; empty where the tenant has no such batch."""
        await self._gate()
        async with answering():
            statuses: Fields = await self._redis.hgetall(batch_key(tenant, batch))
        await self._gate()
        return statuses

    # --- ids that are reserved

    async def reservation(self, task_id: str) -> Reservation | None:
        await self._gate()
        async with answering():
            found = await self._redis.get(_reservation_key(task_id))
        if found is not None:
            return _reserved(found)
        await self._gate()
        return None

    async def reserve(self, task_id: str, reservation: Reservation) -> Reservation:
        """Reserve it, unless it is; returns what it is reserved for now."""
        await self._gate()
        wanted = ":".join(str(one) for one in reservation)
        key = _reservation_key(task_id)
        async with answering():
            fresh = await self._redis.set(key, wanted, nx=True, ex=RESERVED_SECONDS)
            found = wanted if fresh else await self._redis.get(key)
        # A flush since the first look would have made it seem free. The rebuild writes whose it is.
        await self._gate()
        # One that ran out in between was nobody's task.
        return _reserved(found or wanted)

    # --- lists

    async def list(
        self,
        *,
        tenant: str = DEFAULT_TENANT,
        status: str | None = None,
        task_type: str | None = None,
        tag: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> tuple[Rows, str | None]:
        """Tasks, newest first, and the cursor of the next page. Raises `ValueError` for a bad cursor."""
        await self._gate()

        def wanted(fields: Fields) -> bool:
            return tenant_of(fields) == tenant and _matches(fields, status, task_type, tag)

        page = await self._page(_index(tenant, status, task_type, tag), wanted, cursor, limit)
        await self._gate()
        return page

    async def dead_letters(
        self,
        *,
        tenant: str = DEFAULT_TENANT,
        task_type: str | None = None,
        error_type: str | None = None,
        since: int | None = None,
        until: int | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> tuple[Rows, str | None]:
        """Tasks that have a dead letter, the newest first, as `list`; from `since` on and before `until`."""
        await self._gate()

        def wanted(fields: Fields) -> bool:
            return tenant_of(fields) == tenant and _failed_so(fields, task_type, error_type)

        page = await self._page(dead_letters_key(tenant), wanted, cursor, limit, *_bounds(since, until))
        await self._gate()
        return page

    async def dead_letter_ids(
        self,
        *,
        tenant: str = DEFAULT_TENANT,
        task_type: str | None = None,
        error_type: str | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> Ids:
        """All of them, the oldest first; none of which there is half a hash."""
        await self._gate()
        lowest, highest = _bounds(since, until)
        found: Ids = []
        async with answering():
            async for ids, _ in self._pages(dead_letters_key(tenant), None, lowest, highest):
                pipeline = self._redis.pipeline(transaction=False)
                for task_id, _ in ids:
                    pipeline.hmget(task_key(task_id), _OF_A_LETTER)
                for (task_id, _), values in zip(ids, await pipeline.execute(), strict=True):
                    there = zip(_OF_A_LETTER, values, strict=True)
                    fields = {name: value for name, value in there if value is not None}
                    whole = "taskType" in fields and tenant_of(fields) == tenant
                    if whole and _failed_so(fields, task_type, error_type):
                        found.append(task_id)
        await self._gate()
        return found[::-1]

    async def has_dead_letter(self, task_id: str) -> bool:
        await self._gate()
        async with answering():
            is_there = await self._redis.zscore(await self._dead_letters_of(task_id), task_id) is not None
        await self._gate()
        return is_there

    async def forget_dead_letter(self, task_id: str) -> None:
        """It is none any more: from here on it is kept like every task that has ended."""
        async with answering():
            index = await self._dead_letters_of(task_id)
            ended = await self._redis.zscore(index, task_id)
            if ended is not None:
                pipeline = self._redis.pipeline(transaction=True)
                pipeline.zrem(index, task_id)
                pipeline.zadd(ENDED, {task_id: ended})
                await pipeline.execute()

    async def _dead_letters_of(self, task_id: str) -> str:
        """The index that it would be in."""
        return dead_letters_key(await self._redis.hget(task_key(task_id), "tenant") or DEFAULT_TENANT)

    async def _page(
        self,
        index: str,
        wanted: Callable[[Fields], bool],
        cursor: str | None,
        limit: int,
        lowest: str = "-inf",
        highest: str = "+inf",
    ) -> tuple[Rows, str | None]:
        before = _decode_cursor(cursor) if cursor else None
        found: Rows = []
        seen = 0
        async with answering():
            async for ids, page_end in self._pages(index, before, lowest, highest):
                scores = dict(ids)
                for fields in await self._hashes([task_id for task_id, _ in ids]):
                    seen += 1
                    if wanted(fields):
                        found.append(fields)
                        if len(found) == limit:
                            return found, _encode_cursor(scores[fields["taskId"]], fields["taskId"])
                if seen >= _SCAN:
                    return found, _encode_cursor(*page_end)
        return found, None

    async def _pages(
        self, index: str, before: Place | None, lowest: str = "-inf", highest: str = "+inf"
    ) -> AsyncIterator[tuple[Scored, Place]]:
        """Pages of (id, score) after a place in the index, each with the place of its last entry."""
        while True:
            top = highest if before is None else str(before[0])
            skip = 0
            fresh: Scored = []
            # Within one millisecond ids go in reverse order: pass over those that were given already.
            while not fresh:
                page = await self._redis.zrevrangebyscore(
                    index, top, lowest, start=skip, num=_PAGE, withscores=True
                )
                if not page:
                    return
                skip += len(page)
                fresh = [(i, s) for i, s in page if before is None or (s, i) < before]
            before = (fresh[-1][1], fresh[-1][0])
            yield fresh, before

    async def _hashes(self, ids: Sequence[str]) -> Rows:
        pipeline = self._redis.pipeline(transaction=False)
        for task_id in ids:
            pipeline.hgetall(task_key(task_id))
        return [fields for fields in await pipeline.execute() if "taskType" in fields]


def task_key(task_id: str) -> str:
    return f"mayfly:task:{task_id}"


def log_key(task_id: str) -> str:
    return f"mayfly:log:{task_id}"


def batch_key(tenant: str, batch: str) -> str:
    return f"mayfly:batch{at_tenant(tenant)}:{batch}"


def dead_letters_key(tenant: str) -> str:
    return f"mayfly:dead-letters{at_tenant(tenant)}"


def marks_key(queue: str) -> str:
    return f"mayfly:positions:{queue}"


def _reservation_key(task_id: str) -> str:
    return f"mayfly:idempotency:{task_id}"


def _reserved(value: str) -> Reservation:
    request_sha256, partition, *queue = value.split(":")
    return Reservation(request_sha256, int(partition), queue[0] if queue else None)


def _behind(entry: str) -> str:
    """The first id of a stream that can come after that one; "" is before all."""
    if not entry:
        return "-"
    milliseconds, _, number = entry.partition("-")
    return f"{milliseconds}-{int(number) + 1}"


def at_tenant(tenant: str) -> str:
    return "" if tenant == DEFAULT_TENANT else f"@{tenant}"


def _index(tenant: str, status: str | None, task_type: str | None, tag: str | None) -> str:
    tasks = f"mayfly:tasks{at_tenant(tenant)}"
    if tag is not None:
        return f"{tasks}:tag:{tag}"
    if status is not None:
        return f"{tasks}:status:{status}"
    if task_type is not None:
        return f"{tasks}:type:{task_type}"
    return tasks


def _matches(fields: Fields, status: str | None, task_type: str | None, tag: str | None) -> bool:
    return (
        (status is None or fields.get("status") == status)
        and (task_type is None or fields.get("taskType") == task_type)
        and (tag is None or tag in json.loads(fields.get("tags", "[]")))
    )


def _failed_so(fields: Fields, task_type: str | None, error_type: str | None) -> bool:
    return task_type in (None, fields["taskType"]) and error_type in (None, fields.get("errorType"))


def _bounds(since: int | None, until: int | None) -> tuple[str, str]:
    """The lowest score and the highest, as Redis takes them: `until` is not among them."""
    return "-inf" if since is None else str(since), "+inf" if until is None else f"({until}"


def _encode_cursor(score: float, task_id: str) -> str:
    return base64.urlsafe_b64encode(f"{score:.0f}:{task_id}".encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> Place:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        score, task_id = text.split(":")
        # int, since float takes "nan", which Redis does not; cut, since a float holds no 400 digits.
        return float(int(score[:20])), task_id
    except ValueError:
        raise ValueError("the cursor is not one that a list gave") from None
