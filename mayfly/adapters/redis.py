"""Redis: the read model and the dispatchers' heartbeats. It can be flushed at any moment.

What only reads is in `mayfly/adapters/redis_reads.py`, what is told as it happens in `redis_live.py`.

Every write that comes from the log carries its position and is made by a script that looks at what is
there: an older one changes nothing, and what is terminal stays terminal.
"""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec
from redis.exceptions import NoScriptError, RedisError

from mayfly.adapters.redis_connection import answering, connect, next_message
from mayfly.adapters.redis_heartbeats import Heartbeats, signatures_of
from mayfly.adapters.redis_key_uses import KeyUses
from mayfly.adapters.redis_live import Live
from mayfly.adapters.redis_reads import (
    CANCELS,
    ENDED,
    TENANTS,
    Gate,
    Reads,
    dead_letters_key,
    marks_key,
    task_key,
)
from mayfly.settings import Settings
from mayfly.task import DEFAULT_TENANT
from mayfly.view import Change, QueuedTask

__all__ = ["QueuedTask", "ReadModel", "task_key"]

BATCH: Final = 200
"""Commands and changes that are written at once: nothing else of Redis happens meanwhile."""
Replies = list[int]
Call = tuple[str, str | None, Sequence[str | bytes]]
"""A script, its key and its arguments."""

