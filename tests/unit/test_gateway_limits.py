"""Over a limit: who is held to which, what is answered, and that nobody else is hurt."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from counts_world import Shared
from gateway_world import World, check_problem
from test_gateway_identity import ADMIN, TASK, bearer, key, token

from gateway.limits.load import Load
from mayfly.errors import LogUnavailable
from mayfly.identity.keys import Allowance
from mayfly.identity.principal import Scope
from mayfly.identity.usage import Count
from mayfly.task import Lane

BODY = {"taskType": "echo", "payload": 1}


def a_world(shared: Shared | None = None, **settings: Any) -> World:
    world = World(
        shared, auth=True, jwt_secret="of thirty-two bytes, or a few more", admin_key=str(ADMIN), **settings
    )
    world.http.headers.clear()
    world.gateway.limits._clock = lambda: world.clock
    return world


def a_key(world: World, tenant: str = "acme", **allowance: Any) -> dict[str, str]:
    return bearer(key(world, *Scope, tenant=tenant, allowance=Allowance(**allowance)))


def allow(world: World, tenant: str = "acme", **allowance: Any) -> None:
    world.control.book.tenants |= {tenant: Allowance(**allowance)}


async def post(world: World, headers: dict[str, str], **more: Any) -> httpx.Response:
    return await world.http.post("/tasks", json={**BODY, **more}, headers=headers)


def refused(answer: httpx.Response, limit: str) -> None:
    problem = check_problem(answer, 429, "too_many_requests", None)
    assert problem["limit"] == limit
    assert int(answer.headers["retry-after"]) >= 1
    assert int(answer.headers["ratelimit-reset"]) >= 0
    assert int(answer.headers["ratelimit-limit"]) >= 0


# --- requests a second


async def test_over_its_requests_a_caller_waits_and_is_then_let_in() -> None:
    world = a_world()
    headers = a_key(world, requests_per_second=1)
    answers = [await world.http.get("/tasks", headers=headers) for _ in range(5)]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["4", "3", "2", "1", "0"]
    assert [answer.headers["ratelimit-reset"] for answer in answers] == ["1", "2", "3", "4", "5"]
    assert {(answer.status_code, answer.headers["ratelimit-limit"]) for answer in answers} == {(200, "5")}
    answer = await world.http.get("/tasks", headers=headers)
    refused(answer, "requestsPerSecond")
    assert (answer.headers["retry-after"], answer.headers["ratelimit-remaining"]) == ("1", "0")
    world.clock += 1
    assert (await world.http.get("/tasks", headers=headers)).status_code == 200


async def test_every_answer_says_how_a_limited_caller_stands_and_no_other_one() -> None:
    world = a_world()
    allow(world, requests_per_second=100)
    for path, status in ((f"/tasks/{TASK}", 404), ("/tasks?limit=x", 400), ("/keys", 200), ("/workers", 403)):
        answer = await world.http.get(path, headers=a_key(world))
        assert (answer.status_code, "ratelimit-limit" in answer.headers) == (status, True)
    for headers in (a_key(world, tenant="other"), {}, bearer(str(ADMIN))):
        assert "ratelimit-limit" not in (await world.http.get("/tasks", headers=headers)).headers


async def test_a_key_with_its_own_allowance_is_counted_by_itself_and_the_rest_together() -> None:
    world = a_world(limit_requests_per_second=0.2)
    allow(world, requests_per_second=0.4)
    own = a_key(world, requests_per_second=0.6)
    for headers, count in ((own, 3), (a_key(world), 2), (a_key(world), 0), (a_key(world, "other"), 1)):
        for _ in range(count):
            assert (await world.http.get("/tasks", headers=headers)).status_code == 200
        refused(await world.http.get("/tasks", headers=headers), "requestsPerSecond")
    refused(await world.http.get("/tasks", headers=bearer(token())), "requestsPerSecond")


async def test_the_admin_key_of_the_environment_is_never_held() -> None:
    world = a_world(limit_requests_per_second=0.2, limit_waiting_tasks=0, limit_payload_bytes_per_day=0)
    for _ in range(5):
        assert (await post(world, bearer(str(ADMIN)))).status_code == 202


async def test_where_nobody_is_asked_nobody_is_held() -> None:
    world = World(limit_requests_per_second=0.2, limit_waiting_tasks=0, limit_payload_bytes_per_day=0)
    for _ in range(5):
        answer = await world.post()
        assert (answer.status_code, "ratelimit-limit" in answer.headers) == (202, False)


async def test_what_came_to_another_gateway_counts() -> None:
    shared = Shared()
    worlds = [a_world(shared), a_world(shared)]
    headers = a_key(worlds[0], requests_per_second=1)
    worlds[1].control.book.keys |= worlds[0].control.book.keys
    for _ in range(4):
        assert (await worlds[0].http.get("/tasks", headers=headers)).status_code == 200
    await worlds[0].gateway.limits.exchange()
    assert (await worlds[1].http.get("/tasks", headers=headers)).status_code == 200
    await worlds[1].gateway.limits.exchange()
    refused(await worlds[1].http.get("/tasks", headers=headers), "requestsPerSecond")


async def test_a_request_asks_nobody_and_while_redis_is_away_limits_hold_here() -> None:
    world = a_world()
    world.shared.down = "gone"
    headers = a_key(world, requests_per_second=1, waiting_tasks=3)
    for _ in range(3):
        assert (await post(world, headers)).status_code == 202
        await world.gateway.limits.exchange()
    refused(await post(world, headers), "waitingTasks")
    assert world.counts.exchanges == 3
    await world.http.get("/tasks", headers=headers)
    refused(await world.http.get("/tasks", headers=headers), "requestsPerSecond")


async def test_gateways_tell_each_other_by_themselves() -> None:
    world = a_world()
    following = asyncio.create_task(world.gateway.limits.follow())
    headers = a_key(world, requests_per_second=1)
    await world.http.get("/tasks", headers=headers)
    while not world.shared.tokens:
        await asyncio.sleep(0)
    following.cancel()
    assert [left for left, _ in world.shared.tokens.values()] == [4]


# --- tasks


async def test_no_more_tasks_wait_than_may() -> None:
    world = a_world()
    headers = a_key(world, waiting_tasks=2)
    answers = [await post(world, headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    refused(answers[2], "waitingTasks")
    assert len(world.commands.records) == 2
    assert (await post(world, a_key(world, "other"))).status_code == 202
    # Some have begun: the next count knows.
    world.shared.tasks["acme"] = Count(waiting=1, running=1)
    await world.gateway.limits.exchange()
    assert (await post(world, headers)).status_code == 202


async def test_what_was_refused_does_not_wait() -> None:
    world = a_world()
    headers = a_key(world, waiting_tasks=1)
    for _ in range(3):
        assert (await post(world, headers, taskType="nobody")).status_code == 422
    world.commands.down = "down"
    assert (await post(world, headers)).status_code == 503
    world.commands.down = ""
    assert (await post(world, headers)).status_code == 202


async def test_no_further_task_is_taken_while_too_many_run() -> None:
    world = a_world()
    headers = a_key(world, running_tasks=2)
    assert (await post(world, headers)).status_code == 202
    for running, status in ((2, 429), (1, 202)):
        world.shared.tasks["acme"] = Count(waiting=0, running=running)
        await world.gateway.limits.exchange()
        answer = await post(world, headers)
        assert answer.status_code == status
    assert (await world.http.get("/tasks", headers=headers)).status_code == 200


async def test_a_request_of_many_tasks_counts_as_many() -> None:
    world = a_world(max_waiting_tasks=5)
    limits = world.gateway.limits
    principal = world.gateway.access._principal(
        {"type": "http", "headers": [(b"authorization", b"Bearer " + raw(world))]}
    )
    scope: dict[str, Any] = {"headers": []}
    admission = limits.admit(scope, principal, submits=True)
    assert admission is not None
    admission.claim(3)
    assert limits.counters.everybody.waiting == 3
    with pytest.raises(Exception, match="tasks of the tenant are waiting, and 4 may"):
        admission.claim(5)
    assert limits.counters.everybody.waiting == 3
    admission.close(accepted=True)
    assert limits.counters.gauges["acme"].waiting == limits.counters.everybody.waiting == 3
    assert limits.counters.everybody.reserved == 0


def raw(world: World) -> bytes:
    return a_key(world, waiting_tasks=4)["authorization"].partition(" ")[2].encode()


async def test_a_batch_that_is_read_whole_is_taken_whole_or_not_at_all() -> None:
    world = a_world()
    headers = a_key(world, waiting_tasks=4)
    refused(await world.http.post("/tasks/batch", json=[BODY] * 5, headers=headers), "waitingTasks")
    assert not world.commands.records
    answer = await world.http.post("/tasks/batch", json=[BODY] * 4, headers=headers)
    assert answer.json()["accepted"] == 4


async def test_of_a_batch_of_lines_as_many_are_taken_as_there_is_room_for() -> None:
    world = a_world()
    headers = a_key(world, waiting_tasks=4) | {"content-type": "application/x-ndjson"}
    lines = b'{"taskType": "echo", "payload": 1}\n' * 6
    answer = (await world.http.post("/tasks/batch", content=lines, headers=headers)).json()
    assert (answer["accepted"], answer["stopped"]["code"]) == (4, "too_many_requests")
    assert len(world.commands.records) == 4


async def test_the_bytes_of_a_batch_count() -> None:
    world = a_world()
    lines = b'{"taskType": "echo", "payload": 1}\n' * 4
    headers = a_key(world, payload_bytes_per_day=len(lines)) | {"content-type": "application/x-ndjson"}
    answer = await world.http.post("/tasks/batch", content=lines, headers=headers)
    assert (answer.json()["accepted"], answer.headers["ratelimit-remaining"]) == (4, "0")
    refused(await world.http.post("/tasks/batch", content=lines, headers=headers), "payloadBytesPerDay")
    assert world.gateway.limits.load.held == 0


async def test_a_call_is_a_task_like_any_other_while_it_is_waited_for() -> None:
    world = a_world()
    headers = a_key(world, waiting_tasks=1)
    following = asyncio.create_task(world.gateway.waiters.follow())
    waited = asyncio.create_task(world.http.post("/functions/echo/invoke", json=1, headers=headers))
    while not world.commands.records:
        await asyncio.sleep(0)
    [envelope] = world.commands.envelopes
    while world.gateway.limits.counters.gauges["acme"].reserved:
        await asyncio.sleep(0)
    assert world.gateway.limits.load.held == 0
    world.read_model.hashes[envelope.task_id] |= {"status": "COMPLETED", "result": "2"}
    world.read_model.tell("acme", taskId=envelope.task_id, status="COMPLETED")
    assert (await waited).json() == 2
    following.cancel()


async def test_letters_are_driven_again_as_far_as_there_is_room() -> None:
    world = a_world()
    headers = a_key(world, waiting_tasks=2)
    for _ in range(3):
        task_id = (await post(world, a_key(world))).json()["taskId"]
        world.read_model.hashes[task_id]["status"] = "FAILED"
        world.read_model.letters[task_id] = 5
    answer = (await world.http.post("/dead-letters/redrive", json={"all": True}, headers=headers)).json()
    assert (len(answer["redriven"]), answer["remaining"]) == (2, 0)
    assert [one["code"] for one in answer["failed"]] == ["too_many_requests"]
    assert len(world.read_model.letters) == 1


# --- bytes


async def test_bytes_of_a_day_are_counted_before_the_body_is_read_and_end_with_the_day() -> None:
    world = a_world()
    now = 86_400 * 9 + 86_390.0
    world.gateway.limits._wall = lambda: now
    headers = a_key(world, payload_bytes_per_day=250) | {"content-type": "application/octet-stream"}
    first = await send(world, headers, b"x" * 100)
    assert (first.status_code, first.headers["ratelimit-remaining"]) == (202, "150")
    unread = Body([b"x" * 151])
    answer = await send(world, headers | {"content-length": "151"}, unread)
    refused(answer, "payloadBytesPerDay")
    assert (answer.headers["retry-after"], unread.read) == ("10", 0)
    assert (await send(world, headers, b"x" * 150)).status_code == 202
    refused(await send(world, headers, b"x"), "payloadBytesPerDay")
    now += 10
    assert (await send(world, headers, b"x" * 250)).status_code == 202


async def test_a_body_whose_length_is_not_announced_counts_as_it_comes() -> None:
    world = a_world()
    headers = a_key(world, payload_bytes_per_day=250) | {"content-type": "application/octet-stream"}
    assert (await send(world, headers, Body([b"x" * 100] * 2))).status_code == 202
    endless = Body([b"x" * 20] * 1000)
    refused(await send(world, headers, endless), "payloadBytesPerDay")
    assert len(world.commands.records) == 1
    [daily] = world.gateway.limits.counters.days.values()
    assert daily.reserved == 0
    refused(await send(world, headers, Body([b"x"])), "payloadBytesPerDay")


async def test_bytes_that_came_to_another_gateway_count() -> None:
    shared = Shared()
    worlds = [a_world(shared), a_world(shared)]
    for world in worlds:
        allow(world, payload_bytes_per_day=250)
    for world, count in zip(worlds, (202, 202), strict=True):
        headers = a_key(world) | {"content-type": "application/octet-stream"}
        assert (await send(world, headers, b"x" * 100)).status_code == count
    for world in (*worlds, *worlds):
        await world.gateway.limits.exchange()
        headers = a_key(world) | {"content-type": "application/octet-stream"}
        refused(await send(world, headers, b"x" * 200), "payloadBytesPerDay")
    days = [day for world in worlds for day in world.gateway.limits.counters.days.values()]
    assert [day.total for day in days] == [200, 200]


class Body:
    """Chunks, and how many of them were asked for."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            self.read += 1
            yield chunk


