"""The audit log over HTTP: what is written of whom before what is answered, and who may read it."""

import asyncio
from typing import Any

import pytest
from gateway_world import NOW, World, check_problem
from test_gateway_identity import ADMIN, PASSWORD, TASK, a_world, bearer, key

from gateway import audit
from mayfly.identity import chain
from mayfly.identity.chain import Entry, Verifier
from mayfly.identity.principal import Scope
from mayfly.identity.trail import Trail
from mayfly.identity.users import User, hash_password


async def until_written(world: World, count: int) -> list[chain.Record]:
    async with asyncio.timeout(60):
        while len(world.audit.records) < count:
            await asyncio.sleep(0)
    return world.audit.entries


def facts(record: chain.Record) -> tuple[str, ...]:
    return record.action, record.target, record.tenant, record.outcome


async def test_keys_users_cancels_purges_redrives_and_rebuilds_are_written() -> None:
    world = a_world()
    admin = bearer(str(ADMIN))
    made = await world.http.post("/keys", json={"scopes": ["read"], "tenant": "acme"}, headers=admin)
    await world.http.delete(f"/keys/{made.json()['id']}", headers=admin)
    world.task(TASK, status="QUEUED", command="normal:0:0")
    await world.http.post(f"/tasks/{TASK}/cancel", headers=admin)
    for path in ("purge", "redrive"):
        await world.http.post(f"/dead-letters/{path}", json={"taskIds": [TASK]}, headers=admin)
    await world.http.post("/rebuild", headers=admin)
    user = {"name": "ana", "password": PASSWORD, "scopes": ["read"], "tenant": "acme"}
    await world.http.post("/users", json=user, headers=admin)
    await world.http.put("/users/ana/password", json={"password": PASSWORD}, headers=admin)
    await world.http.delete("/users/ana", headers=admin)
    assert [facts(record) for record in world.audit.entries] == [
        ("key.create", made.json()["id"], "acme", "ok"),
        ("key.revoke", made.json()["id"], "acme", "ok"),
        ("task.cancel", TASK, "default", "ok"),
        ("dead-letter.purge", "", "default", "ok"),
        ("dead-letter.redrive", "", "default", "ok"),
        ("read-model.rebuild", "", "default", "ok"),
        ("user.create", "ana", "acme", "ok"),
        ("user.password", "ana", "acme", "ok"),
        ("user.disable", "ana", "acme", "ok"),
    ]
    assert world.audit.entries[3].targets == (TASK,)
    assert {record.subject for record in world.audit.entries} == {f"key:{ADMIN.id}"}
    assert {record.address for record in world.audit.entries} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/keys", {"scopes": ["read"]}),
        ("POST", "/users", {"name": "bob", "password": PASSWORD, "scopes": ["read"]}),
        ("DELETE", "/users/ana", None),
        ("PUT", "/users/ana/password", {"password": PASSWORD}),
        ("DELETE", "/keys/{key}", None),
        ("POST", f"/tasks/{TASK}/cancel", None),
        ("POST", "/dead-letters/purge", {"taskIds": [TASK]}),
        ("POST", "/rebuild", None),
        ("POST", "/login", {"username": "ana", "password": PASSWORD}),
    ],
)
async def test_what_cannot_be_written_is_not_done(method: str, path: str, body: Any) -> None:
    world = a_world()
    credential = key(world, Scope.READ)
    keys = dict(world.control.book.keys)
    world.control.book.users |= {"ana": User("ana", hash_password(PASSWORD), "acme", (), 0)}
    world.task(TASK, status="FAILED" if "dead" in path else "QUEUED", command="normal:0:0")
    world.read_model.letters = {TASK: 5}
    marks = dict(world.read_model.marks)
    known = dict(world.control.book.users)
    world.audit.down = "timed out"
    path = path.replace("{key}", credential.partition(".")[0].removeprefix("mf_"))
    answer = await world.http.request(method, path, json=body, headers=bearer(str(ADMIN)))
    check_problem(answer, 503, "log_unavailable", None)
    assert world.control.book.keys == keys
    assert world.control.book.users == known
    assert world.commands.events == []
    assert world.read_model.letters == {TASK: 5}
    assert world.read_model.marks == marks
    assert "token" not in answer.text


async def test_posting_a_task_asks_nothing_of_the_audit_log() -> None:
    world = a_world()
    world.audit.down = "timed out"
    body = {"taskType": "echo", "payload": 1}
    assert (await world.http.post("/tasks", json=body, headers=bearer(str(ADMIN)))).status_code == 202


async def test_logins_are_written_the_failed_ones_too_and_no_password() -> None:
    world = a_world()
    world.control.book.users |= {"ana": User("ana", hash_password(PASSWORD), "acme", (), 0)}
    await world.http.post("/login", json={"username": "ana", "password": PASSWORD})
    for username in ("ana", PASSWORD):
        await world.http.post("/login", json={"username": username, "password": "a wrong one"})
    await until_written(world, 3)
    assert [facts(record) for record in world.audit.entries] == [
        ("login", "ana", "acme", "ok"),
        ("login", "ana", "", "refused"),
        # What is no name may be a password in the wrong place.
        ("login", "", "", "refused"),
    ]
    assert world.audit.entries[0].subject == "user:ana"
    assert PASSWORD.encode() not in b"".join(world.audit.records)


