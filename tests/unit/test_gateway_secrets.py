"""Secrets over HTTP: set by an admin, of one tenant, and never shown again."""

import base64
from typing import Any

import httpx
import pytest
from gateway_world import World, check_problem
from test_gateway_identity import ADMIN, a_world, bearer, key

from gateway import secrets
from mayfly.errors import SecretsUnavailable
from mayfly.identity.principal import Scope
from mayfly.identity.vault import Context, LocalKeys, Sealed, Vault
from mayfly.webhooks import sealing

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(2)]
VALUE = "correct horse battery staple"


def world_with_key(**settings: Any) -> World:
    return a_world(secrets_key=KEYS[0], **settings)


async def put(
    world: World, name: str = "TOKEN", value: str | bytes = VALUE, **headers: str
) -> httpx.Response:
    return await world.http.put(f"/secrets/{name}", content=value, headers=headers or bearer(str(ADMIN)))


def opened(world: World, tenant: str = "default", name: str = "TOKEN", number: int = 0) -> str:
    vault = Vault(LocalKeys(bytes([number]) * 32))
    return vault.open(Context(tenant, name), world.control.book.secrets[f"{tenant}/{name}"])


async def test_a_secret_is_set_listed_without_its_value_and_removed() -> None:
    world = world_with_key()
    done = await put(world)
    assert done.status_code == 200
    assert done.json().keys() == {"name", "updatedAt", "updatedBy", "keyId"}
    assert opened(world) == VALUE
    listed = await world.http.get("/secrets", headers=bearer(str(ADMIN)))
    assert [one["name"] for one in listed.json()["secrets"]] == ["TOKEN"]
    assert VALUE not in listed.text + done.text
    gone = await world.http.delete("/secrets/TOKEN", headers=bearer(str(ADMIN)))
    assert gone.status_code == 200
    assert not world.control.book.secrets
    again = await world.http.delete("/secrets/TOKEN", headers=bearer(str(ADMIN)))
    check_problem(again, 404, "unknown_secret", None)


async def test_a_secret_that_is_set_again_has_the_new_value() -> None:
    world = world_with_key()
    await put(world)
    await put(world, value="another")
    assert opened(world) == "another"


async def test_secrets_are_the_tenants_own() -> None:
    world = world_with_key()
    acme = bearer(key(world, Scope.ADMIN))
    await put(world, value="of acme", **acme)
    await put(world, value="of default")
    assert (opened(world, "acme"), opened(world)) == ("of acme", "of default")
    listed = (await world.http.get("/secrets", headers=acme)).json()["secrets"]
    assert len(listed) == 1
    other = bearer(key(world, Scope.ADMIN, tenant="other"))
    check_problem(await world.http.delete("/secrets/TOKEN", headers=other), 404, "unknown_secret", None)


@pytest.mark.parametrize(
    ("name", "value", "status", "code", "field"),
    [
        ("TOKEN", b"", 422, "invalid_secret", "value"),
        ("TOKEN", b"a\0b", 422, "invalid_secret", "value"),
        ("TOKEN", b"\xff\xfe", 422, "invalid_secret", "value"),
        ("TOKEN", b"x" * (64 * 1024 + 1), 413, "body_too_large", None),
        ("1TOKEN", b"x", 422, "invalid_secret", "name"),
        ("to-ken", b"x", 422, "invalid_secret", "name"),
        ("MAYFLY_TOKEN", b"x", 422, "invalid_secret", "name"),
        ("T" * 101, b"x", 422, "invalid_secret", "name"),
    ],
)
async def test_what_cannot_be_a_secret_is_refused(
    name: str, value: bytes, status: int, code: str, field: str | None
) -> None:
    world = world_with_key()
    check_problem(await put(world, name, value), status, code, field)
    assert not world.control.book.secrets


async def test_the_largest_secret_there_may_be_is_taken() -> None:
    world = world_with_key()
    assert (await put(world, value=b"x" * 64 * 1024)).status_code == 200


async def test_a_tenant_has_no_more_secrets_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "MOST_SECRETS", 1)
    world = world_with_key()
    await put(world)
    check_problem(await put(world, "OTHER"), 409, "too_many_secrets", None)
    assert (await put(world)).status_code == 200


async def test_without_a_key_it_is_said_what_to_set() -> None:
    world = a_world()
    for answer in (
        await put(world),
        await world.http.post("/secrets/rotate", headers=bearer(str(ADMIN))),
    ):
        assert "MAYFLY_SECRETS_KEY" in check_problem(answer, 501, "no_secrets_key", None)["detail"]


