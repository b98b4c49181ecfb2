"""What Redis tells as it happens: a running task's log and progress, and each tenant's changes.

A tenant's changes are a stream (`mayfly:events`), written by the script that writes the task itself. Whoever
reads it goes on behind the entry that it read last, as long as that one is still there: then nothing behind
it was lost, since entries go from the front only. Where it is gone, some that came after it may be gone too.

So the last entry is never trimmed, whatever its age, and an empty stream gets an entry to begin with. What is
written anew after Redis has lost something is not told again: a `reset` at the end of it says that some
changes may be missing, which whoever follows learns, and lists the tasks anew.
"""

import json
from typing import Any, Final, NamedTuple

from mayfly.adapters.redis_connection import answering
from mayfly.adapters.redis_reads import CHANGES, TENANTS, Fields, Gate, at_tenant, log_key, task_key
from mayfly.task import DEFAULT_TENANT

LIVE_LOG_SECONDS: Final = 3600
LIVE_LOG_ENTRIES: Final = 2000

# KEYS: the task's hash. ARGV: fence, fraction, message, task id.
_PROGRESS: Final = """
local is = redis.call('HMGET', KEYS[1], 'status', 'fence')
if is[1] ~= 'IN_PROGRESS' or is[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'progress', ARGV[2], 'progressMessage', ARGV[3])
redis.call('PUBLISH', 'mayfly:changes', cjson.encode({taskId = ARGV[4], status = is[1]}))
return 1
"""

# KEYS: a tenant's stream.
_PLACE: Final = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return last and last[1] or redis.call('XADD', KEYS[1], '*', 'begin', '1')
"""

# KEYS: a tenant's stream. ARGV: the first id that is young enough.
_TRIM: Final = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then return 0 end
local function before(a, b)
  local am, an = string.match(a, '(%d+)-(%d+)')
  local bm, bn = string.match(b, '(%d+)-(%d+)')
  return tonumber(am) < tonumber(bm) or (am == bm and tonumber(an) < tonumber(bn))
end
return redis.call('XTRIM', KEYS[1], 'MINID', before(last[1], ARGV[1]) and last[1] or ARGV[1])
"""


class Told(NamedTuple):
    """An entry of a tenant's stream: a task's change; `reset` where some may be missing; or its `begin`."""

    id: str
    fields: Fields


Entries = list[Told]


class Live:
    """Every method raises `ReadModelUnavailable` when Redis does not do its part."""

    _redis: Any
    _gate: Gate

    async def progress(self, task_id: str, fence: int, fraction: float, message: str) -> None:
        """How far the attempt with that fence has come: 0 to 1."""
        async with answering():
            await self._redis.eval(
                _PROGRESS, 1, task_key(task_id), str(fence), f"{fraction:.4g}", message[:500], task_id
            )

    async def append_log(self, task_id: str, fence: int, text: str) -> None:
        """What a running attempt has written, for those who watch it: kept for an hour, and not for ever."""
        change = json.dumps({"taskId": task_id, "status": "IN_PROGRESS"})
        async with answering():
            pipeline = self._redis.pipeline(transaction=False)
            entry = {"fence": str(fence), "text": text}
            pipeline.xadd(log_key(task_id), entry, maxlen=LIVE_LOG_ENTRIES, approximate=True)
            pipeline.expire(log_key(task_id), LIVE_LOG_SECONDS)
            pipeline.publish(CHANGES, change)
            await pipeline.execute()

    # --- a tenant's changes

    async def events_place(self, tenant: str) -> str:
        """The id of the last entry: who lists tasks after asking for it, and then reads what came behind it,
        misses nothing."""
        # What is being written anew is not told: who came now would list too little, and not hear of it.
        await self._gate()
        async with answering():
            place: str = await self._redis.eval(_PLACE, 1, events_key(tenant))
            return place

    async def events(self, tenant: str, after: str, count: int) -> Entries | None:
        """What came behind that entry, in order, at most so many; None if it is there no more."""
        async with answering():
            found = await self._redis.xrange(events_key(tenant), min=after, max="+", count=count + 1)
        if not found or found[0][0] != after:
            return None
        return [Told(*one) for one in found[1:]]

    async def trim_events(self, before: int) -> None:
        """Take away what was told before then, milliseconds since 1970, but for each tenant's last."""
        async with answering():
            tenants = [DEFAULT_TENANT, *sorted(await self._redis.smembers(TENANTS))]
            for tenant in tenants:
                await self._redis.eval(_TRIM, 1, events_key(tenant), f"{before}-0")


def events_key(tenant: str) -> str:
    return f"mayfly:events{at_tenant(tenant)}"