async def test_refused_credentials_are_written_once_and_then_counted() -> None:
    world = a_world()
    reader = key(world, Scope.READ)
    for _ in range(50):
        await world.http.get("/tasks", headers=bearer("mf_nonsense"))
        await world.http.get("/keys", headers=bearer(reader))
    unknown, forbidden = await until_written(world, 2)
    assert (unknown.action, unknown.outcome, unknown.subject) == ("access.refused", "refused", "")
    assert (forbidden.subject, forbidden.tenant) == (f"key:{reader[3:19]}", "acme")
    assert "admin" in forbidden.reason
    await world.gateway._audit.close()
    assert [record.count for record in world.audit.entries] == [1, 1, 49, 49]


async def test_an_answer_names_the_request_as_its_record_does() -> None:
    world = a_world()
    admin = bearer(str(ADMIN))
    for given, kept in (("order-7", True), ("no id\tat all", False)):
        headers = admin | {"x-request-id": given}
        answer = await world.http.post("/keys", json={"scopes": ["read"]}, headers=headers)
        assert (answer.headers["x-request-id"] == given) == kept
        assert world.audit.entries[-1].request_id == answer.headers["x-request-id"]
    assert "x-request-id" not in (await world.http.get("/tasks", headers=admin)).headers


# --- reading


async def written(world: World, *entries: Entry) -> None:
    trail = Trail(world.audit)
    for entry in entries:
        await trail.write(entry)


async def read(world: World, credential: str = str(ADMIN), **query: Any) -> Any:
    answer = await world.http.get("/audit", params=query, headers=bearer(credential))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_newest_come_first_page_by_page() -> None:
    world = a_world()
    await written(world, *(Entry("a", str(number), at=NOW) for number in range(7)))
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = await read(world, **query)
        seen += [record["target"] for record in page["records"]]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]


async def test_records_are_chosen_by_subject_action_and_time() -> None:
    world = a_world()
    await written(
        world,
        Entry("key.create", "0", "user:ana"),
        Entry("key.revoke", "1", "user:ana"),
        Entry("keys", "2", "user:bob"),
        Entry("login", "3", "user:bob"),
    )

    async def targets(**query: Any) -> list[str]:
        return [record["target"] for record in (await read(world, **query))["records"]]

    assert await targets(action="key") == ["1", "0"]
    assert await targets(action="key.create") == ["0"]
    assert await targets(subject="user:bob") == ["3", "2"]
    assert await targets(subject="user:bob", action="login") == ["3"]
    # Each is appended a millisecond after the one before.
    assert await targets(since="2026-11-24T12:00:00.125Z") == ["3", "2"]
    assert await targets(until="2026-11-24T12:00:00.125Z") == ["1", "0"]
    assert await targets(since="2027-11-24T12:00:00Z") == []


async def test_a_tenant_sees_its_own_records_and_operators_see_all() -> None:
    world = a_world()
    await written(world, Entry("a", "0", tenant="acme"), Entry("a", "1", tenant="other"))
    acme = await read(world, key(world, Scope.ADMIN))
    assert [record["target"] for record in acme["records"]] == ["0"]
    assert len((await read(world))["records"]) == 2


async def test_one_call_looks_through_so_many_records_and_says_where_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "PIECE", 2)
    monkeypatch.setattr(audit, "MOST_LOOKED_AT", 4)
    world = a_world()
    await written(world, Entry("wanted"), *(Entry("other") for _ in range(6)))
    first = await read(world, action="wanted")
    assert first == {"records": [], "nextCursor": "3"}
    second = await read(world, action="wanted", cursor=first["nextCursor"])
    assert [record["place"] for record in second["records"]] == [0]
    assert second["nextCursor"] is None


async def test_what_is_no_record_is_passed_over() -> None:
    world = a_world()
    await written(world, Entry("a"))
    world.audit.records.append(b"garbage")
    assert [record["action"] for record in (await read(world))["records"]] == ["a"]


@pytest.mark.parametrize("query", [{"cursor": "x"}, {"limit": "0"}, {"since": "yesterday"}, {"target": "x"}])
async def test_a_parameter_that_is_wrong_is_named(query: dict[str, str]) -> None:
    answer = await a_world().http.get("/audit", params=query, headers=bearer(str(ADMIN)))
    check_problem(answer, 400, "invalid_parameter", next(iter(query)))


async def test_what_a_gateway_writes_is_whole() -> None:
    world = a_world()
    admin = bearer(str(ADMIN))
    made = [world.http.post("/keys", json={"scopes": ["read"]}, headers=admin) for _ in range(20)]
    await asyncio.gather(*made)
    verifier = Verifier()
    assert not [one for place, value in enumerate(world.audit.records) for one in verifier.take(place, value)]
    assert (verifier.records, verifier.writers) == (20, 1)
