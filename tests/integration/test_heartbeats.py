"""Signed heartbeats on a real Redis: who can write there is no dispatcher yet."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from dispatcher.liveness import Liveness
from mayfly.adapters import redis_heartbeats
from mayfly.adapters.redis import ReadModel
from mayfly.settings import Settings
from mayfly.steps import Claim, Held

DATABASE = "/11"
"""Of the session's Redis, and of these tests alone."""
KEY = SecretStr("of thirty-two bytes, or a few more")
ANOTHER = SecretStr("another one, that has thirty-two bytes")
BEAT = {"id": "a", "fences": ["3:7"]}
LIFE = 600.0
Make = Callable[..., ReadModel]


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Any]:
    parts = urlsplit(settings.redis.get_secret_value())
    url = urlunsplit(parts._replace(path=DATABASE))
    async with Redis.from_url(url, decode_responses=True) as redis:
        await redis.flushdb()
        redis.url = url  # type: ignore[attr-defined]
        yield redis


@pytest.fixture
async def make(settings: Settings, redis: Any) -> AsyncIterator[Make]:
    """Makes read models, with the key or another one or none."""
    made: list[ReadModel] = []

    def one(key: SecretStr | None = KEY) -> ReadModel:
        update = {"redis": SecretStr(redis.url), "heartbeat_key": key, "heartbeat_life_seconds": LIFE}
        made.append(ReadModel(settings.model_copy(update=update)))
        return made[-1]

    yield one
    for model in made:
        await model.close()


async def test_a_signed_heartbeat_is_seen_by_who_has_the_key(make: Make, redis: Any) -> None:
    await make().beat("a", BEAT, LIFE)
    assert await make().dispatchers() == [BEAT]
    standing = json.loads(await redis.get("mayfly:dispatcher:a"))
    assert standing.keys() == {"heartbeat", "timestamp", "nonce", "signature"}
    assert json.loads(standing["heartbeat"]) == BEAT


@pytest.mark.parametrize("key", [None, ANOTHER])
async def test_one_that_is_not_signed_or_forged_is_not_seen_and_said_once(
    make: Make, key: SecretStr | None, caplog: pytest.LogCaptureFixture
) -> None:
    reader = make()
    await make().beat("a", BEAT, LIFE)
    await make(key).beat("b", BEAT | {"id": "b"}, LIFE)
    for _ in range(3):
        assert await reader.dispatchers() == [BEAT]
    [said] = [record for record in caplog.records if record.message == "a heartbeat is refused"]
    assert said.dispatcher == "b"  # type: ignore[attr-defined]


async def test_one_that_is_older_than_its_life_is_not_seen(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, now = make(), redis_heartbeats._now()
    await make().beat("a", BEAT, LIFE)
    monkeypatch.setattr(redis_heartbeats, "_now", lambda: now + int(LIFE * 1000) + 60_000)
    assert await reader.dispatchers() == []


async def test_a_copy_of_one_brings_nobody_back(make: Make, redis: Any) -> None:
    writer, reader = make(), make()
    await writer.beat("a", BEAT, LIFE)
    copy = await redis.get("mayfly:dispatcher:a")
    assert await reader.dispatchers() == [BEAT]
    await writer.leave("a")
    assert await reader.dispatchers() == []
    for one in ("a", "b"):
        await redis.sadd("mayfly:dispatchers", one)
        await redis.set(f"mayfly:dispatcher:{one}", copy)
    assert await reader.dispatchers() == []
    await writer.beat("a", BEAT, LIFE)
    assert await reader.dispatchers() == [BEAT]


async def test_a_flush_costs_a_dispatcher_no_more_than_until_its_next_beat(make: Make, redis: Any) -> None:
    writer, reader = make(), make()
    await writer.beat("a", BEAT, LIFE)
    assert await reader.dispatchers() == [BEAT]
    await redis.flushdb()
    assert await reader.dispatchers() == []
    await writer.beat("a", BEAT, LIFE)
    assert await reader.dispatchers() == [BEAT]


@pytest.mark.parametrize(("key", "gone"), [(KEY, False), (ANOTHER, True), (None, True)])
async def test_only_a_signed_one_keeps_its_tasks_from_being_taken_over(
    make: Make, key: SecretStr | None, gone: bool
) -> None:
    now = 100.0
    liveness = Liveness("me", make(), describe=dict, interval=1, life=5, clock=lambda: now)
    held = Held("a", 7, takeover=Claim(7, 2, 1))
    other = make(key)
    for _ in range(8):
        await other.beat("a", BEAT, LIFE)
        await liveness.refresh()
        verdict = liveness.is_gone(held, 3)
        now += 1
    assert verdict is gone


async def test_without_a_key_a_heartbeat_is_as_it_was(make: Make, redis: Any) -> None:
    await make(None).beat("a", BEAT, LIFE)
    assert json.loads(await redis.get("mayfly:dispatcher:a")) == BEAT
    assert await make(None).dispatchers() == [BEAT]


async def test_of_two_gateways_that_saw_a_key_the_later_use_stands(make: Make, redis: Any) -> None:
    one, other = make(), make()
    await one.tell_keys_used({"a": 1_795_521_600_123, "b": 5})
    await other.tell_keys_used({"a": 7, "c": 9})
    await other.tell_keys_used({})
    assert await one.keys_used(["a", "b", "c", "d"]) == {"a": 1_795_521_600_123, "b": 5, "c": 9}
    await redis.flushdb()
    assert await one.keys_used(["a"]) == {}
    assert await one.keys_used([]) == {}
