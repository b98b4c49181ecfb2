"""Redis: the read model and the dispatchers' heartbeats. It can be flushed at any moment.

Every write that comes from the log carries its position and is made by a script that looks at what is
there: an older one changes nothing, and what is terminal stays terminal.
"""

import base64
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from mayfly.errors import ReadModelUnavailable
from mayfly.settings import Settings
from mayfly.view import Change, QueuedTask

__all__ = ["QueuedTask", "ReadModel"]

CHANGES: Final = "mayfly:changes"
_TASKS: Final = "mayfly:tasks"
_DISPATCHERS: Final = "mayfly:dispatchers"
Rows = list[dict[str, str]]
Replies = list[int]
Heartbeats = list[dict[str, Any]]
Scored = list[tuple[str, float]]

_PAGE: Final = 200
_SCAN: Final = 10_000
"""Ids that one page of a list looks at: a rare combination of filters gets a short page and a cursor."""

# KEYS: the task's hash. ARGV: id, createdAt in ms, field, value, ...
_QUEUED: Final = """
local id, created = ARGV[1], ARGV[2]
local fields, tags, kind = {}, {}, ''
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
for i = 1, #fields, 2 do
  if fields[i] == 'tags' then tags = cjson.decode(fields[i + 1]) end
  if fields[i] == 'taskType' then kind = fields[i + 1] end
end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('ZADD', 'mayfly:tasks', created, id)
redis.call('ZADD', 'mayfly:tasks:type:' .. kind, created, id)
for _, tag in ipairs(tags) do redis.call('ZADD', 'mayfly:tasks:tag:' .. tag, created, id) end
local status = redis.call('HGET', KEYS[1], 'status')
if not status then
  status = 'QUEUED'
  redis.call('HSET', KEYS[1], 'status', status)
  redis.call('PUBLISH', 'mayfly:changes', cjson.encode({taskId = id, status = status}))
end
redis.call('ZADD', 'mayfly:tasks:status:' .. status, created, id)
"""

# KEYS: the task's hash. ARGV: id, partition, offset, status, field, value, ...
_CHANGE: Final = """
local id, partition, offset, status = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local was = redis.call('HMGET', KEYS[1], 'position', 'status')
if was[1] and tonumber(string.match(was[1], ':(%-?%d+)$')) >= offset then return 0 end
if was[2] == 'COMPLETED' or was[2] == 'FAILED' or was[2] == 'CANCELLED' then return 0 end
local fields = {}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HDEL', KEYS[1], 'progress', 'progressMessage')
redis.call('HSET', KEYS[1], 'taskId', id, 'position', partition .. ':' .. ARGV[3], 'status', status,
           unpack(fields))
if was[2] then redis.call('ZREM', 'mayfly:tasks:status:' .. was[2], id) end
local created = redis.call('ZSCORE', 'mayfly:tasks', id) or 0
redis.call('ZADD', 'mayfly:tasks:status:' .. status, created, id)
redis.call('PUBLISH', 'mayfly:changes', cjson.encode({taskId = id, status = status}))
return 1
"""

