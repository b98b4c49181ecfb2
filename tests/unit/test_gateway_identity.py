"""Who asks, and what they may: every route, by every kind of credential, out of the route table itself."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from gateway_world import World, check_problem
from socket_world import Socket

from gateway import recognised
from gateway.access import Guarded, GuardedSocket
from mayfly.identity.keys import ApiKey, Credential, new_credential
from mayfly.identity.principal import Scope
from mayfly.identity.users import User, hash_password

SECRET = "of thirty-two bytes, or a few more"
ADMIN = new_credential()
TASK = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"
PASSWORD = "correct horse battery staple"


def a_world(**settings: Any) -> World:
    world = World(auth=True, jwt_secret=SECRET, admin_key=str(ADMIN), **settings)
    world.http.headers.clear()
    return world


def key(world: World, *scopes: Scope, tenant: str = "acme", **fields: Any) -> str:
    made = new_credential()
    stored = ApiKey(made.id, made.sha256, tenant, scopes, 0, **fields)
    world.control.book.keys |= {made.id: stored}
    return str(made)


def token(secret: Any = SECRET, algorithm: str | None = "HS256", **claims: Any) -> str:
    given = {
        "iss": "mayfly",
        "aud": "mayfly",
        "sub": "somebody",
        "exp": int(time.time()) + 60,
        "tenant": "acme",
        "scope": "submit read cancel admin",
        **claims,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(given, secret, algorithm=algorithm)


def guarded() -> Iterator[Any]:
    for route in a_world().gateway.routes():
        if isinstance(route, GuardedSocket):
            yield pytest.param("WEBSOCKET", route.path, route.needs, id=f"WEBSOCKET {route.path}")
            continue
        assert isinstance(route, Guarded), "a route that nobody guards"
        for method in sorted((route.methods or set()) - {"HEAD"}):
            path = (
                route.path.replace("{task_id}", TASK)
                .replace("{batch_id}", TASK)
                .replace("{name}", "echo")
                .replace("{key_id}", "0" * 16)
            )
            if route.needs is not None:
                yield pytest.param(method, path, route.needs, id=f"{method} {route.path}")


ROUTES = list(guarded())
FORGED = rsa.generate_private_key(public_exponent=65537, key_size=2048)
REFUSED: dict[str, Callable[[World], dict[str, str]]] = {
    "no credential": lambda world: {},
    "another scheme": lambda world: {"authorization": "Basic YTpi"},
    "no key and no token": lambda world: bearer("nonsense"),
    "an unknown key": lambda world: bearer(str(new_credential())),
    "a wrong secret": lambda world: bearer(f"{key(world, *Scope).partition('.')[0]}.{'A' * 43}"),
    "a wrong admin secret": lambda world: bearer(str(Credential(ADMIN.id, "A" * 43))),
    "an expired key": lambda world: bearer(key(world, *Scope, expires_at=1)),
    "a revoked key": lambda world: bearer(key(world, *Scope, revoked_at=1)),
    "alg none": lambda world: bearer(token(None, "none")),
    "a token of another secret": lambda world: bearer(token("another one, that has thirty-two bytes")),
    "a token of a key of its own": lambda world: bearer(token(FORGED, "RS256")),
    "a token of another algorithm": lambda world: bearer(token(SECRET * 2, "HS512")),
    "a token for another audience": lambda world: bearer(token(aud="another")),
    "a token of another issuer": lambda world: bearer(token(iss="another")),
    "an expired token": lambda world: bearer(token(exp=int(time.time()) - 60)),
    "a token without an end": lambda world: bearer(token(exp=None)),
    "a token of nobody": lambda world: bearer(token(sub=None)),
    "a token of a tenant that is none": lambda world: bearer(token(tenant="no tenant")),
}


async def ask(world: World, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """The answer; of a WebSocket what its handshake comes to."""
    if method == "WEBSOCKET":
        async with Socket(world, path, headers=headers) as socket:
            return httpx.Response(101) if socket.answer is None else socket.answer
    if path == "/events":
        # A stream without an end, but for that.
        world.gateway.waiters.close()
    return await world.http.request(method, path, headers=headers)


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


@pytest.mark.parametrize(("method", "path", "needs"), ROUTES)
@pytest.mark.parametrize("credential", REFUSED)
async def test_who_is_not_known_is_refused(method: str, path: str, needs: Scope, credential: str) -> None:
    world = a_world()
    answer = await ask(world, method, path, REFUSED[credential](world))
    check_problem(answer, 401, "unauthenticated", None)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert not world.commands.records


@pytest.mark.parametrize("path", [route.values[1] for route in ROUTES if route.values[0] == "WEBSOCKET"])
@pytest.mark.parametrize("credential", [name for name in REFUSED if name != "another scheme"])
async def test_who_is_not_known_is_refused_as_a_subprotocol_too(path: Any, credential: str) -> None:
    world = a_world()
    given = REFUSED[credential](world).get("authorization", "").removeprefix("Bearer ")
    async with Socket(world, path, subprotocols=("mayfly", f"bearer.{given}")) as socket:
        assert socket.answer is not None
        check_problem(socket.answer, 401, "unauthenticated", None)


@pytest.mark.parametrize(("method", "path", "needs"), ROUTES)
async def test_who_has_another_scope_is_refused(method: str, path: str, needs: Scope) -> None:
    world = a_world()
    for credential in (
        key(world, *(scope for scope in Scope if scope not in (needs, Scope.ADMIN))),
        token(scope=" ".join(scope for scope in Scope if scope not in (needs, Scope.ADMIN))),
        key(world),
    ):
        answer = await ask(world, method, path, bearer(credential))
        assert check_problem(answer, 403, "forbidden", None)["scope"] == needs


@pytest.mark.parametrize(("method", "path", "needs"), ROUTES)
async def test_who_has_the_scope_is_let_in(method: str, path: str, needs: Scope) -> None:
    world = a_world()
    world.gateway.waiters.close()  # nobody runs what a call would wait for
    for credential in (
        key(world, needs, tenant="default"),
        key(world, Scope.ADMIN, tenant="default"),
        token(scope=needs, tenant="default"),
        str(ADMIN),
    ):
        answer = await ask(world, method, path, bearer(credential))
        assert answer.status_code not in (401, 403), answer.text


@pytest.mark.parametrize(
    ("method", "path", "needs"), [route for route in ROUTES if "{task_id}" in str(route.id)]
)
async def test_another_tenants_task_is_answered_like_none(method: str, path: str, needs: Scope) -> None:
    world = a_world()
    headers = bearer(key(world, *Scope))
    none = await world.http.request(method, path, headers=headers)
    world.task(TASK, tenant="another", status="FAILED")
    check_problem(none, 404, "unknown_task", None)
    for wait in ("", "?wait=20") if method == "GET" and path.endswith(TASK) else ("",):
        other = await world.http.request(method, path + wait, headers=headers)
        assert (other.status_code, other.content) == (none.status_code, none.content)
    assert not world.commands.records
    assert not world.commands.events


async def test_lists_dead_letters_and_keys_are_the_tenants_own() -> None:
    world = a_world()
    acme, other = bearer(key(world, *Scope)), bearer(key(world, *Scope, tenant="other"))
    posted = await world.http.post("/tasks", json={"taskType": "echo", "payload": 1}, headers=acme)
    task_id = posted.json()["taskId"]
    assert world.commands.envelopes[0].tenant == "acme"
    world.read_model.hashes[task_id]["status"] = "FAILED"
    world.read_model.letters[task_id] = 5
    for headers, ids in ((acme, [task_id]), (other, [])):
        for path in ("/tasks", "/dead-letters"):
            answer = await world.http.get(path, headers=headers)
            assert [task["taskId"] for task in answer.json()["tasks"]] == ids
    for body in ({"taskIds": [task_id]}, {"all": True}):
        for path in ("/dead-letters/purge", "/dead-letters/redrive"):
            answer = await world.http.post(path, json=body, headers=other)
            assert not answer.json().get("purged")
            assert not answer.json().get("redriven")
    assert world.read_model.letters == {task_id: 5}
    keys = (await world.http.get("/keys", headers=other)).json()["keys"]
    assert [one["tenant"] for one in keys] == ["other"]


async def test_the_same_idempotency_key_of_two_tenants_is_two_tasks() -> None:
    world = a_world()
    ids = set()
    for tenant in ("acme", "other"):
        headers = bearer(key(world, Scope.SUBMIT, tenant=tenant)) | {"idempotency-key": "order 7"}
        answer = await world.http.post("/tasks", json={"taskType": "echo", "payload": 1}, headers=headers)
        ids.add(answer.json()["taskId"])
    assert len(ids) == 2


async def test_what_concerns_every_tenant_is_for_operators() -> None:
    world = a_world()
    for path in ("/workers", "/metrics", "/rebuild"):
        refused = await world.http.get(path, headers=bearer(key(world, Scope.ADMIN)))
        check_problem(refused, 403, "forbidden", None)


async def test_a_key_is_made_used_listed_and_revoked() -> None:
    world = a_world()
    body = {"scopes": ["read"], "name": "reader", "tenant": "acme"}
    made = await world.http.post("/keys", json=body, headers=bearer(str(ADMIN)))
    assert made.status_code == 201
    credential = made.json()["key"]
    assert credential.partition(".")[2] not in str(world.control.book.keys)
    assert (await world.http.get("/tasks", headers=bearer(credential))).status_code == 200
    listed = (await world.http.get("/keys", headers=bearer(str(ADMIN)))).json()["keys"]
    assert [one["name"] for one in listed] == ["reader"]
    assert "key" not in listed[0]
    path = f"/keys/{made.json()['id']}"
    foreign = await world.http.delete(path, headers=bearer(key(world, Scope.ADMIN, tenant="other")))
    check_problem(foreign, 404, "unknown_key", None)
    assert (await world.http.delete(path, headers=bearer(str(ADMIN)))).json()["revokedAt"]
    check_problem(await world.http.get("/tasks", headers=bearer(credential)), 401, "unauthenticated", None)


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 422, "invalid_body", "scopes"),
        ({"scopes": []}, 422, "invalid_body", "scopes"),
        ({"scopes": ["everything"]}, 422, "invalid_body", "scopes"),
        ({"scopes": ["read"], "expiresAt": "tomorrow"}, 422, "invalid_body", "expiresAt"),
        ({"scopes": ["read"], "tenant": "Acme!"}, 422, "invalid_body", "tenant"),
        ({"scopes": ["read"], "secret": "mine"}, 422, "invalid_body", "secret"),
    ],
)
async def test_a_key_that_cannot_be_is_refused(body: Any, status: int, code: str, field: str) -> None:
    world = a_world()
    check_problem(await world.http.post("/keys", json=body, headers=bearer(str(ADMIN))), status, code, field)
    assert not world.control.book.keys


async def test_a_tenants_admin_makes_keys_for_its_own_tenant_only() -> None:
    world = a_world()
    headers = bearer(key(world, Scope.ADMIN))
    made = await world.http.post("/keys", json={"scopes": ["read"]}, headers=headers)
    assert made.json()["tenant"] == "acme"
    refused = await world.http.post("/keys", json={"scopes": ["read"], "tenant": "default"}, headers=headers)
    check_problem(refused, 403, "forbidden", None)


async def test_a_user_logs_in_and_the_token_is_good_for_what_the_user_may() -> None:
    world = a_world()
    scopes = (Scope.READ,)
    world.control.book.users |= {"ana": User("ana", hash_password(PASSWORD), "acme", scopes, 0)}
    answer = await world.http.post("/login", json={"username": "ana", "password": PASSWORD})
    assert answer.headers["cache-control"] == "no-store"
    headers = bearer(answer.json()["token"])
    assert (await world.http.get("/tasks", headers=headers)).status_code == 200
    check_problem(await world.http.post("/tasks", json={}, headers=headers), 403, "forbidden", None)


async def test_guessing_passwords_is_slowed_down() -> None:
    world = a_world()
    world.control.book.users |= {"ana": User("ana", hash_password(PASSWORD), "acme", (), 0)}
    for _ in range(5):
        wrong = await world.http.post("/login", json={"username": "ana", "password": "a wrong one"})
        check_problem(wrong, 401, "wrong_password", None)
    right = await world.http.post("/login", json={"username": "ana", "password": PASSWORD})
    check_problem(right, 429, "too_many_requests", None)
    assert int(right.headers["retry-after"]) >= 1


async def test_without_a_secret_for_tokens_nobody_logs_in() -> None:
    world = World(auth=True)
    answer = await world.http.post("/login", json={"username": "ana", "password": PASSWORD})
    check_problem(answer, 404, "no_login", None)


async def test_before_the_keys_are_read_an_unknown_one_is_not_refused_for_good() -> None:
    world = a_world()
    world.control.read = False
    answer = await world.http.get("/tasks", headers=bearer(str(new_credential())))
    check_problem(answer, 503, "catalog_unavailable", None)
    assert (await world.http.get("/tasks", headers=bearer(str(ADMIN)))).status_code == 200


async def test_where_nobody_is_asked_everybody_may_everything() -> None:
    world = World()
    for _, path in (("GET", "/tasks"), ("GET", "/workers"), ("GET", "/keys")):
        assert (await world.http.get(path)).status_code == 200


async def test_a_key_that_was_good_a_moment_ago_is_refused_once_it_is_revoked_expired_or_gone() -> None:
    world = a_world()
    shown = bearer(key(world, Scope.READ))
    key_id = shown["authorization"].removeprefix("Bearer mf_").partition(".")[0]
    stored = world.control.book.keys[key_id]
    ends: list[dict[str, ApiKey]] = [
        {key_id: msgspec.structs.replace(stored, revoked_at=1)},
        {key_id: msgspec.structs.replace(stored, expires_at=1)},
        {},
    ]
    for keys in ends:
        world.control.book.keys = {key_id: stored}
        for _ in range(2):
            assert (await world.http.get("/tasks", headers=shown)).status_code == 200
        world.control.book.keys = keys
        check_problem(await world.http.get("/tasks", headers=shown), 401, "unauthenticated", None)


async def test_a_key_that_was_good_a_moment_ago_is_refused_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = a_world()
    clock = [1000]
    monkeypatch.setattr("gateway.access.now", lambda: clock[0])
    shown = bearer(key(world, Scope.READ, expires_at=2000))
    assert (await world.http.get("/tasks", headers=shown)).status_code == 200
    clock[0] = 2000
    check_problem(await world.http.get("/tasks", headers=shown), 401, "unauthenticated", None)


def test_of_many_headers_that_were_right_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognised, "REMEMBERED", 2)
    stored = ApiKey("0" * 16, "", "acme", (Scope.READ,), 0)
    known = recognised.Recognised(lambda key_id: stored)
    for header in (b"a", b"b", b"c"):
        known.keep(header, stored, stored.principal)
    assert [known.find(header) for header in (b"a", b"b")] == [None, None]
    assert known.find(b"c") == (stored, stored.principal)
