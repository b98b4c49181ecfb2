"""The way to Redis: `redis://`, or `rediss://` with TLS, with a user of its ACL if the URL names one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from mayfly.errors import ReadModelUnavailable, SettingsError
from mayfly.settings import Settings


def connect(settings: Settings, **options: Any) -> Any:
    """A client, which connects when it is first used. Raises `SettingsError`, which says nothing of the URL:
    a password is in it."""
    url = settings.redis.get_secret_value()
    if url.startswith("rediss://") and settings.redis_ca_file is not None:
        options["ssl_ca_certs"] = str(settings.redis_ca_file)
    try:
        return Redis.from_url(url, **options)
    except ValueError:
        raise SettingsError(
            "MAYFLY_REDIS is no URL of a Redis: rediss://user:password@host:port/0 is one, with %2F and the "
            "like for what is special in a password"
        ) from None


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """What Redis raises, as `ReadModelUnavailable`. Around each call, so that a cancellation ends it."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except (RedisError, OSError) as error:
        _go_on_if_not_cancelled(task, before)
        raise ReadModelUnavailable(f"Redis does not answer: {error}") from error
    _go_on_if_not_cancelled(task, before)


def _go_on_if_not_cancelled(task: asyncio.Task[Any] | None, before: int) -> None:
    # The client sends by `asyncio.wait_for`, which before Python 3.12 forgets that it was cancelled when it
    # comes to its end in that moment: whoever stops would wait for ever for one that asks again and again.
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


async def next_message(subscription: Any) -> dict[str, Any] | None:
    """What is told next, or None where nothing was for ten seconds. Raises `ReadModelUnavailable`."""
    async with answering():
        message: dict[str, Any] | None = await subscription.get_message(timeout=10)
        if message is None:
            await subscription.ping()
        return message
