"""Deploying, retiring and sharing over HTTP."""

import asyncio
from typing import Any

import pytest
from gateway_world import World, check_problem

from mayfly import versions
from mayfly.function import Function
from mayfly.task import keyed_id

FUNCTION = {"name": "new", "image": "mayfly/fn-new:abc", "version": "abc"}


@pytest.fixture
def world() -> World:
    return World(functions_repository="registry.example.com/functions")


async def deploy(world: World, version: str = "abc", *, traffic: bool = True, **fields: Any) -> Any:
    function = FUNCTION | {"image": f"mayfly/fn-new:{version}", "version": version} | fields
    answer = await world.http.put("/functions/new", json={"function": function, "traffic": traffic})
    assert answer.status_code == 200, answer.text
    return answer.json()


def shares(answer: Any) -> dict[str, int]:
    return {one["version"]: one["share"] for one in answer["versions"]}


async def test_a_function_that_was_deployed_takes_tasks_at_once_and_is_audited(world: World) -> None:
    answer = await deploy(world, schema={"type": "object"}, acceptsBytes=False, retries={"maxAttempts": 3})
    assert (answer["changed"], shares(answer)) == (True, {"v1": 100})
    assert (await world.post(taskType="new", payload={})).status_code == 202
    check_problem(await world.post(taskType="new", payload=1), 422, "invalid_payload", "payload")
    (entry,) = [one for one in world.audit.entries if one.action.startswith("function.")]
    assert (entry.action, entry.target) == ("function.deploy", "new@abc")
    stored = world.catalog.get("new")
    assert stored is not None
    assert stored.retries.max_attempts == 3


async def test_the_same_again_writes_nothing(world: World) -> None:
    await deploy(world)
    audited = len(world.audit.records)
    answer = await deploy(world)
    assert (answer["changed"], shares(answer)) == (False, {"v1": 100})
    assert (len(world.catalog.written), len(world.audit.records)) == (1, audited)


async def test_deployments_at_once_are_a_version_each(world: World) -> None:
    await asyncio.gather(*(deploy(world, f"a{number}") for number in range(5)))
    stored = world.catalog.get("new")
    assert stored is not None
    assert {one.version for one in versions.versions(stored)} == {f"a{number}" for number in range(5)}


async def test_what_is_deployed_is_told_whole_with_the_repository(world: World) -> None:
    await deploy(world, env={"A": "b"}, secrets=["TOKEN"])
    await deploy(world, "def", traffic=False)
    answer = (await world.http.get("/catalog")).json()
    assert answer["repository"] == "registry.example.com/functions"
    (entry,) = [one for one in answer["functions"] if one["name"] == "new"]
    assert (entry["version"], entry["env"], entry["secrets"]) == ("abc", {"A": "b"}, ["TOKEN"])
    assert [one["version"] for one in entry["versions"]] == ["def"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "other", "image": "mayfly/fn-other:abc"}, "function.name"),
        ({"image": "mayfly/fn-new:def"}, "function.image"),
        ({"image": "alpine:latest"}, "function.image"),
        ({"limits": {"memoryMib": 1}}, "function.limits.memoryMib"),
        ({"isolation": "fork", "contract": "unix"}, "function.isolation"),
        ({"queue": "No Queue"}, "function.queue"),
        ({"secrets": ["MAYFLY_KEY"]}, "function.secrets[0]"),
        ({"secrets": ["A"], "env": {"A": "b"}}, "function.secrets"),
        ({"env": {"A": "a\0b"}}, "function.env.A"),
        ({"schema": {"type": "nonsense"}}, "function.schema"),
        ({"callbackUrl": "nowhere"}, "function.callbackUrl"),
        ({"share": 10}, "function.share"),
        ({"runtime": "lambda"}, "function.runtime"),
        ({"runtime": "ecs"}, "function.network"),
        ({"runtime": "ecs", "network": "egress", "isolation": "fork"}, "function.isolation"),
        ({"runtime": "ecs", "network": "egress", "warmPool": 1}, "function.warmPool"),
        ({"runtime": "ecs", "network": "egress", "limits": {"cpu": 17}}, "function.limits"),
        ({"runtime": "ecs", "network": "egress", "contract": "unix"}, "function.runtime"),
    ],
)
async def test_what_no_folder_could_say_is_refused(world: World, fields: dict[str, Any], field: str) -> None:
    answer = await world.http.put("/functions/new", json={"function": FUNCTION | fields})
    check_problem(answer, 422, "invalid_body", field)
    assert not world.catalog.written