# ARGV: a JSON list of commands and changes, in order. One script and one argument for all of them: a call of
# its own for each, with each field an argument, took most of what a task cost its dispatcher and its gateway.
#   {"queued", id, createdAt in ms, partition, status if it has none, {field, value, ...}}
#   {"change", id, partition, offset, status or '', when it ended in ms or '', {fields that go},
#    {field, value, ...}, attempt or '', error type or ''}
# Then '1' if the tenant's stream of changes is not to have them.
_PROJECT: Final = """
local function indexes(tenant)
  -- Each tenant's lists are its own.
  if not tenant or tenant == 'default' then return 'mayfly:tasks', 'mayfly:dead-letters', 'mayfly:events' end
  return 'mayfly:tasks@' .. tenant, 'mayfly:dead-letters@' .. tenant, 'mayfly:events@' .. tenant
end

local function tell(events, id, status, kind, tags, attempt, failure)
  if ARGV[2] == '1' then return end
  -- About so many of each tenant: a quarter of a kilobyte each at most, but for long tags.
  redis.call('XADD', events, 'MAXLEN', '~', 50000, '*', 'taskId', id, 'taskType', kind, 'status', status,
    'tags', tags, 'attempt', attempt, 'errorType', failure)
end

local function batches(tenant)
  -- A batch's hash has the status of each of its tasks.
  if not tenant or tenant == 'default' then return 'mayfly:batch:' end
  return 'mayfly:batch@' .. tenant .. ':'
end

local function queued(id, created, partition, status, fields)
  local hash = 'mayfly:task:' .. id
  local given = {}
  for i = 1, #fields, 2 do given[fields[i]] = fields[i + 1] end
  local tags, kind, queue = given.tags or '[]', given.taskType or '', given.queue or ''
  local request, tenant, batch = given.requestSha256, given.tenant, given.batch
  local tasks, dead, events = indexes(tenant)
  local is = redis.call('HMGET', hash, 'command', 'status', 'tenant', 'taskType', 'tags', 'batch')
  local theirs, theirs_dead = indexes(is[3])
  -- Its gateway or its owner was here: all of this was written then, at once. A rebuild makes sure.
  if is[1] == given.command and tasks == theirs and ARGV[2] ~= '1' then return end
  if is[1] then
    -- A second command of a task says nothing new: the first one is the one that was accepted, whosever the
    -- second is.
    local was = redis.call('ZSCORE', theirs, id)
    if was and tonumber(was) < tonumber(created) then return end
  end
  if is[2] and tasks ~= theirs then
    -- What was told of it before its command was told of nobody's task; and nobody keeps what is another's.
    redis.call('ZREM', theirs, id)
    redis.call('ZREM', theirs .. ':status:' .. (is[2] or ''), id)
    redis.call('ZREM', theirs .. ':type:' .. (is[4] or ''), id)
    for _, tag in ipairs(is[5] and cjson.decode(is[5]) or {}) do
      redis.call('ZREM', theirs .. ':tag:' .. tag, id)
    end
    local failed = redis.call('ZSCORE', theirs_dead, id)
    if failed then
      redis.call('ZREM', theirs_dead, id)
      redis.call('ZADD', dead, failed, id)
    end
    if is[6] then redis.call('HDEL', batches(is[3]) .. is[6], id) end
    redis.call('HDEL', hash, 'tenant', 'batch')
  end
  if tenant then redis.call('SADD', 'mayfly:tenants', tenant) end
  if request then
    redis.call('SET', 'mayfly:idempotency:' .. id, request .. ':' .. partition .. ':' .. queue)
  end
  if not is[2] then
    fields[#fields + 1] = 'status'
    fields[#fields + 1] = status
  end
  redis.call('HSET', hash, unpack(fields))
  redis.call('ZADD', tasks, created, id)
  redis.call('ZADD', tasks .. ':type:' .. kind, created, id)
  if tags ~= '[]' then
    for _, tag in ipairs(cjson.decode(tags)) do redis.call('ZADD', tasks .. ':tag:' .. tag, created, id) end
  end
  if not is[2] then
    redis.call('PUBLISH', 'mayfly:changes', cjson.encode({taskId = id, status = status}))
  end
  redis.call('ZADD', tasks .. ':status:' .. (is[2] or status), created, id)
  if batch then redis.call('HSET', batches(tenant) .. batch, id, is[2] or status) end
  if not is[1] or tasks ~= theirs then tell(events, id, is[2] or status, kind, tags, '', '') end
end

local function change(id, partition, offset, status, ended, removed, fields, attempt, failure)
  local hash = 'mayfly:task:' .. id
  local was = redis.call('HMGET', hash, 'position', 'status', 'tenant', 'taskType', 'tags', 'batch')
  if was[1] and tonumber(string.match(was[1], ':(%-?%d+)$')) >= tonumber(offset) then return end
  if was[2] == 'COMPLETED' or was[2] == 'FAILED' or was[2] == 'CANCELLED' then return end
  local tasks, dead, events = indexes(was[3])
  if #removed > 0 then redis.call('HDEL', hash, unpack(removed)) end
  if status == '' then status = was[2] or 'QUEUED' end
  local position = partition .. ':' .. offset
  redis.call('HSET', hash, 'taskId', id, 'position', position, 'status', status, unpack(fields))
  if ended ~= '' then
    local kept = status == 'FAILED' and dead or 'mayfly:tasks:ended'
    redis.call('ZADD', kept, ended, id)
    redis.call('EXPIRE', 'mayfly:log:' .. id, 60)
  end
  if was[2] then redis.call('ZREM', tasks .. ':status:' .. was[2], id) end
  local created = redis.call('ZSCORE', tasks, id) or 0
  redis.call('ZADD', tasks .. ':status:' .. status, created, id)
  if was[6] then redis.call('HSET', batches(was[3]) .. was[6], id, status) end
  redis.call('PUBLISH', 'mayfly:changes', cjson.encode({taskId = id, status = status}))
  -- Of half a task nobody knows whose it is: it is told with its command.
  if was[4] then tell(events, id, status, was[4], was[5] or '[]', attempt, failure) end
end

local told = {queued = queued, change = change}
for _, entry in ipairs(cjson.decode(ARGV[1])) do told[entry[1]](unpack(entry, 2)) end
"""

# KEYS: the queue's marks. ARGV: partition, the mark that should be there, the one to put there.
_MARK: Final = """
local is = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if is ~= ARGV[2] and is ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

# KEYS: the queue's marks, its tokens. ARGV: partition, the token that should be there, the mark to put there.
_REBUILT: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[3] then return 1 end
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
-- What was written anew was not told as changes, and some of it may be news.
local streams = {'mayfly:events'}
for _, tenant in ipairs(redis.call('SMEMBERS', 'mayfly:tenants')) do
  table.insert(streams, 'mayfly:events@' .. tenant)
end
for _, stream in ipairs(streams) do redis.call('XADD', stream, '*', 'reset', '1') end
return 1
"""

