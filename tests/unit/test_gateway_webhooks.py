"""Callbacks over HTTP: which are taken, and the secret that they are signed with."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from gateway_world import World, check_problem

from mayfly.errors import SecretsUnavailable
from mayfly.function import Function
from mayfly.identity.keys import ApiKey, new_credential
from mayfly.identity.principal import Scope
from mayfly.identity.vault import LocalKeys, Sealed, Vault
from mayfly.task import keyed_id
from mayfly.webhooks.sealing import opened

URL = "https://example.com/hook"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


async def renew(world: World, **options: Any) -> dict[str, Any]:
    answer = await world.http.put("/webhooks/secret", **options)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_a_callback_stands_in_the_tasks_command(world: World) -> None:
    await renew(world)
    answer = await world.post(callbackUrl=URL)
    assert answer.status_code == 202, answer.text
    assert world.commands.envelopes[0].callback_url == URL


async def test_without_one_nothing_is_said_of_it(world: World) -> None:
    await world.post()
    assert b"callbackUrl" not in world.commands.records[0][3]


async def test_it_may_be_said_beside_a_payload_of_bytes(world: World) -> None:
    await renew(world)
    query = {"taskType": "echo", "callbackUrl": URL}
    answer = await world.http.post(
        "/tasks", params=query, content=b"x", headers={"content-type": "image/png"}
    )
    assert answer.status_code == 202, answer.text
    assert world.commands.envelopes[0].callback_url == URL


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/", "must be an https URL"),
        ("example.com", "must be an absolute URL"),
        ("https://user:password@example.com/", "without a user name"),
        ("https://127.0.0.1/", "leads to 127.0.0.1, which is no public address"),
        ("https://2130706433/", "no IPv4 address in its usual form"),
        ("https://[fd00:ec2::254]/", "leads to fd00:ec2::254"),
        ("https://example.com:25/", "names the port 25"),
    ],
)
async def test_one_that_cannot_be_is_refused_and_the_problem_says_why(
    world: World, url: str, says: str
) -> None:
    await renew(world)
    problem = check_problem(await world.post(callbackUrl=url), 422, "invalid_callback", "callbackUrl")
    assert problem["detail"].startswith("callbackUrl ")
    assert says in problem["detail"]
    assert world.commands.records == []


@pytest.mark.parametrize("url", [5, "", "https://example.com/" + "x" * 2048])
async def test_so_is_what_is_no_text_of_that_length(world: World, url: object) -> None:
    check_problem(await world.post(callbackUrl=url), 422, "invalid_task", "callbackUrl")


async def test_what_an_operator_allows_is_taken() -> None:
    world = World(webhook_allow=("127.0.0.1:9000",), webhook_allow_http=True)
    async with world.http:
        await renew(world)
        assert (await world.post(callbackUrl="http://127.0.0.1:9000/hook")).status_code == 202
        check_problem(
            await world.post(callbackUrl="http://127.0.0.1:9001/"), 422, "invalid_callback", "callbackUrl"
        )


async def test_without_a_secret_no_callback_is_taken(world: World) -> None:
    problem = check_problem(await world.post(callbackUrl=URL), 409, "no_webhook_secret", "callbackUrl")
    assert "PUT /webhooks/secret" in problem["detail"]
    world.control.read = False
    check_problem(await world.post(callbackUrl=URL), 503, "catalog_unavailable", None)
    assert world.commands.records == []


async def test_another_callback_is_another_request(world: World) -> None:
    await renew(world)

    async def post(url: str) -> httpx.Response:
        body = {"taskType": "echo", "payload": None, "callbackUrl": url}
        return await world.http.post("/tasks", json=body, headers={"idempotency-key": "k"})

    assert (await post(URL)).json()["taskId"] == keyed_id("default", "k")
    assert (await post(URL)).headers["idempotent-replayed"] == "true"
    check_problem(await post(URL + "2"), 409, "idempotency_conflict", "Idempotency-Key")


async def test_a_re_run_has_the_callback_of_its_original(world: World) -> None:
    await renew(world)
    task_id = (await world.post(callbackUrl=URL)).json()["taskId"]
    world.read_model.hashes[task_id]["status"] = "COMPLETED"
    answer = await world.http.post(f"/tasks/{task_id}/rerun")
    assert answer.status_code == 202, answer.text
    assert world.commands.envelopes[1].callback_url == URL


async def test_a_functions_callback_is_not_in_its_tasks_commands(world: World) -> None:
    """What the function says when the task ends counts."""
    world.catalog.deploy(Function("told", "i", "v", callback_url=URL))
    assert (await world.post(taskType="told")).status_code == 202
    assert world.commands.envelopes[0].callback_url is None


# --- the secret


async def test_a_secret_is_shown_once_and_the_one_before_signs_for_a_day(world: World) -> None:
    first = await renew(world)
    assert first["secret"].startswith("whsec_")
    assert first["tenant"] == "default"
    assert "formerSignsUntil" not in first
    second = await renew(world)
    assert second["secret"] != first["secret"]
    assert second["formerSignsUntil"] > second["createdAt"]
    stored = world.control.book.webhooks["default"]
    assert [stored.secret, *(one.secret for one in stored.former)] == [second["secret"], first["secret"]]


async def test_with_a_master_key_nothing_of_a_secret_is_stored_in_clear(world: World) -> None:
    """Neither is the one that was made before there was a key."""
    before = await renew(world)
    sealing = World(secrets_key=base64.b64encode(bytes(32)).decode())
    sealing.control.book.webhooks = dict(world.control.book.webhooks)
    async with sealing.http:
        made = [before["secret"], *[(await renew(sealing))["secret"] for _ in range(2)]]
        assert (await sealing.post(callbackUrl=URL)).status_code == 202
    stored = sealing.control.book.webhooks["default"]
    secrets = [stored.secret, *(one.secret for one in stored.former)]
    assert all(isinstance(one, Sealed) for one in secrets)
    written = msgspec.json.encode(stored).decode()
    assert not any(one.removeprefix("whsec_").rstrip("=") in written for one in made)
    vault = Vault(LocalKeys(bytes(32)))
    assert [opened(vault, "default", one) for one in secrets] == made[::-1]


async def test_while_kms_is_away_there_is_no_new_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise SecretsUnavailable("KMS does not answer")

    monkeypatch.setattr(Vault, "seal", away)
    world = World(secrets_key=base64.b64encode(bytes(32)).decode())
    async with world.http:
        check_problem(await world.http.put("/webhooks/secret"), 503, "secrets_unavailable", None)
    assert not world.control.book.webhooks


async def test_no_cache_keeps_a_secret(world: World) -> None:
    answer = await world.http.put("/webhooks/secret")
    assert answer.headers["cache-control"] == "no-store"


async def test_while_the_secrets_are_being_read_none_is_replaced(world: World) -> None:
    """The one before would not sign any more."""
    world.control.read = False
    check_problem(await world.http.put("/webhooks/secret"), 503, "catalog_unavailable", None)
    assert world.control.book.webhooks == {}


async def test_without_the_log_there_is_no_new_secret(world: World) -> None:
    world.control.down = "refused"
    check_problem(await world.http.put("/webhooks/secret"), 503, "log_unavailable", None)


async def test_each_tenant_has_its_own() -> None:
    world = World(auth=True)
    world.http.headers.clear()
    async with world.http:
        headers = {}
        for tenant in ("acme", "zeta"):
            made = new_credential()
            key = ApiKey(made.id, made.sha256, tenant, (Scope.ADMIN,), 0)
            world.control.book.keys |= {made.id: key}
            headers[tenant] = {"authorization": f"Bearer {made}"}
        told = await renew(world, headers=headers["acme"])
        assert told["tenant"] == "acme"
        assert set(world.control.book.webhooks) == {"acme"}
        body = {"taskType": "echo", "payload": None, "callbackUrl": URL}
        taken = await world.http.post("/tasks", json=body, headers=headers["acme"])
        assert taken.status_code == 202, taken.text
        check_problem(
            await world.http.post("/tasks", json=body, headers=headers["zeta"]),
            409,
            "no_webhook_secret",
            "callbackUrl",
        )


async def test_wherever_a_task_comes_from_its_callback_is_looked_at(world: World) -> None:
    await renew(world)
    bad = "https://10.0.0.1/"
    item = {"taskType": "echo", "payload": 1, "callbackUrl": bad}
    said = (await world.http.post("/tasks/batch", json=[item])).json()
    assert said["items"][0]["problem"]["code"] == "invalid_callback"
    call = await world.http.post("/functions/echo/invoke", params={"callbackUrl": bad})
    check_problem(call, 422, "invalid_callback", "callbackUrl")
    assert not world.commands.records