async def test_nothing_is_written_while_the_log_is_away(world: World) -> None:
    world.catalog.down = "no broker"
    answer = await world.http.put("/functions/new", json={"function": FUNCTION})
    check_problem(answer, 503, "log_unavailable", None)
    world.catalog.read = False
    answer = await world.http.put("/functions/new", json={"function": FUNCTION})
    check_problem(answer, 503, "catalog_unavailable", None)


async def test_a_function_that_was_retired_takes_no_task(world: World) -> None:
    await deploy(world)
    assert (await world.http.delete("/functions/new")).status_code == 200
    check_problem(await world.post(taskType="new", payload=1), 422, "unknown_task_type", "taskType")
    check_problem(await world.http.delete("/functions/new"), 404, "unknown_function", None)
    check_problem(await world.http.get("/functions/new/traffic"), 404, "unknown_function", None)
    assert world.audit.entries[-1].action == "function.retire"


# --- traffic


async def share(world: World, **wanted: int) -> Any:
    return await world.http.put("/functions/new/traffic", json={"shares": wanted})


async def test_tasks_are_shared_among_versions_and_back(world: World) -> None:
    await deploy(world)
    await deploy(world, "def", traffic=False)
    answer = await share(world, v2=10)
    assert shares(answer.json()) == {"v2": 10, "v1": 90}
    assert world.audit.entries[-1].target == "new v1=90 v2=10"
    assert shares((await world.http.get("/functions/new/traffic")).json()) == {"v2": 10, "v1": 90}
    written = len(world.catalog.written)
    assert shares((await share(world, v2=10)).json()) == {"v2": 10, "v1": 90}
    assert len(world.catalog.written) == written
    assert shares((await share(world, v1=100)).json()) == {"v2": 0, "v1": 100}


async def test_a_payload_is_held_against_the_schema_of_the_version_that_its_task_runs_on(
    world: World,
) -> None:
    await deploy(world, schema={"type": "integer"})
    await deploy(world, "def", schema={"type": "string"}, queue="big", traffic=False)
    await share(world, v2=50)
    entry = world.catalog.get("new")
    assert entry is not None
    found = set()
    for number in range(40):
        key = f"key-{number}"
        version = versions.chosen(entry, keyed_id("default", key)).number
        found.add(version)
        wrong, right = (1, "a") if version == 2 else ("a", 1)
        for payload, status in ((wrong, 422), (right, 202)):
            answer = await world.http.post(
                "/tasks",
                json={"taskType": "new", "payload": payload},
                headers={"idempotency-key": key},
            )
            if status == 202:
                assert answer.status_code == 202, answer.text
                assert world.commands.records[-1][0] == ("big" if version == 2 else "default")
            else:
                check_problem(answer, 422, "invalid_payload", "payload")
    assert found == {1, 2}


@pytest.mark.parametrize(
    "body", [{"shares": {}}, {"shares": {"v1": 101}}, {"shares": {"one": 1}}, {"shares": {"v9": 1}}, {}]
)
async def test_shares_that_cannot_hold_are_refused(world: World, body: dict[str, Any]) -> None:
    await deploy(world)
    answer = await world.http.put("/functions/new/traffic", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")
    assert len(world.catalog.written) == 1


def test_every_queue_of_every_version_is_known() -> None:
    entry = Function("f", "i", "1", queue="a", versions=(Function("f", "i", "2", queue="b", share=0),))
    assert versions.queues([entry]) == {"a", "b"}