# KEYS: the task's hash. ARGV: id.
_REMOVE: Final = """
local id = ARGV[1]
local is = redis.call('HMGET', KEYS[1], 'status', 'taskType', 'tags', 'tenant', 'batch')
local at = is[4] and '@' .. is[4] or ''
local tasks, dead = 'mayfly:tasks' .. at, 'mayfly:dead-letters' .. at
local open = is[1] and is[1] ~= 'COMPLETED' and is[1] ~= 'FAILED' and is[1] ~= 'CANCELLED'
if redis.call('ZREM', 'mayfly:tasks:ended', id) + redis.call('ZREM', dead, id) == 0 then
  -- Its hash, by which it would be found, is gone or another one: a sweep would meet the letter for ever.
  redis.call('ZREM', 'mayfly:dead-letters', id)
  for _, tenant in ipairs(redis.call('SMEMBERS', 'mayfly:tenants')) do
    redis.call('ZREM', 'mayfly:dead-letters@' .. tenant, id)
  end
end
-- Another sweep was faster, and its key was used anew since.
if open then return 0 end
for _, index in ipairs({tasks, tasks .. ':status:' .. (is[1] or ''), tasks .. ':type:' .. (is[2] or '')}) do
  redis.call('ZREM', index, id)
end
for _, tag in ipairs(is[3] and cjson.decode(is[3]) or {}) do
  redis.call('ZREM', tasks .. ':tag:' .. tag, id)
end
if is[5] then redis.call('HDEL', 'mayfly:batch' .. at .. ':' .. is[5], id) end
redis.call('DEL', KEYS[1], 'mayfly:idempotency:' .. id, 'mayfly:log:' .. id)
return 1
"""


class Ended(NamedTuple):
    """A task that is to be removed, with the keys of its objects in S3."""

    task_id: str
    keys: tuple[str, ...]
    dead_letter: bool


async def _open() -> None:
    """Whoever writes the read model looks at what there is."""


