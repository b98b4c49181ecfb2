"""What callers have used, in Redis: where gateways meet. It can be flushed at any moment: limits are then
counted anew."""

import uuid
from contextlib import suppress
from typing import Final

import msgspec
from redis.exceptions import RedisError

from mayfly.adapters.redis_connection import answering, connect
from mayfly.identity.usage import Count, Heard, Told
from mayfly.settings import Settings

PATIENCE_SECONDS: Final = 1.0

# ARGV: the gateway's id, and what it tells as JSON: draws [bucket, rate, size, spent], tallies [counter, day,
# own], tenants, whether everybody's tasks are asked for.
# A bucket may go below zero: what was taken from its copies is taken, and has to be waited for.
_EXCHANGE: Final = """
local gateway, told = ARGV[1], cjson.decode(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local tokens = {}
for i, draw in ipairs(told[1]) do
  local key, rate, size = 'mayfly:limit:rate:' .. draw[1], draw[2], draw[3]
  local was = redis.call('HMGET', key, 'tokens', 'at')
  local left = size
  if was[1] and was[2] then
    left = math.min(size, tonumber(was[1]) + math.max(0, now - tonumber(was[2])) * rate)
  end
  left = left - draw[4]
  tokens[i] = string.format('%.6f', left)
  redis.call('HSET', key, 'tokens', tokens[i], 'at', string.format('%.6f', now))
  redis.call('EXPIRE', key, string.format('%.0f', math.min(86400, math.ceil((size - left) / rate) + 1)))
end

local bytes = {}
for i, tally in ipairs(told[2]) do
  local key = 'mayfly:limit:bytes:' .. string.format('%.0f', tally[2]) .. ':' .. tally[1]
  redis.call('HSET', key, gateway, string.format('%.0f', tally[3]))
  redis.call('EXPIRE', key, 172800)
  local sum = 0
  for _, own in ipairs(redis.call('HVALS', key)) do sum = sum + tonumber(own) end
  bytes[i] = string.format('%.0f', sum)
end

local function waiting(tasks)
  local sum = 0
  for _, status in ipairs({'QUEUED', 'SCHEDULED', 'RETRYING'}) do
    sum = sum + redis.call('ZCARD', tasks .. ':status:' .. status)
  end
  return sum
end

local counts = {}
for i, tenant in ipairs(told[3]) do
  local tasks = tenant == 'default' and 'mayfly:tasks' or 'mayfly:tasks@' .. tenant
  counts[i] = {waiting(tasks), redis.call('ZCARD', tasks .. ':status:IN_PROGRESS')}
end

local all = -1
if told[4] then
  all = waiting('mayfly:tasks')
  for _, tenant in ipairs(redis.call('SMEMBERS', 'mayfly:tenants')) do
    all = all + waiting('mayfly:tasks@' .. tenant)
  end
end
return {tokens, bytes, counts, all}
"""


class Counts:
    """One gateway's. Each exchange is one round trip."""

    def __init__(self, settings: Settings) -> None:
        self._gateway = uuid.uuid4().hex[:12]
        self._redis = connect(
            settings,
            decode_responses=True,
            socket_connect_timeout=PATIENCE_SECONDS,
            socket_timeout=PATIENCE_SECONDS,
        )
        self._script = self._redis.register_script(_EXCHANGE)

    async def exchange(self, told: Told) -> Heard:
        """Raises `ReadModelUnavailable`."""
        async with answering():
            tokens, sums, counts, waiting = await self._script(
                args=[self._gateway, msgspec.json.encode(told)]
            )
        return Heard(
            {draw.bucket: float(left) for draw, left in zip(told.draws, tokens, strict=True)},
            {tally.counter: int(total) for tally, total in zip(told.tallies, sums, strict=True)},
            {tenant: Count(*count) for tenant, count in zip(told.tenants, counts, strict=True)},
            waiting if told.everybody else None,
        )

    async def close(self) -> None:
        with suppress(RedisError):
            await self._redis.aclose()
