"""What a client of Redis does with those who stop waiting for it."""

import asyncio

import pytest
from redis.exceptions import RedisError

from mayfly.adapters.redis_connection import answering
from mayfly.errors import ReadModelUnavailable

DEADLINE_SECONDS = 30.0


@pytest.mark.parametrize("error", [None, RedisError("gone")])
async def test_who_is_cancelled_ends_although_the_client_forgets_it(error: RedisError | None) -> None:
    asked = asyncio.Event()

    async def forgets() -> None:
        asked.set()
        try:
            await asyncio.sleep(DEADLINE_SECONDS)
        except asyncio.CancelledError:
            if error is not None:
                raise error from None

    async def again_and_again() -> None:
        while True:
            async with answering():
                await forgets()

    asking = asyncio.create_task(again_and_again())
    await asked.wait()
    asking.cancel()
    await asyncio.wait({asking}, timeout=DEADLINE_SECONDS)
    assert asking.cancelled()


async def test_who_was_cancelled_before_can_still_clear_up() -> None:
    cleared = False

    async def clears_up() -> None:
        nonlocal cleared
        try:
            await asyncio.sleep(DEADLINE_SECONDS)
        finally:
            async with answering():
                await asyncio.sleep(0)
            cleared = True

    working = asyncio.create_task(clears_up())
    await asyncio.sleep(0)
    working.cancel()
    await asyncio.wait({working}, timeout=DEADLINE_SECONDS)
    assert cleared


async def test_what_the_client_raises_is_told_as_ours() -> None:
    with pytest.raises(ReadModelUnavailable, match="gone"):
        async with answering():
            raise RedisError("gone")
