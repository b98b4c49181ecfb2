"""Taking over: only from who has been absent for a whole life, as seen here, with Redis answering."""

import asyncio
from typing import Any

import pytest

from dispatcher.liveness import Liveness
from mayfly.errors import ReadModelUnavailable
from mayfly.steps import Claim, Held

HELD = Held("other", 7, takeover=Claim(7, 2, 1))
PARTITION = 3


class Redis:
    def __init__(self) -> None:
        self.beats: dict[str, dict[str, Any]] = {}
        self.down = False

    async def beat(self, dispatcher_id: str, heartbeat: dict[str, Any], life_seconds: float) -> None:
        if self.down:
            raise ReadModelUnavailable("down")
        self.beats[dispatcher_id] = heartbeat

    async def dispatchers(self) -> list[dict[str, Any]]:
        return list(self.beats.values())


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def liveness(redis: Redis, clock: Clock) -> Liveness:
    return Liveness("me", redis, describe=dict, interval=1, life=5, clock=clock)


async def pass_time(liveness: Liveness, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        await liveness.refresh()


async def test_a_holder_that_lists_the_fence_is_never_gone(
    liveness: Liveness, redis: Redis, clock: Clock
) -> None:
    redis.beats["other"] = {"id": "other", "fences": ["3:7"]}
    for _ in range(20):
        await pass_time(liveness, clock, 1)
        assert not liveness.is_gone(HELD, PARTITION)


async def test_a_holder_that_was_never_seen_is_gone_a_life_after_the_first_question(
    liveness: Liveness, clock: Clock
) -> None:
    await liveness.refresh()
    assert not liveness.is_gone(HELD, PARTITION)
    await pass_time(liveness, clock, 4)
    assert not liveness.is_gone(HELD, PARTITION)
    await pass_time(liveness, clock, 1)
    assert liveness.is_gone(HELD, PARTITION)


async def test_a_holder_that_vanished_before_the_question_is_gone_a_life_after_it_vanished(
    liveness: Liveness, redis: Redis, clock: Clock
) -> None:
    redis.beats["other"] = {"id": "other", "fences": ["3:7"]}
    await liveness.refresh()
    del redis.beats["other"]
    await pass_time(liveness, clock, 6)
    assert liveness.is_gone(HELD, PARTITION)


async def test_a_holder_that_lives_and_forgot_the_claim_loses_it(
    liveness: Liveness, redis: Redis, clock: Clock
) -> None:
    redis.beats["other"] = {"id": "other", "fences": ["3:6"]}
    await liveness.refresh()
    assert not liveness.is_gone(HELD, PARTITION)
    await pass_time(liveness, clock, 5)
    assert liveness.is_gone(HELD, PARTITION)


async def test_while_redis_is_away_nobody_is_absent(liveness: Liveness, redis: Redis, clock: Clock) -> None:
    await liveness.refresh()
    assert not liveness.is_gone(HELD, PARTITION)
    await pass_time(liveness, clock, 4)
    redis.down = True
    await pass_time(liveness, clock, 60)
    redis.down = False
    await pass_time(liveness, clock, 1)
    assert not liveness.is_gone(HELD, PARTITION), "the watch starts anew"
    await pass_time(liveness, clock, 5)
    assert liveness.is_gone(HELD, PARTITION)


async def test_while_redis_hangs_nobody_is_absent(liveness: Liveness, redis: Redis, clock: Clock) -> None:
    await liveness.refresh()
    assert not liveness.is_gone(HELD, PARTITION)
    clock.now += 60  # A question to Redis that has no answer yet.
    assert not liveness.is_gone(HELD, PARTITION)
    redis.beats["other"] = {"id": "other", "fences": ["3:7"]}
    await liveness.refresh()
    assert not liveness.is_gone(HELD, PARTITION)


async def test_a_holder_that_comes_back_in_time_keeps_its_claim(
    liveness: Liveness, redis: Redis, clock: Clock
) -> None:
    await liveness.refresh()
    assert not liveness.is_gone(HELD, PARTITION)
    await pass_time(liveness, clock, 4)
    redis.beats["other"] = {"id": "other", "fences": ["3:7"]}
    await pass_time(liveness, clock, 2)
    del redis.beats["other"]
    await pass_time(liveness, clock, 3)
    assert not liveness.is_gone(HELD, PARTITION)


async def test_what_this_process_holds_is_not_gone_whatever_redis_says(
    liveness: Liveness, clock: Clock
) -> None:
    liveness.held.add((PARTITION, 7))
    await pass_time(liveness, clock, 20)
    assert not liveness.is_gone(Held("me", 7, takeover=Claim(7, 2, 1)), PARTITION)


async def test_the_heartbeat_lists_the_fences_that_are_held(liveness: Liveness, redis: Redis) -> None:
    liveness.held |= {(3, 7), (0, 12)}
    await liveness.refresh()
    assert redis.beats["me"]["fences"] == ["0:12", "3:7"]


async def test_no_beat_waits_for_what_redis_says_of_the_others(clock: Clock) -> None:
    """A Redis that answers slowly would have a dispatcher that lives taken for dead."""
    beats = asyncio.Semaphore(0)

    class Slow(Redis):
        async def beat(self, dispatcher_id: str, heartbeat: dict[str, Any], life_seconds: float) -> None:
            beats.release()

        async def dispatchers(self) -> list[dict[str, Any]]:
            await asyncio.Event().wait()
            raise AssertionError

    liveness = Liveness("me", Slow(), describe=dict, interval=0, life=5, clock=clock)
    running = asyncio.create_task(liveness.run())
    async with asyncio.timeout(60):
        for _ in range(3):
            await beats.acquire()
    running.cancel()
    await asyncio.wait({running})
