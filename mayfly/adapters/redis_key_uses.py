"""When API keys were used last, as gateways tell each other. A flush forgets it, and nobody else knows."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mayfly.adapters.redis_connection import answering

KEYS_USED: Final = "mayfly:keys:used"
Uses = dict[str, int]


class KeyUses:
    """Both raise `ReadModelUnavailable`. Times are milliseconds since 1970."""

    _redis: Any

    async def tell_keys_used(self, keys: Mapping[str, int]) -> None:
        """When each was used last; what another gateway has seen later than that stays."""
        if keys:
            async with answering():
                await self._redis.zadd(KEYS_USED, dict(keys), gt=True)

    async def keys_used(self, key_ids: Sequence[str]) -> Uses:
        """When each was used last, as far as that is known."""
        if not key_ids:
            return {}
        async with answering():
            scores = await self._redis.zmscore(KEYS_USED, list(key_ids))
        return {one: int(score) for one, score in zip(key_ids, scores, strict=True) if score is not None}
