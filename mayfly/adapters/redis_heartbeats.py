"""The dispatchers' heartbeats in Redis: signed, where gateways and dispatchers share a secret for that."""

import asyncio
import json
import logging
import time
from typing import Any, Final

from mayfly.adapters.redis_connection import answering
from mayfly.identity.signatures import Signatures
from mayfly.settings import Settings

log = logging.getLogger(__name__)

DISPATCHERS: Final = "mayfly:dispatchers"
Beats = list[dict[str, Any]]


class Heartbeats:
    """Every method raises `ReadModelUnavailable` when Redis does not do its part."""

    _redis: Any
    _signatures: "Watch | None"
    """None: whoever can write in Redis is believed."""

    async def beat(self, dispatcher_id: str, heartbeat: dict[str, Any], life_seconds: float) -> None:
        text = json.dumps(heartbeat)
        if self._signatures is not None:
            text = self._signatures.sign(dispatcher_id, text)
        async with answering():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.set(dispatcher_key(dispatcher_id), text, px=int(life_seconds * 1000))
            pipeline.sadd(DISPATCHERS, dispatcher_id)
            await pipeline.execute()

    async def leave(self, dispatcher_id: str) -> None:
        async with answering():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.delete(dispatcher_key(dispatcher_id))
            pipeline.srem(DISPATCHERS, dispatcher_id)
            await pipeline.execute()

    async def dispatchers(self) -> Beats:
        """The heartbeats of the dispatchers that are alive, by id; the ids of the dead are dropped."""
        if self._signatures is None:
            found = await self._found()
        else:
            # One look after the other: an older one that was judged later would seem to be replayed.
            async with self._signatures.looking:
                found = self._signatures.believed(await self._found())
        beats = (_heartbeat(one, text) for one, text in found.items())
        return [heartbeat for heartbeat in beats if heartbeat is not None]

    async def _found(self) -> dict[str, str]:
        async with answering():
            ids = sorted(await self._redis.smembers(DISPATCHERS))
            if not ids:
                return {}
            beats = await self._redis.mget([dispatcher_key(one) for one in ids])
            if gone := [one for one, beat in zip(ids, beats, strict=True) if beat is None]:
                await self._redis.srem(DISPATCHERS, *gone)
        return {one: beat for one, beat in zip(ids, beats, strict=True) if beat is not None}


class Watch:
    """The signatures, by this machine's clock, and what was last said of those that are refused."""

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures
        self._refused: dict[str, str] = {}
        self.looking = asyncio.Lock()

    def sign(self, dispatcher_id: str, text: str) -> str:
        return self._signatures.sign(dispatcher_id, text, _now())

    def believed(self, found: dict[str, str]) -> dict[str, str]:
        believed, refused = self._signatures.look(found, _now())
        for one, reason in refused.items():
            # Each is met twice a second.
            if one not in self._refused:
                log.warning("a heartbeat is refused", extra={"dispatcher": one[:100], "reason": reason})
        self._refused = refused
        return believed


def signatures_of(settings: Settings) -> Watch | None:
    if settings.heartbeat_key is None:
        return None
    secret = settings.heartbeat_key.get_secret_value().encode()
    return Watch(Signatures(secret, life=int(settings.heartbeat_life_seconds * 1000)))


def dispatcher_key(dispatcher_id: str) -> str:
    return f"mayfly:dispatcher:{dispatcher_id}"


def _heartbeat(dispatcher_id: str, text: str) -> dict[str, Any] | None:
    """None for what no dispatcher wrote: whoever is alive writes over it in a moment."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("id") != dispatcher_id:
        return None
    fences = found.get("fences")
    well = isinstance(fences, list) and all(isinstance(one, str) for one in fences)
    return found if well else None


def _now() -> int:
    return time.time_ns() // 1_000_000