async def send(world: World, headers: dict[str, str], body: Any) -> httpx.Response:
    return await world.http.post("/tasks?taskType=echo", content=body, headers=headers)


# --- what the gateway takes on at all


async def test_beyond_the_ceiling_nobody_adds_a_task_and_everybody_reads() -> None:
    for world in (World(max_waiting_tasks=2), a_world(max_waiting_tasks=2)):
        headers = a_key(world)
        for _ in range(2):
            assert (await post(world, headers)).status_code == 202
        answer = await post(world, headers)
        check_problem(answer, 503, "overloaded", None)
        assert answer.headers["retry-after"] == "1"
        assert (await world.http.get("/tasks", headers=headers)).status_code == 200
        assert (await world.http.get("/healthz")).status_code == 200
        await world.gateway.limits.exchange()
        assert (await post(world, headers)).status_code == 202


async def test_without_a_ceiling_there_is_none() -> None:
    world = World(max_waiting_tasks=0)
    world.shared.tasks["default"] = Count(10**9, 0)
    await world.gateway.limits.exchange()
    assert (await world.post()).status_code == 202
    assert world.counts.exchanges == 0


async def test_while_the_log_is_slow_so_many_are_on_their_way_and_the_next_is_refused() -> None:
    world = World(max_in_flight=3)
    world.commands = world.gateway._tasks._acceptance._commands = Slow(world.commands)  # type: ignore
    posts = [asyncio.create_task(world.post()) for _ in range(10)]
    done, pending = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
    while len(pending) > 3:
        done, pending = await asyncio.wait(posts, timeout=0.01)
    for one in done:
        check_problem(one.result(), 503, "overloaded", None)
    assert (await world.http.get("/healthz")).status_code == 200
    check_problem(await world.post(), 503, "overloaded", None)
    world.commands.go.set()  # type: ignore[attr-defined]
    assert {(await one).status_code for one in pending} == {202}
    assert (await world.post()).status_code == 202
    assert (world.gateway.limits.load.appending, world.gateway.limits.load.held) == (0, 0)


