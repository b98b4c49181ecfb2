"""What the audit reads of Redis and S3."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from mayfly.adapters.redis import task_key
from mayfly.adapters.redis_connection import connect
from mayfly.adapters.s3 import Blobs
from mayfly.audit.checks import FIELDS, Hash
from mayfly.errors import BlobNotFound, ReadModelUnavailable
from mayfly.settings import Settings
from mayfly.task import BlobRef

PAGE: Final = 1000
Seen = list[tuple[str, Hash | None]]


class Hashes:
    """The tasks' hashes in Redis. Raises `ReadModelUnavailable`, each method."""

    def __init__(self, settings: Settings) -> None:
        self._redis: Any = connect(
            settings, decode_responses=True, socket_connect_timeout=5, socket_timeout=20
        )

    async def close(self) -> None:
        await self._redis.aclose()

    async def all(self) -> AsyncIterator[Seen]:
        """Every task that Redis has, some at a time, and one or another of them twice."""
        prefix, cursor = task_key(""), 0
        while True:
            try:
                cursor, keys = await self._redis.scan(cursor, match=f"{prefix}*", count=PAGE)
            except (RedisError, OSError) as error:
                raise ReadModelUnavailable(f"Redis does not answer: {error}") from error
            yield await self.of([key.removeprefix(prefix) for key in keys])
            if not cursor:
                return

    async def of(self, ids: Sequence[str]) -> Seen:
        """Those tasks, None for each that Redis does not have."""
        found: Seen = []
        for start in range(0, len(ids), PAGE):
            some = ids[start : start + PAGE]
            pipeline = self._redis.pipeline(transaction=False)
            for task_id in some:
                pipeline.hmget(task_key(task_id), FIELDS)
            try:
                answers = await pipeline.execute()
            except (RedisError, OSError) as error:
                raise ReadModelUnavailable(f"Redis does not answer: {error}") from error
            for task_id, values in zip(some, answers, strict=True):
                seen = Hash(*(value or "" for value in values)) if any(values) else None
                found.append((task_id, seen))
        return found


class Objects:
    """The objects in S3, read whole: that one is there says nothing of its bytes."""

    AT_ONCE: Final = 16

    def __init__(self, settings: Settings) -> None:
        self._blobs = Blobs(settings)

    async def of(self, keys: Iterable[str]) -> dict[str, BlobRef | None]:
        """What is stored under each key, None where nothing is. Raises `BlobsUnavailable`."""
        waiting, found = iter(keys), dict[str, BlobRef | None]()

        async def read() -> None:
            for key in waiting:
                found[key] = await self._read(key)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.AT_ONCE):
                    group.create_task(read())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return found

    async def _read(self, key: str) -> BlobRef | None:
        digest, size = hashlib.sha256(), 0
        try:
            _, chunks = await self._blobs.open(key)
        except BlobNotFound:
            return None
        async for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
        return BlobRef(key, size, digest.hexdigest())
