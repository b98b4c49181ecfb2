"""Users: who makes them, who sees them, and what ends with them."""

import asyncio
import time
from typing import Any

import httpx
import jwt
import pytest
from argon2 import PasswordHasher
from gateway_world import World, check_problem

from gateway import users as gateway_users
from mayfly.identity import users
from mayfly.identity.keys import ApiKey, new_credential
from mayfly.identity.principal import Scope

SECRET = "of thirty-two bytes, or a few more"
ADMIN = new_credential()
PASSWORD = "correct horse battery staple"
ANOTHER = "another horse, another battery"


@pytest.fixture
def world() -> World:
    return World(auth=True, jwt_secret=SECRET, admin_key=str(ADMIN))


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


OPERATOR = bearer(str(ADMIN))


def admin_of(world: World, tenant: str) -> dict[str, str]:
    made = new_credential()
    stored = ApiKey(made.id, made.sha256, tenant, (Scope.ADMIN,), 0)
    world.control.book.keys |= {made.id: stored}
    return bearer(str(made))


async def make(
    world: World, name: str = "ana", headers: dict[str, str] = OPERATOR, **body: Any
) -> httpx.Response:
    body = {"name": name, "password": PASSWORD, "scopes": ["read"], **body}
    return await world.http.post("/users", json=body, headers=headers)


async def log_in(world: World, password: str = PASSWORD) -> httpx.Response:
    return await world.http.post("/login", json={"username": "ana", "password": password})


async def token_of(world: World, password: str = PASSWORD) -> dict[str, str]:
    return bearer((await log_in(world, password)).json()["token"])


async def test_a_user_is_made_and_logs_in(world: World) -> None:
    made = await make(world, tenant="acme", scopes=["submit", "read", "read"])
    assert made.status_code == 201
    view = made.json()
    assert (view["name"], view["tenant"], view["scopes"]) == ("ana", "acme", ["read", "submit"])
    assert view["createdBy"] == f"key:{ADMIN.id}"
    assert (await world.http.get("/tasks", headers=await token_of(world))).status_code == 200


async def test_no_answer_has_anything_of_a_password(world: World) -> None:
    answers = [
        await make(world),
        await make(world),
        await make(world, "bob", password="short"),
        await make(world, password=7),
        await world.http.get("/users", headers=OPERATOR),
        await world.http.put("/users/ana/password", json={"password": ANOTHER}, headers=OPERATOR),
        await world.http.delete("/users/ana", headers=OPERATOR),
    ]
    assert [answer.status_code for answer in answers] == [201, 409, 422, 422, 200, 200, 200]
    for answer in answers:
        assert not [part for part in ("argon2", "short", PASSWORD, ANOTHER) if part in answer.text]


async def test_an_admin_sees_the_users_of_its_tenant_and_an_operator_everybodys(world: World) -> None:
    acme, other = admin_of(world, "acme"), admin_of(world, "other")
    assert (await make(world, "ana", acme)).json()["tenant"] == "acme"
    await make(world, "bob", other)

    async def names(headers: dict[str, str]) -> list[str]:
        answer = await world.http.get("/users", headers=headers)
        return [user["name"] for user in answer.json()["users"]]

    assert (await names(acme), await names(other)) == (["ana"], ["bob"])
    assert await names(OPERATOR) == ["ana", "bob"]
    for method, path, body in (
        ("DELETE", "/users/ana", None),
        ("PUT", "/users/ana/password", {"password": ANOTHER}),
        ("DELETE", "/users/nobody", None),
    ):
        answer = await world.http.request(method, path, json=body, headers=other)
        check_problem(answer, 404, "unknown_user", None)
    check_problem(await make(world, "cleo", acme, tenant="other"), 403, "forbidden", None)


async def test_a_name_is_given_once_whoever_has_it_and_whatever_became_of_it(world: World) -> None:
    await make(world, headers=admin_of(world, "acme"))
    check_problem(await make(world, headers=admin_of(world, "other")), 409, "user_exists", "name")
    await world.http.delete("/users/ana", headers=OPERATOR)
    check_problem(await make(world), 409, "user_exists", "name")