async def test_what_is_under_an_old_key_is_encrypted_anew() -> None:
    world = world_with_key()
    await put(world)
    await put(world, **bearer(key(world, Scope.ADMIN)))
    before = world.control.book.secrets["acme/TOKEN"]
    later = a_world(secrets_key=KEYS[1], secrets_keys_old=KEYS[0])
    later.control.book.secrets = dict(world.control.book.secrets)
    headers = bearer(str(ADMIN))
    rotated = await later.http.post("/secrets/rotate", headers=headers)
    assert rotated.json() == {"rotated": 2, "failed": []}
    assert (opened(later, number=1), opened(later, "acme", number=1)) == (VALUE, VALUE)
    after = later.control.book.secrets["acme/TOKEN"]
    assert (after.updated_at, after.updated_by) == (before.updated_at, before.updated_by)
    assert (await later.http.post("/secrets/rotate", headers=headers)).json()["rotated"] == 0


async def test_what_no_key_opens_stays_and_is_named() -> None:
    world = world_with_key()
    await put(world)
    later = a_world(secrets_key=KEYS[1])
    later.control.book.secrets = dict(world.control.book.secrets)
    answer = (await later.http.post("/secrets/rotate", headers=bearer(str(ADMIN)))).json()
    assert answer["rotated"] == 0
    assert [(one["tenant"], one["name"]) for one in answer["failed"]] == [("default", "TOKEN")]


async def test_what_webhooks_are_signed_with_is_encrypted_anew_too() -> None:
    """And what was in clear is so no more."""
    world, clear = world_with_key(), a_world()
    headers = bearer(str(ADMIN))
    made = [(await world.http.put("/webhooks/secret", headers=headers)).json()["secret"] for _ in range(2)]
    acme = bearer(key(clear, Scope.ADMIN))
    plain = (await clear.http.put("/webhooks/secret", headers=acme)).json()["secret"]
    later = a_world(secrets_key=KEYS[1], secrets_keys_old=KEYS[0])
    later.control.book.webhooks = {**world.control.book.webhooks, **clear.control.book.webhooks}
    assert later.control.book.webhooks["acme"].secret == plain
    rotated = await later.http.post("/secrets/rotate", headers=headers)
    assert rotated.json() == {"rotated": 2, "failed": []}
    vault = Vault(LocalKeys(bytes([1]) * 32))
    stored = later.control.book.webhooks
    secrets = [stored["default"].secret, stored["default"].former[0].secret, stored["acme"].secret]
    assert all(isinstance(one, Sealed) and vault.is_current(one) for one in secrets)
    assert [sealing.opened(vault, "default", one) for one in secrets[:2]] == made[::-1]
    assert sealing.opened(vault, "acme", secrets[2]) == plain
    assert (await later.http.post("/secrets/rotate", headers=headers)).json()["rotated"] == 0


async def test_no_secret_of_a_function_can_be_taken_for_what_webhooks_are_signed_with() -> None:
    world = world_with_key()
    check_problem(await put(world, sealing.NAME), 422, "invalid_secret", "name")


async def test_one_that_no_key_opens_is_named_unless_it_signs_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_with_key()
    headers = bearer(str(ADMIN))
    await world.http.put("/webhooks/secret", headers=headers)
    later = a_world(secrets_key=KEYS[1])
    later.control.book.webhooks = dict(world.control.book.webhooks)
    failed = (await later.http.post("/secrets/rotate", headers=headers)).json()["failed"]
    assert [(one["tenant"], one["name"]) for one in failed] == [("default", "webhook-secret")]
    await later.http.put("/webhooks/secret", headers=headers)
    assert (await later.http.post("/secrets/rotate", headers=headers)).json()["failed"]
    until = later.control.book.webhooks["default"].former[0].until
    monkeypatch.setattr(secrets, "now", lambda: until)
    assert (await later.http.post("/secrets/rotate", headers=headers)).json() == {"rotated": 0, "failed": []}


async def test_only_operators_rotate() -> None:
    world = world_with_key()
    refused = await world.http.post("/secrets/rotate", headers=bearer(key(world, Scope.ADMIN)))
    check_problem(refused, 403, "forbidden", None)


async def test_a_vault_that_does_not_answer_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise SecretsUnavailable("KMS does not answer")

    monkeypatch.setattr(Vault, "seal", away)
    check_problem(await put(world_with_key()), 503, "secrets_unavailable", None)


async def test_a_secret_that_the_audit_log_does_not_have_is_not_set() -> None:
    world = world_with_key()
    world.audit.down = "timed out"
    check_problem(await put(world), 503, "log_unavailable", None)
    assert not world.control.book.secrets


async def test_the_audit_log_has_names_and_no_value() -> None:
    world = world_with_key()
    await put(world)
    await world.http.delete("/secrets/TOKEN", headers=bearer(str(ADMIN)))
    assert [(one.action, one.target) for one in world.audit.entries] == [
        ("secret.set", "TOKEN"),
        ("secret.remove", "TOKEN"),
    ]
    assert VALUE.encode() not in b"".join(world.audit.records)