class Slow:
    """A log that acknowledges when it is let."""

    def __init__(self, commands: Any) -> None:
        self._commands = commands
        self.go = asyncio.Event()

    async def append(self, queue: str, lane: Lane, partition: int | None, task_id: str, value: bytes) -> Any:
        await self.go.wait()
        return await self._commands.append(queue, lane, partition, task_id, value)


def test_one_tenant_never_takes_all_of_what_there_is() -> None:
    load = Load(4, shared=True, bodies=1000)
    with load.append("acme"), load.append("acme"):
        with pytest.raises(Exception, match="too many tasks on their way"), load.append("acme"):
            pass
        with pytest.raises(Exception, match="too many tasks on their way"):
            load.check("acme")
        load.check("other")
        full = pytest.raises(Exception, match="The log takes less")
        with load.append("other"), load.append("other"), full:
            load.check("third")
    load.hold("acme", 500)
    with pytest.raises(Exception, match="too many bytes"):
        load.hold("acme", 1)
    load.hold("other", 500)
    with pytest.raises(Exception, match="memory"):
        load.check("third")
    load.go("acme", 500)
    load.check("third")
    assert (load.appending, load.held) == (0, 500)


def test_where_there_is_one_tenant_it_may_take_all_of_it() -> None:
    load = Load(2, shared=False, bodies=10)
    load.hold("default", 10)
    load.go("default", 10)
    with pytest.raises(LogUnavailable), load.append("default"), load.append("default"):
        raise LogUnavailable("down")
    assert load.appending == 0