# KEYS: the queue's positions. ARGV: partition, the checkpoint that should be there, the one to put there.
_ADVANCE: Final = """
local is = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if is ~= ARGV[2] and is ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

# KEYS: the task's hash. ARGV: fence, fraction, message.
_PROGRESS: Final = """
local is = redis.call('HMGET', KEYS[1], 'status', 'fence')
if is[1] ~= 'IN_PROGRESS' or is[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'progress', ARGV[2], 'progressMessage', ARGV[3])
return 1
"""


class ReadModel:
    """Every method raises `ReadModelUnavailable` when Redis does not do its part."""

    def __init__(self, settings: Settings) -> None:
        # Its types say that every answer may be bytes; `decode_responses` says that none is.
        self._redis: Any = Redis.from_url(
            settings.redis.get_secret_value(),
            decode_responses=True,
            socket_connect_timeout=2,
            socket_timeout=5,
            health_check_interval=15,
        )
        self._shas: dict[str, str] = {}

    async def close(self) -> None:
        with suppress(RedisError):
            await self._redis.aclose()

    async def ping(self) -> None:
        async with _reading():
            await self._redis.ping()

    # --- writing from the log

    async def queued(self, *tasks: QueuedTask) -> None:
        """Commands were accepted: their facts, and QUEUED for each that nothing is known of yet."""
        await self.project(tasks, [], queue="", checkpoints={})

    async def project(
        self,
        commands: Iterable[QueuedTask],
        changes: Iterable[Change],
        *,
        queue: str,
        checkpoints: dict[int, tuple[str, str]],
    ) -> Replies:
        """Write commands and changes, in order, and each partition's checkpoint: (the one before, this one).

        Returns the partitions where another checkpoint was found than the one before: Redis was flushed,
        came back older, or is being written by another owner.
        """
        async with _reading():
            replies = await self._evaluate(commands, changes, queue, checkpoints)
        return [partition for partition, reply in zip(checkpoints, replies, strict=True) if not reply]

    async def _evaluate(
        self,
        commands: Iterable[QueuedTask],
        changes: Iterable[Change],
        queue: str,
        checkpoints: dict[int, tuple[str, str]],
    ) -> Replies:
        calls: list[tuple[str, str, list[str]]] = []
        for task in commands:
            arguments = [task.task_id, str(task.created_at), *_flat(task.fields())]
            calls.append((_QUEUED, task_key(task.task_id), arguments))
        for change in changes:
            arguments = [
                change.task_id,
                str(change.partition),
                str(change.offset),
                change.status.value,
                *_flat(change.fields),
            ]
            calls.append((_CHANGE, task_key(change.task_id), arguments))
        for partition, (before, after) in checkpoints.items():
            calls.append((_ADVANCE, _positions_key(queue), [str(partition), before, after]))
        try:
            replies = await self._run(calls)
        except NoScriptError:
            # Redis restarted. The scripts may have run in part; running them again changes nothing.
            self._shas.clear()
            replies = await self._run(calls)
        return replies[len(replies) - len(checkpoints) :]

    async def _run(self, calls: Sequence[tuple[str, str, list[str]]]) -> Replies:
        for script in {call[0] for call in calls}:
            if script not in self._shas:
                self._shas[script] = await self._redis.script_load(script)
        pipeline = self._redis.pipeline(transaction=False)
        for script, key, arguments in calls:
            pipeline.evalsha(self._shas[script], 1, key, *arguments)
        replies: Replies = await pipeline.execute()
        return replies

    async def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None:
        """How far the attempt with that fence has come: 0 to 1."""
        async with _reading():
            await self._redis.eval(
                _PROGRESS, 1, task_key(task_id), str(fence), f"{fraction:.4g}", message[:500]
            )

    async def checkpoints(self, queue: str) -> dict[int, str]:
        """The checkpoint that each partition of the queue was projected to."""
        async with _reading():
            found = await self._redis.hgetall(_positions_key(queue))
        return {int(partition): checkpoint for partition, checkpoint in found.items()}

    # --- reading

    async def get(self, task_id: str) -> dict[str, str] | None:
        async with _reading():
            fields = await self._redis.hgetall(task_key(task_id))
        # A hash without its command's facts is half of a task: it is there as soon as they are.
        return fields if "taskType" in fields else None

    async def list(
        self,
        *,
        status: str | None = None,
        task_type: str | None = None,
        tag: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> tuple[Rows, str | None]:
        """Tasks, newest first, and the cursor of the next page. Raises `ValueError` for a bad cursor."""
        before = _decode_cursor(cursor) if cursor else None
        found: Rows = []
        seen = 0
        async with _reading():
            async for ids, page_end in self._pages(_index(status, task_type, tag), before):
                for fields in await self._hashes([task_id for task_id, _ in ids]):
                    seen += 1
                    if _matches(fields, status, task_type, tag):
                        found.append(fields)
                        if len(found) == limit:
                            score = next(s for i, s in ids if i == fields["taskId"])
                            return found, _encode_cursor(score, fields["taskId"])
                if seen >= _SCAN:
                    return found, _encode_cursor(*page_end)
        return found, None

    async def _pages(
        self, index: str, before: tuple[float, str] | None
    ) -> AsyncIterator[tuple[Scored, tuple[float, str]]]:
        """Pages of (id, score) after a place in the index, each with the place of its last entry."""
        while True:
            top = "+inf" if before is None else str(before[0])
            skip = 0
            fresh: Scored = []
            # Within one millisecond ids go in reverse order: pass over those that were given already.
            while not fresh:
                page = await self._redis.zrevrangebyscore(
                    index, top, "-inf", start=skip, num=_PAGE, withscores=True
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

    async def changes(self) -> AsyncIterator[tuple[str, str]]:
        """(task id, status) as they are projected. What happens while it is not subscribed is not told."""
        async with _reading(), self._redis.pubsub() as subscription:
            await subscription.subscribe(CHANGES)
            while True:
                message = await subscription.get_message(timeout=10)
                if message is None:
                    await subscription.ping()
                elif message["type"] == "subscribe":
                    yield "", ""
                elif message["type"] == "message":
                    change = json.loads(message["data"])
                    yield change["taskId"], change["status"]

    # --- heartbeats

    async def beat(self, dispatcher_id: str, heartbeat: dict[str, Any], life_seconds: float) -> None:
        async with _reading():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.set(_dispatcher_key(dispatcher_id), json.dumps(heartbeat), px=int(life_seconds * 1000))
            pipeline.sadd(_DISPATCHERS, dispatcher_id)
            await pipeline.execute()

    async def leave(self, dispatcher_id: str) -> None:
        async with _reading():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.delete(_dispatcher_key(dispatcher_id))
            pipeline.srem(_DISPATCHERS, dispatcher_id)
            await pipeline.execute()

    async def dispatchers(self) -> Heartbeats:
        """The heartbeats of the dispatchers that are alive, by id; the ids of the dead are dropped."""
        async with _reading():
            ids = sorted(await self._redis.smembers(_DISPATCHERS))
            if not ids:
                return []
            beats = await self._redis.mget([_dispatcher_key(one) for one in ids])
            if gone := [one for one, beat in zip(ids, beats, strict=True) if beat is None]:
                await self._redis.srem(_DISPATCHERS, *gone)
        return [json.loads(beat) for beat in beats if beat is not None]


def task_key(task_id: str) -> str:
    return f"mayfly:task:{task_id}"


def _dispatcher_key(dispatcher_id: str) -> str:
    return f"mayfly:dispatcher:{dispatcher_id}"


def _positions_key(queue: str) -> str:
    return f"mayfly:positions:{queue}"


def _index(status: str | None, task_type: str | None, tag: str | None) -> str:
    if tag is not None:
        return f"{_TASKS}:tag:{tag}"
    if status is not None:
        return f"{_TASKS}:status:{status}"
    if task_type is not None:
        return f"{_TASKS}:type:{task_type}"
    return _TASKS


def _matches(fields: dict[str, str], status: str | None, task_type: str | None, tag: str | None) -> bool:
    return (
        (status is None or fields.get("status") == status)
        and (task_type is None or fields.get("taskType") == task_type)
        and (tag is None or tag in json.loads(fields.get("tags", "[]")))
    )


def _encode_cursor(score: float, task_id: str) -> str:
    return base64.urlsafe_b64encode(f"{score:.0f}:{task_id}".encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[float, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        score, task_id = text.split(":")
        # int, since float takes "nan", which Redis does not; cut, since a float holds no 400 digits.
        return float(int(score[:20])), task_id
    except ValueError:
        raise ValueError("the cursor is not one that a list gave") from None


def _flat(fields: dict[str, str]) -> list[str]:
    return [text for pair in fields.items() for text in pair]


@asynccontextmanager
async def _reading() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise ReadModelUnavailable(f"Redis does not answer: {error}") from error
