"""When API keys were used last."""

import asyncio

import pytest
from gateway_world import World
from test_gateway_identity import ADMIN, a_world, bearer, key

from gateway import uses
from gateway.uses import Uses
from mayfly.identity.principal import Scope


async def listed(world: World) -> dict[str, str | None]:
    keys = (await world.http.get("/keys", headers=bearer(str(ADMIN)))).json()["keys"]
    return {one["id"]: one.get("lastUsedAt") for one in keys}


def id_of(credential: str) -> str:
    return credential.removeprefix("mf_").partition(".")[0]


async def test_a_keys_last_use_is_shown_and_nothing_of_one_that_was_not_used() -> None:
    world = a_world()
    used, unused = key(world, Scope.READ), key(world, Scope.READ)
    await world.http.get("/tasks", headers=bearer(used))
    shown = await listed(world)
    assert shown[id_of(used)]
    assert shown[id_of(unused)] is None


async def test_a_key_that_is_refused_was_not_used() -> None:
    world = a_world()
    revoked = key(world, Scope.READ, revoked_at=1)
    await world.http.get("/tasks", headers=bearer(revoked))
    assert await listed(world) == {id_of(revoked): None}


async def test_the_later_use_is_shown_wherever_it_was() -> None:
    world = a_world()
    here, elsewhere = key(world, Scope.READ), key(world, Scope.READ)
    world.read_model.uses += [{id_of(here): 1000, id_of(elsewhere): 1000}]
    await world.http.get("/tasks", headers=bearer(here))
    shown = await listed(world)
    assert (shown[id_of(here)] or "") > "2020"
    assert shown[id_of(elsewhere)] == "1970-01-01T00:00:01.000Z"


async def test_without_redis_the_keys_are_listed_with_what_is_known_here() -> None:
    world = a_world()
    used = key(world, Scope.READ)
    await world.http.get("/tasks", headers=bearer(used))
    world.read_model.down = "away"
    assert (await listed(world))[id_of(used)]


async def test_what_changed_is_told_in_one_write_and_again_if_that_failed() -> None:
    world, here = World(), {"a": 1, "b": 2}
    told = Uses(here, world.read_model)
    world.read_model.down = "away"
    await told.tell()
    world.read_model.down = ""
    await told.tell()
    assert world.read_model.uses == [{"a": 1, "b": 2}]
    here["b"] = 3
    await told.tell()
    assert world.read_model.uses[1:] == [{"b": 3}]


async def test_it_is_told_again_and_again_and_when_the_gateway_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    world, here = World(), {"a": 0}
    told, writes = Uses(here, world.read_model), asyncio.Semaphore(0)
    monkeypatch.setattr(uses, "TELL_SECONDS", 0.0)
    tell = world.read_model.tell_keys_used

    async def counted(keys: dict[str, int]) -> None:
        await tell(keys)
        here["a"] += 1
        writes.release()

    monkeypatch.setattr(world.read_model, "tell_keys_used", counted)
    running = asyncio.create_task(told.run())
    async with asyncio.timeout(60):
        for _ in range(3):
            await writes.acquire()
    running.cancel()
    await asyncio.wait({running})
    await told.close()
    assert [one["a"] for one in world.read_model.uses] == sorted({one["a"] for one in world.read_model.uses})