# --- who sets them


async def test_an_operator_sets_what_a_tenant_may_ask_for_and_takes_it_back() -> None:
    world = a_world(limit_running_tasks=7)
    admin = bearer(str(ADMIN))
    body = {"requestsPerSecond": 0.2, "waitingTasks": 10}
    answer = await world.http.put("/tenants/acme", json=body, headers=admin)
    assert answer.json() == {"tenant": "acme", "allowance": body}
    shown = (await world.http.get("/tenants", headers=admin)).json()
    assert shown == {"tenants": [answer.json()], "defaults": {"runningTasks": 7}}
    headers = a_key(world)
    await world.http.get("/tasks", headers=headers)
    refused(await world.http.get("/tasks", headers=headers), "requestsPerSecond")
    assert (await world.http.put("/tenants/acme", json={}, headers=admin)).json()["allowance"] == {}
    assert (await world.http.get("/tasks", headers=headers)).status_code == 200
    assert world.control.book.tenants == {}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tenants/Acme!", {}, "tenant"),
        ("/tenants/acme", {"requestsPerSecond": 0}, "requestsPerSecond"),
        ("/tenants/acme", {"waitingTasks": -1}, "waitingTasks"),
        ("/tenants/acme", {"waitingTasks": 1.5}, "waitingTasks"),
        ("/tenants/acme", {"requests": 1}, "requests"),
    ],
)
async def test_an_allowance_that_cannot_be_is_refused(path: str, body: Any, field: str) -> None:
    world = a_world()
    answer = await world.http.put(path, json=body, headers=bearer(str(ADMIN)))
    check_problem(answer, 422, "invalid_body", field)