class ReadModel(Reads, Heartbeats, KeyUses, Live):
    """Every method raises `ReadModelUnavailable` when Redis does not do its part."""

    def __init__(self, settings: Settings) -> None:
        """Raises `SettingsError`."""
        self._gate = _open
        # Its types say that every answer may be bytes; `decode_responses` says that none is.
        self._redis: Any = connect(
            settings,
            decode_responses=True,
            # Anybody may write there what is no text.
            encoding_errors="replace",
            socket_connect_timeout=2,
            socket_timeout=5,
            health_check_interval=15,
        )
        self._signatures = signatures_of(settings)
        self._shas: dict[str, str] = {}

    def guard(self, gate: Gate) -> None:
        """From here on `gate` is asked before tasks are looked up."""
        self._gate = gate

    async def close(self) -> None:
        with suppress(RedisError):
            await self._redis.aclose()

    async def ping(self) -> None:
        async with answering():
            await self._redis.ping()

    # --- writing from the log

    async def queued(self, *tasks: QueuedTask) -> None:
        """Commands were accepted: their facts, and QUEUED for each that nothing is known of yet."""
        await self.project(tasks, [])

    async def project(
        self, commands: Iterable[QueuedTask], changes: Iterable[Change], *, quiet: bool = False
    ) -> None:
        """Write commands and changes, in order. What is older than what is there changes nothing.

        `quiet` is for what is written anew: those who follow a tenant's changes have heard of it.
        """
        entries: list[tuple[Any, ...]] = [
            (
                "queued",
                task.task_id,
                str(task.created_at),
                str(task.partition),
                task.status,
                _flat(task.fields()),
            )
            for task in commands
        ]
        entries += (
            (
                "change",
                change.task_id,
                str(change.partition),
                str(change.offset),
                change.status or "",
                str(change.ended_at or ""),
                change.removed,
                _flat(change.fields),
                change.fields.get("attempt", ""),
                change.fields.get("errorType", ""),
            )
            for change in changes
        )
        async with answering():
            for at in range(0, len(entries), BATCH):
                batch = msgspec.json.encode(entries[at : at + BATCH])
                await self._evaluate([(_PROJECT, None, [batch, "1" if quiet else ""])])

    async def mark(self, queue: str, partition: int, before: str, after: str) -> bool:
        """Replace a partition's mark; False if another one is there than `before`."""
        async with answering():
            replies = await self._evaluate([(_MARK, marks_key(queue), [str(partition), before, after])])
        return bool(replies[0])

    async def begin_rebuild(self, queue: str, partition: int, token: str) -> None:
        """From here on, what is read of the queue is known to be incomplete. The token tells, at the end,
        whether nothing was lost in between."""
        async with answering():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hdel(marks_key(queue), str(partition))
            pipeline.hset(_tokens_key(queue), str(partition), token)
            await pipeline.execute()

    async def end_rebuild(self, queue: str, partition: int, token: str, mark: str) -> bool:
        """Mark the partition; False if the token is there no more."""
        keys = marks_key(queue), _tokens_key(queue)
        async with answering():
            return bool(await self._redis.eval(_REBUILT, 2, *keys, str(partition), token, mark))

    async def unmark_all(self, queue: str) -> None:
        """Have the queue's owners tell everything anew."""
        async with answering():
            await self._redis.delete(marks_key(queue))

    async def marks(self, queue: str) -> dict[int, str]:
        """The marks of the queue's partitions: see `dispatcher.projector`."""
        async with answering():
            found = await self._redis.hgetall(marks_key(queue))
        return {int(partition): mark for partition, mark in found.items()}

    async def not_dead(self, task_ids: Iterable[str]) -> None:
        """These failed, and are no dead letters any more: purged, or driven again."""
        for task_id in task_ids:
            await self.forget_dead_letter(task_id)

    # --- housekeeping

    async def ended_before(self, at: int, dead_before: int, most: int) -> list[Ended]:
        """Tasks of every tenant that ended before `at`, and dead letters from before `dead_before`, at most
        so many together; milliseconds since 1970."""
        found: list[Ended] = []
        async with answering():
            tenants = [DEFAULT_TENANT, *sorted(await self._redis.smembers(TENANTS))]
            letters = [(dead_letters_key(tenant), dead_before) for tenant in tenants]
            for index, before in ((ENDED, at), *letters):
                left = most - len(found)
                if not left:
                    break
                ids = await self._redis.zrangebyscore(index, "-inf", f"({before}", start=0, num=left)
                pipeline = self._redis.pipeline(transaction=False)
                for task_id in ids:
                    pipeline.hgetall(task_key(task_id))
                for task_id, fields in zip(ids, await pipeline.execute(), strict=True):
                    found.append(Ended(task_id, _object_keys(task_id, fields), index != ENDED))
        return found

    async def remove(self, task_ids: Iterable[str]) -> None:
        """Take all away that there is of these tasks."""
        async with answering():
            await self._evaluate([(_REMOVE, task_key(task_id), [task_id]) for task_id in task_ids])

    async def _evaluate(self, calls: Sequence[Call]) -> Replies:
        if not calls:
            return []
        try:
            return await self._run(calls)
        except NoScriptError:
            # Redis restarted. The scripts may have run in part; running them again changes nothing.
            self._shas.clear()
            return await self._run(calls)

    async def _run(self, calls: Sequence[Call]) -> Replies:
        for script in {call[0] for call in calls}:
            if script not in self._shas:
                self._shas[script] = await self._redis.script_load(script)
        if len(calls) == 1:
            # As a pipeline of one it would cost a third more.
            return [await self._call(self._redis, calls[0])]
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            self._call(pipeline, call)
        replies: Replies = await pipeline.execute()
        return replies

    def _call(self, client: Any, call: Call) -> Any:
        script, key, arguments = call
        keys = () if key is None else (key,)
        return client.evalsha(self._shas[script], len(keys), *keys, *arguments)

    async def known(self, task_id: str) -> tuple[str | None, str | None]:
        """A task's status, and the fence of its last claim that was shown; None where there is none."""
        async with answering():
            status, fence = await self._redis.hmget(task_key(task_id), "status", "fence")
        return status, fence

    async def cancels(self) -> AsyncIterator[str]:
        """Ids of tasks whose end is asked for, as it is told. The log decides, and tells the owner too."""
        async with answering(), self._redis.pubsub() as subscription:
            await subscription.subscribe(CANCELS)
            while True:
                message = await next_message(subscription)
                if message and message["type"] == "message":
                    yield message["data"]


def _object_keys(task_id: str, fields: dict[str, str]) -> tuple[str, ...]:
    attempts = json.loads(fields.get("attempts", "[]"))
    keys = {f"payloads/{task_id}", fields.get("resultKey"), fields.get("logKey")}
    keys.update(attempt.get("logKey") for attempt in attempts)
    return tuple(sorted(key for key in keys if key))


def _tokens_key(queue: str) -> str:
    return f"mayfly:rebuilding:{queue}"


def _flat(fields: dict[str, str]) -> list[str]:
    return [*chain.from_iterable(fields.items())]