async def test_of_two_that_are_made_at_once_with_one_name_one_is_there(world: World) -> None:
    answers = await asyncio.gather(make(world, tenant="acme"), make(world, tenant="other"))
    assert sorted(answer.status_code for answer in answers) == [201, 409]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "Ana"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"password": "too short"}, "password"),
        ({"password": "x" * 257}, "password"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"tenant": "Acme!"}, "tenant"),
        ({"hash": "mine"}, "hash"),
    ],
)
async def test_a_user_that_cannot_be_is_refused(world: World, body: Any, field: str) -> None:
    check_problem(await make(world, **body), 422, "invalid_body", field)
    assert not world.control.book.users


async def test_disabling_a_user_ends_its_tokens_and_its_logins(world: World) -> None:
    await make(world)
    token = await token_of(world)
    assert (await world.http.get("/tasks", headers=token)).status_code == 200
    for _ in range(2):
        answer = await world.http.delete("/users/ana", headers=OPERATOR)
        assert answer.json()["disabledAt"]
    problem = check_problem(await world.http.get("/tasks", headers=token), 401, "unauthenticated", None)
    assert "disabled" in problem["detail"]
    check_problem(await log_in(world), 401, "wrong_password", None)


async def test_a_token_of_a_user_who_is_gone_is_refused(world: World) -> None:
    await make(world)
    token = await token_of(world)
    await world.control.put("user", "ana", None)
    check_problem(await world.http.get("/tasks", headers=token), 401, "unauthenticated", None)
    world.control.read = False
    check_problem(await world.http.get("/tasks", headers=token), 503, "catalog_unavailable", None)


async def test_another_password_ends_the_tokens_of_the_one_before(world: World) -> None:
    await make(world)
    claims = jwt.decode((await log_in(world)).json()["token"], options={"verify_signature": False})
    earlier = bearer(jwt.encode({**claims, "iat": int(time.time()) - 5}, SECRET, algorithm="HS256"))
    user = world.control.book.users["ana"]
    world.control.book.users |= {"ana": type(user)(**{**_fields(user), "password_at": 0})}
    assert (await world.http.get("/tasks", headers=earlier)).status_code == 200
    changed = await world.http.put("/users/ana/password", json={"password": ANOTHER}, headers=OPERATOR)
    assert changed.status_code == 200
    check_problem(await world.http.get("/tasks", headers=earlier), 401, "unauthenticated", None)
    check_problem(await log_in(world), 401, "wrong_password", None)
    assert (await world.http.get("/tasks", headers=await token_of(world, ANOTHER))).status_code == 200


def _fields(user: Any) -> dict[str, Any]:
    return {name: getattr(user, name) for name in user.__struct_fields__}


async def test_only_a_token_of_a_user_needs_one(world: World) -> None:
    claims = {"iss": "mayfly", "aud": "mayfly", "exp": int(time.time()) + 60, "scope": "read"}
    for subject, status in (("user:ana", 401), ("ana", 200)):
        token = jwt.encode({**claims, "sub": subject}, SECRET, algorithm="HS256")
        assert (await world.http.get("/tasks", headers=bearer(token))).status_code == status


async def test_who_is_disabled_while_a_password_is_set_stays_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(world)
    users = gateway_users.User

    def hashing(password: str) -> str:
        user = world.control.book.users["ana"]
        fields = {**_fields(user), "disabled_at": 5}
        world.control.book.users |= {"ana": users(**fields)}
        return "another hash"

    monkeypatch.setattr(gateway_users, "hash_password", hashing)
    answer = await world.http.put("/users/ana/password", json={"password": ANOTHER}, headers=OPERATOR)
    assert answer.json()["disabledAt"]
    user = world.control.book.users["ana"]
    assert (user.password, user.disabled_at) == ("another hash", 5)


async def test_before_the_users_are_read_none_is_made_and_none_is_said_to_be_unknown(world: World) -> None:
    world.control.read = False
    for answer in (
        await make(world),
        await world.http.get("/users", headers=OPERATOR),
        await world.http.delete("/users/ana", headers=OPERATOR),
    ):
        check_problem(answer, 503, "catalog_unavailable", None)
    assert not world.control.book.users


async def test_without_the_log_nobody_is_made(world: World) -> None:
    world.control.down = "timed out"
    check_problem(await make(world), 503, "log_unavailable", None)
    assert not world.control.book.users


def test_to_check_for_nobody_takes_as_long_as_for_a_user() -> None:
    assert not PasswordHasher().check_needs_rehash(users._NOBODY)
