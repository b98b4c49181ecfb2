"""Sandboxes that are ready before their task comes: how many, whose, and what becomes of them."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_world import ARMED, World, until
from structlog.testing import capture_logs

from dispatcher.frames import frame
from dispatcher.pools.budget import Holding, evictions
from dispatcher.pools.demand import WINDOW_SECONDS, Demand
from dispatcher.pools.pool import How
from dispatcher.runtimes.base import SandboxSpec
from mayfly import versions
from mayfly.errors import SandboxLost, SandboxUnused
from mayfly.function import Function

# --- how many a function in use keeps


def test_a_function_keeps_as_many_as_its_busiest_second_of_the_last_minute_took() -> None:
    demand = Demand(most=10)
    assert demand.wanted(0) == 0
    for moment in (5.0, 5.2, 5.9, 7.0):
        demand.took(moment)
    assert demand.wanted(8) == 3
    assert demand.wanted(5 + WINDOW_SECONDS - 0.1) == 3
    assert demand.wanted(5 + WINDOW_SECONDS) == 1
    assert demand.wanted(7 + WINDOW_SECONDS) == 0


def test_no_function_keeps_more_than_there_are_slots() -> None:
    demand = Demand(most=2)
    for _ in range(100):
        demand.took(1)
    assert demand.wanted(1) == 2


@given(
    st.lists(st.integers(0, 200).map(lambda tenth: tenth / 10), max_size=60).map(sorted),
    st.integers(0, 100),
    st.integers(1, 8),
)
def test_the_sizing_rule_is_a_maximum_over_a_window(moments: list[float], later: int, most: int) -> None:
    demand = Demand(most)
    for moment in moments:
        demand.took(moment)
    now = (moments[-1] if moments else 0) + later
    seconds = [int(moment) for moment in moments if int(moment) > now - WINDOW_SECONDS]
    busiest = max((seconds.count(second) for second in seconds), default=0)
    assert demand.wanted(now) == min(busiest, most)


# --- who makes room


def test_who_was_used_longest_ago_makes_room_first() -> None:
    old, new = Holding("old", 1, spare=1, mib=100), Holding("new", 2, spare=3, mib=100)
    assert evictions([new, old], 50) == [old]
    assert evictions([new, old], 250) == [old, new, new]
    assert evictions([new, old], 400) == [old, new, new, new]


def test_nobody_makes_room_that_would_not_be_enough() -> None:
    assert evictions([Holding("f", 1, spare=2, mib=100)], 201) is None
    assert evictions([], 1) is None
    assert evictions([], 0) == []


# --- taking


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.pools.pool.REST_SECONDS", 0.0)


@pytest.fixture(name="world")
async def _world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.pools.close()
    assert not world.engine.left, "closed, nothing is left"


async def test_the_first_task_has_its_sandbox_made_and_the_next_one_finds_one_armed(world: World) -> None:
    function = world.function()
    await world.use(function)
    await world.settle()
    assert world.pools.armed == {"f": 1}
    await world.passes(1)
    await world.use(function)
    assert world.pools.taken == {("f", How.MADE): 1, ("f", How.ARMED): 1}
    await world.settle()
    assert [sandbox.given for sandbox in world.engine.launched] == [b"task", b"task", b""]


async def test_what_is_launched_before_its_task_is_known_says_nothing_of_a_task(world: World) -> None:
    await world.use(world.function())
    await world.settle()
    assert {sandbox.spec.task_id for sandbox in world.engine.launched} == {""}


async def test_an_idle_function_keeps_none_and_gives_up_what_it_stood_on(world: World) -> None:
    await world.use(world.function())
    await world.settle()
    await world.passes(WINDOW_SECONDS - 2)
    assert world.pools.armed == {"f": 1}
    await world.passes(2)
    assert not world.engine.left
    assert [supply.closed for supply in world.engine.supplies] == [True]
    assert world.pools.armed == {}


async def test_a_function_that_asks_for_some_has_them_before_any_task_and_for_good(world: World) -> None:
    world.function(warm_pool=3)
    await world.settle()
    assert world.pools.armed == {"f": 3}
    await world.passes(3600)
    assert world.pools.armed == {"f": 3}
    assert len(world.engine.launched) == 3


async def test_a_function_that_asks_for_none_keeps_none_however_much_it_is_used(world: World) -> None:
    function = world.function(warm_pool=0)
    for _ in range(3):
        await world.use(function)
        await world.settle()
    assert not world.engine.left


async def test_a_function_that_is_retired_gives_up_at_once_what_it_kept(world: World) -> None:
    await world.use(world.function())
    await world.settle()
    assert world.pools.armed == {"f": 1}
    world.function(retired=True)
    await world.passes(1)
    assert not world.engine.left


@pytest.mark.parametrize("fields", [{"queue": "other"}, {"retired": True}, {"contract": "unix"}])
async def test_nothing_is_kept_for_tasks_that_will_not_come(world: World, fields: dict[str, object]) -> None:
    world.function(warm_pool=3, **fields)
    await world.settle()
    assert not world.engine.launched


async def test_a_function_by_the_unix_contract_has_each_sandbox_launched_with_its_task(world: World) -> None:
    function = world.function(contract="unix")
    await world.use(function)
    await world.settle()
    assert [sandbox.spec.task_id for sandbox in world.engine.launched] == ["task"]


async def test_a_task_that_is_pinned_to_an_older_image_has_its_sandbox_launched_for_it(world: World) -> None:
    old = world.function(image="f:1")
    new = world.function(image="f:2")
    await world.use(new)
    await world.settle()
    sandbox = await world.take(old, "again")
    await sandbox.remove()
    assert (world.engine.launched[-1].spec.image, world.engine.launched[-1].spec.task_id) == ("f:1", "again")
    assert world.pools.armed == {"f": 1}


async def test_a_sandbox_that_waits_is_given_to_no_other_tenants_task(world: World) -> None:
    function = world.function(warm_pool=1)
    await world.settle()
    theirs = await world.pools.take(function, SandboxSpec.of(function, "task", tenant="acme"))
    assert theirs.name != world.engine.launched[0].name
    assert [sandbox.spec.tenant for sandbox in world.engine.launched] == ["default", "acme"]
    await theirs.remove()
    ours = await world.take(function)
    assert ours.name == world.engine.launched[0].name
    again = await world.pools.take(function, SandboxSpec.of(function, "task", tenant="acme"))
    assert again.name == theirs.name, "what was not used waits for its own tenant's next task"
    for sandbox in (ours, again):
        await sandbox.write(b"task")
        await sandbox.remove()


async def test_what_is_taken_and_not_used_goes_back_and_once_only(world: World) -> None:
    function = world.function(warm_pool=1)
    await world.settle()
    first = await world.take(function)
    await first.remove()
    second = await world.take(function)
    assert second.name == first.name
    await first.remove()
    third = await world.take(function)
    assert third.name != second.name, "what the second has is nobody else's"
    for sandbox in (second, third):
        await sandbox.write(b"task")
        await sandbox.remove()


async def test_what_was_touched_never_goes_back(world: World) -> None:
    function = world.function(warm_pool=1)
    await world.settle()
    for touch in ("stdout", "stderr"):
        sandbox = await world.take(function)
        assert getattr(sandbox, touch)
        await sandbox.remove()
        await world.settle()
        assert sandbox.name not in world.engine.left
    sandbox = await world.take(function)
    await sandbox.kill("SIGTERM")
    await sandbox.remove()
    await world.settle()
    assert sandbox.name not in world.engine.left


async def test_its_task_reads_all_that_a_sandbox_has_said_while_it_waited(world: World) -> None:
    function = world.function(warm_pool=1)
    await world.settle()
    sandbox = await world.take(function)
    stdout = sandbox.stdout
    assert await anext(stdout) == ARMED
    # A reader that gives up takes nothing with it.
    reading = asyncio.ensure_future(anext(stdout))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait({reading})
    world.engine.launched[0].says(b"result").ends()
    assert [chunk async for chunk in sandbox.stdout] == [b"result"]
    await sandbox.remove()


async def test_what_a_task_took_is_replaced_and_removed_once_the_task_has_had_the_machine_for_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = world.function(warm_pool=1)
    await world.settle()
    monkeypatch.setattr("dispatcher.pools.pool.REST_SECONDS", 0.5)
    await world.use(function)
    await world.passes(0.4)
    assert len(world.engine.launched) == 1
    await world.passes(0.2)
    assert len(world.engine.launched) == 2


async def test_where_tasks_run_side_by_side_what_they_take_is_replaced_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.pools.pool.REST_SECONDS", 0.5)
    function = world.function()
    sandboxes = [await world.take(function) for _ in range(2)]
    await world.settle()
    assert world.pools.armed == {"f": 2}
    for sandbox in sandboxes:
        await sandbox.remove()


# --- while they are being made


async def test_a_task_has_the_sandbox_that_is_on_its_way_rather_than_one_more() -> None:
    world = World(at_once=False)
    function = world.function(warm_pool=1)
    await world.settle()
    taking = asyncio.create_task(world.take(function))
    await world.settle()
    assert world.engine.launching == 2, "one for the task, one to keep"
    world.engine.lets(1)
    await (await taking).write(b"task")
    assert world.pools.taken == {("f", How.STARTING): 1}
    await world.pools.close()


async def test_launches_for_tasks_come_first() -> None:
    world = World(at_once=False, cores=2)
    kept = world.function("kept", warm_pool=4)
    await world.settle()
    assert world.engine.launching == 2, "no more at once than there are cores"
    world.engine.lets(1)
    await world.settle()
    assert world.engine.launching == 2
    used = world.function("used")
    tasks = [asyncio.create_task(world.take(used)) for _ in range(2)]
    await world.settle()
    assert world.engine.launching == 4, "no task waits for a pool"
    world.engine.lets(2)
    await world.settle()
    assert world.engine.launching == 2, "and no pool is filled meanwhile"
    world.engine.lets(2)
    await asyncio.gather(*tasks)
    await world.settle()
    assert world.engine.launching == 2
    assert kept.warm_pool == 4
    await world.pools.close()


async def test_a_task_that_gives_up_waiting_leaves_its_sandbox_to_the_next() -> None:
    world = World(at_once=False)
    function = world.function()
    taking = asyncio.create_task(world.take(function))
    await world.settle()
    taking.cancel()
    await asyncio.wait({taking})
    world.engine.lets(1)
    await world.settle()
    assert world.pools.armed == {"f": 1}
    assert world.engine.launching == 0
    await world.pools.close()


async def test_a_launch_that_fails_is_told_to_the_task_that_waits_for_it() -> None:
    world = World(at_once=False)
    function = world.function()
    tasks = [asyncio.create_task(world.take(function)) for _ in range(2)]
    await world.settle()
    world.engine.well = False
    world.engine.lets(1)
    await until(lambda: any(task.done() for task in tasks))
    world.engine.well = True
    world.engine.lets(1)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(isinstance(answer, SandboxLost) for answer in answers) == [False, True]
    await world.pools.close()


async def test_a_sandbox_whose_handler_takes_too_long_to_import_is_given_up() -> None:
    world = World()
    world.engine.arms = False
    world.function(warm_pool=1)
    await world.settle()
    assert len(world.engine.left) == 1
    await world.passes(31)
    assert not world.engine.left
    await world.pools.close()


# --- memory


async def test_the_function_that_was_used_longest_ago_makes_room_for_another() -> None:
    world = World(room=2)
    for name in ("a", "b", "c"):
        await world.use(world.function(name))
        await world.passes(1)
    assert {name for name, count in world.pools.armed.items() if count} == {"b", "c"}
    assert world.pools.evicted == {"a": 1}
    assert world.pools.kept_mib == 200
    await world.pools.close()


async def test_what_a_function_asks_for_is_not_taken_for_what_another_uses() -> None:
    world = World(room=2)
    world.function("asks", warm_pool=2)
    await world.settle()
    for _ in range(3):
        await world.use(world.function("used"))
        await world.passes(1)
    assert world.pools.armed["asks"] == 2
    assert world.pools.armed.get("used", 0) == 0
    assert not world.pools.evicted
    await world.pools.close()


async def test_what_a_function_asks_for_and_has_no_room_for_is_told_once() -> None:
    world = World(room=2)
    with capture_logs() as logs:
        world.function("asks", warm_pool=3)
        for _ in range(3):
            await world.passes(2)
    told = [entry for entry in logs if "does not fit" in entry["event"]]
    assert [(entry["function"], entry["warm_pool"], entry["kept"]) for entry in told] == [("asks", 3, 2)]
    await world.pools.close()


async def test_without_a_budget_nothing_is_kept_and_tasks_run() -> None:
    world = World(room=0)
    function = world.function()
    await world.use(function)
    await world.settle()
    assert not world.engine.left
    await world.pools.close()


# --- another version


@pytest.mark.parametrize(
    "fields",
    [{"image": "f:2"}, {"memory": 200}, {"network": "egress"}, {"env": {"A": "b"}}, {"isolation": "fork"}],
)
async def test_what_waits_is_replaced_when_the_function_changes(
    world: World, fields: dict[str, object]
) -> None:
    await world.use(world.function())
    await world.settle()
    (waiting,) = world.engine.left
    new = world.function(**fields)
    await world.settle()
    assert waiting not in world.engine.left
    assert world.pools.armed == {"f": 1}
    sandbox = await world.take(new)
    assert world.engine.launched[-1].name == sandbox.name
    await sandbox.remove()
    assert [supply.closed for supply in world.engine.supplies] == [True, False]


async def test_nothing_is_replaced_when_only_what_the_gateway_reads_changes(world: World) -> None:
    await world.use(world.function())
    await world.settle()
    world.function(description="other", warm_pool=1)
    await world.settle()
    assert len(world.engine.supplies) == 1


async def split(world: World, first: int, second: int, **fields: object) -> list[Function]:
    """The function in two versions, with those shares; the second one has another image."""
    entry = versions.deployed(None, world.function(**fields), 0)
    assert entry is not None
    new = msgspec.structs.replace(entry, image="f:2", version="2")
    entry = versions.deployed(entry, new, 1)
    assert entry is not None
    entry = world.catalog.put(versions.shared(entry, {"v1": first, "v2": second}))
    return versions.serving(entry)


async def test_two_versions_that_tasks_run_on_keep_each_its_own(world: World) -> None:
    for version in await split(world, 50, 50):
        await world.use(version)
    await world.settle()
    kept = set(world.engine.left)
    assert len(kept) == 2
    assert world.pools.armed == {"f": 2}
    for version in await split(world, 90, 10):
        await world.settle()
        sandbox = await world.take(version)
        assert sandbox.name in kept
        await sandbox.remove()
    assert set(world.engine.left) >= kept
    assert len(world.engine.supplies) == 2


async def test_a_version_that_tasks_run_on_no_more_keeps_none_and_the_other_goes_on(world: World) -> None:
    for version in await split(world, 50, 50):
        await world.use(version)
    await world.settle()
    first, second = (sandbox for sandbox in world.engine.launched if not sandbox.removed)
    await split(world, 100, 0)
    await world.settle()
    assert first.name in world.engine.left
    assert second.removed
    assert [supply.closed for supply in world.engine.supplies] == [False, True]


async def test_what_a_function_asks_for_is_shared_as_its_tasks_are(world: World) -> None:
    await split(world, 75, 25, warm_pool=4)
    await world.settle()
    images = [sandbox.spec.image for sandbox in world.engine.launched if not sandbox.removed]
    assert sorted(images) == ["f:1", "f:1", "f:1", "f:2"]


async def test_versions_whose_sandboxes_are_the_same_have_them_in_common(world: World) -> None:
    entry = versions.deployed(None, world.function(warm_pool=2), 0)
    assert entry is not None
    entry = versions.deployed(entry, msgspec.structs.replace(entry, schema={"type": "object"}), 1)
    assert entry is not None
    for shares in ({"v1": 50, "v2": 50}, {"v1": 10, "v2": 90}):
        world.catalog.put(versions.shared(entry, shares))
        await world.settle()
    assert world.pools.armed == {"f": 2}
    assert len(world.engine.supplies) == 1


async def test_what_an_old_version_runs_is_let_run_to_its_end(world: World) -> None:
    sandbox = await world.take(world.function())
    await sandbox.write(b"task")
    world.catalog.drop("f")
    await world.settle()
    (supply,) = world.engine.supplies
    assert not supply.closed
    assert sandbox.name in world.engine.left
    await sandbox.remove()
    await world.settle()
    assert supply.closed
    assert not world.engine.left


# --- what dies


async def test_one_that_dies_while_it_waits_is_given_to_no_task_and_replaced(world: World) -> None:
    function = world.function(warm_pool=1)
    await world.settle()
    world.engine.launched[0].ends()
    await until(lambda: not world.engine.left)
    sandbox = await world.take(function)
    assert sandbox.name == "s1"
    await sandbox.remove()


async def test_one_that_dies_once_it_was_taken_and_was_given_nothing_is_no_loss(world: World) -> None:
    function = world.function(warm_pool=1)
    await world.settle()
    sandbox = await world.take(function)
    assert await anext(sandbox.stdout) == ARMED
    world.engine.launched[0].ends()
    assert await anext(sandbox.stdout, None) is None
    with pytest.raises(SandboxUnused):
        await sandbox.write(b"task")
    with pytest.raises(SandboxUnused):
        await sandbox.wait()
    await sandbox.remove()
    await world.settle()
    assert sandbox.name not in world.engine.left


async def test_one_that_was_made_for_a_task_and_dies_before_it_is_turned_to_is_no_loss(world: World) -> None:
    sandbox = await world.take(world.function(warm_pool=0))
    await world.settle()
    world.engine.launched[0].ends()
    await world.settle()
    assert await anext(sandbox.stdout) == ARMED
    with pytest.raises(SandboxUnused):
        await sandbox.wait()
    await sandbox.remove()


async def test_one_that_dies_in_the_hands_of_a_task_that_does_not_turn_to_it_is_given_to_no_other(
    world: World,
) -> None:
    function = world.function(warm_pool=1)
    await world.settle()
    first = await world.take(function)
    world.engine.launched[0].ends()
    await world.settle()
    await first.remove()
    second = await world.take(function)
    await world.settle()
    assert second.name != first.name
    assert first.name not in world.engine.left
    await second.remove()


@pytest.mark.parametrize("last", [frame("E", b"{}"), b"", b"\0" * 8])
async def test_a_handler_that_cannot_be_imported_is_tried_ever_more_seldom(world: World, last: bytes) -> None:
    world.engine.arms = False
    world.function(warm_pool=1)
    tries = []
    for _ in range(120):
        await world.settle()
        for sandbox in world.engine.launched:
            sandbox.says(last).ends() if last else sandbox.ends()
        await world.passes(1)
        tries.append(len(world.engine.launched))
    assert tries[-1] in range(4, 12)


async def test_a_sandbox_that_speaks_before_it_has_a_task_is_given_to_none(world: World) -> None:
    world.function(warm_pool=1)
    await world.settle()
    world.engine.launched[0].says(frame("R", b"{}"))
    await world.settle()
    assert "s0" not in world.engine.left


async def test_while_the_engine_is_away_nothing_is_made_and_then_all_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.pools.pools.ENGINE_PAUSE_SECONDS", (0.0,))
    for name in "abcd":
        world.function(name, warm_pool=1)
    with capture_logs() as logs:
        running = asyncio.create_task(world.pools.run())
        await until(lambda: sum(world.pools.armed.values()) == 4)
        world.engine.well = False
        world.engine.ends(lost=True)
        await until(lambda: world.engine.asked > 100)
        assert sum(world.pools.armed.values()) == 0
        assert len(world.engine.launched) == 4
        world.engine.well = True
        await until(lambda: sum(world.pools.armed.values()) == 4)
        running.cancel()
    assert [entry["event"] for entry in logs] == [
        "the engine is away: no sandboxes are kept ready",
        "the engine is back: sandboxes are kept ready again",
    ]


# --- those that serve many tasks


async def test_a_process_that_serves_many_tasks_is_not_doubled_while_it_serves(world: World) -> None:
    function = world.function(isolation="warm")
    sandbox = await world.take(function)
    await world.settle()
    assert len(world.engine.launched) == 1
    await sandbox.remove()


async def test_what_came_back_and_nobody_took_goes_while_the_function_is_in_use(world: World) -> None:
    function = world.function(isolation="warm")
    await world.use(function)
    await world.settle()
    [supply] = world.engine.supplies
    supply.waited = [90.0, 60.0, 50.0]
    await world.use(function)
    await world.settle()
    assert supply.waited == [50.0]


# --- the end


async def test_closing_removes_what_waits_what_is_out_is_its_tasks_and_nothing_is_made_any_more() -> None:
    world = World(at_once=False)
    world.function("kept", warm_pool=1)
    await world.settle()
    world.engine.lets(1)
    await world.settle()
    used = world.function("used")
    taking = asyncio.create_task(world.take(used))
    await until(lambda: world.engine.launching)
    closing = asyncio.create_task(world.pools.close())
    with pytest.raises(SandboxLost):
        await taking
    await closing
    assert not world.engine.left
    assert world.engine.launching == 0
    await world.passes(5)
    assert world.engine.launching == 0
