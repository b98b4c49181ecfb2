"""The way to Redis: `redis://`, or `rediss://` with TLS, with a user of its ACL if the URL names one."""

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
    """What Redis raises, as `ReadModelUnavailable`."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise ReadModelUnavailable(f"Redis does not answer: {error}") from error