async def test_only_operators_say_what_others_may_ask_for() -> None:
    world = a_world()
    tenants_admin = a_key(world)
    body = {"scopes": ["read"], "allowance": {"requestsPerSecond": 1000}}
    check_problem(await world.http.post("/keys", json=body, headers=tenants_admin), 403, "forbidden", None)
    for method, path in (("GET", "/tenants"), ("PUT", "/tenants/acme")):
        answer = await world.http.request(method, path, headers=tenants_admin)
        check_problem(answer, 403, "forbidden", None)
    made = await world.http.post("/keys", json={**body, "tenant": "acme"}, headers=bearer(str(ADMIN)))
    assert made.json()["allowance"] == body["allowance"]
    answer = await world.http.get("/tasks", headers=bearer(made.json()["key"]))
    assert answer.headers["ratelimit-limit"] == "5000"


async def test_an_upload_counts_before_its_bytes_come_and_is_no_task() -> None:
    world = a_world()
    headers = a_key(world, payload_bytes_per_day=1000, waiting_tasks=1)
    assert (await world.http.post("/uploads", json={"size": 800}, headers=headers)).status_code == 201
    refused(await world.http.post("/uploads", json={"size": 800}, headers=headers), "payloadBytesPerDay")
    headers = a_key(world, waiting_tasks=1)
    for _ in range(2):
        assert (await world.http.post("/uploads", json={"size": 800}, headers=headers)).status_code == 201
    assert (await post(world, headers)).status_code == 202
    refused(await post(world, headers), "waitingTasks")
