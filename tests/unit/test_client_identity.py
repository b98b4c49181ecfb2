"""Who asks: where a credential comes from, where it goes, and where it does not."""

import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from scripted import TASK_ID, ScriptedGateway

from mayfly.client import (
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    Conflict,
    Forbidden,
    NotFound,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    Unreachable,
    identity,
    wire,
)
from mayfly.client.target import target
from mayfly.identity.keys import new_credential

KEY = str(new_credential())
OTHER = str(new_credential())
TASK = f"/tasks/{TASK_ID}"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No setting of whoever runs the tests; the file of profiles."""
    for name in ("URL", "API_KEY", "PROFILE", "ALLOW_HTTP"):
        monkeypatch.delenv(f"MAYFLY_{name}", raising=False)
    path = tmp_path / "config.toml"
    monkeypatch.setenv("MAYFLY_CONFIG", str(path))
    return path


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def client(gateway: ScriptedGateway) -> Iterator[Client]:
    with Client(gateway.url, api_key=KEY) as client:
        yield client


@pytest.fixture
async def async_client(gateway: ScriptedGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.url, token="a.b.c") as client:
        yield client


def profile(config: Path, name: str, **keys: str) -> None:
    lines = "\n".join(f'{key} = "{value}"' for key, value in keys.items())
    with config.open("a") as file:
        file.write(f"[profiles.{name}]\n{lines}\n")
    config.chmod(0o600)


# --- where it comes from


def test_a_key_goes_with_every_request(gateway: ScriptedGateway, client: Client) -> None:
    gateway.answer("GET /functions", {"functions": []})
    gateway.answer("POST /tasks", gateway.task("QUEUED"), 202)
    client.functions()
    client.submit("echo")
    assert [request.headers["authorization"] for request in gateway.requests] == [f"Bearer {KEY}"] * 2


async def test_a_token_goes_with_every_request_of_the_client_for_asyncio(
    gateway: ScriptedGateway, async_client: AsyncClient
) -> None:
    gateway.answer("GET /functions", {"functions": []})
    await async_client.functions()
    assert gateway.requests[0].headers["authorization"] == "Bearer a.b.c"


def test_without_a_credential_none_is_sent(gateway: ScriptedGateway) -> None:
    gateway.answer("GET /functions", {"functions": []})
    with Client(gateway.url) as client:
        client.functions()
    assert "authorization" not in gateway.requests[0].headers


def test_the_argument_counts_before_the_variable_and_that_before_the_profile(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(config, "default", url="https://a.example", api_key=OTHER)
    assert target("https://a.example").credential == OTHER
    monkeypatch.setenv("MAYFLY_API_KEY", f"{KEY}\n")
    assert target("https://a.example").credential == KEY
    assert target("https://a.example", token="given").credential == "given"


def test_a_profile_that_is_named_counts_before_the_environment(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(config, "a", url="https://a.example", api_key=KEY)
    monkeypatch.setenv("MAYFLY_URL", "https://b.example")
    monkeypatch.setenv("MAYFLY_API_KEY", OTHER)
    found = target(profile="a")
    assert (str(found.url), found.credential) == ("https://a.example", KEY)


def test_a_profile_is_named_in_the_environment_too(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile(config, "default", url="https://d.example", api_key=OTHER)
    profile(config, "a", url="https://a.example", api_key=KEY)
    assert str(target().url) == "https://d.example"
    monkeypatch.setenv("MAYFLY_PROFILE", "a")
    found = target()
    assert (str(found.url), found.credential) == ("https://a.example", KEY)


def test_a_token_of_a_login_counts_before_the_profiles_key(config: Path) -> None:
    profile(config, "default", url="https://a.example", api_key=KEY, token="of.a.login")
    assert target().credential == "of.a.login"


@pytest.mark.parametrize("url", ["https://b.example", "https://a.example:444", "http://a.example"])
def test_a_profiles_credential_goes_to_no_other_gateway(config: Path, url: str) -> None:
    profile(config, "default", url="https://a.example", api_key=KEY)
    profile(config, "a", url="https://a.example", api_key=KEY)
    assert target(url).credential is None
    assert target(url, profile="a").credential is None
    assert target("https://a.example:443/").credential == KEY


def test_a_file_that_is_wrong_is_in_nobodys_way_who_needs_none(config: Path) -> None:
    config.write_text("nonsense")
    assert target("https://a.example", api_key=KEY).credential == KEY
    with pytest.raises(ClientError, match="is no TOML"):
        target()


def test_a_key_and_a_token_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        Client("https://a.example", api_key=KEY, token="t")


# --- where it does not go


@pytest.mark.parametrize("url", ["http://mayfly.example", "http://10.0.0.7:8080", "http://localhost.example"])
def test_a_credential_is_not_sent_over_plain_http_to_another_machine(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ClientError, match=r"plain http.*MAYFLY_ALLOW_HTTP=true") as caught:
            kind(url, api_key=KEY)
        assert KEY not in str(caught.value)
        kind(url)
    monkeypatch.setenv("MAYFLY_ALLOW_HTTP", "true")
    assert target(url, api_key=KEY).credential == KEY


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://a.b"])
def test_a_credential_is_sent_to_this_machine_and_over_https(url: str) -> None:
    assert target(url, api_key=KEY).credential == KEY


def test_a_password_is_not_sent_over_plain_http_to_another_machine() -> None:
    with Client("http://mayfly.example") as client, pytest.raises(ClientError, match="plain http"):
        client.login("ana", "secret")


@pytest.mark.parametrize("wrong", ["", " ", "two words", "line\nbreak", "ümlaut", "x" * 9000])
def test_what_no_header_can_carry_is_refused_and_not_shown(wrong: str) -> None:
    with pytest.raises(ClientError, match="is no API key and no token") as caught:
        Client("https://a.example", api_key=wrong)
    assert not wrong.strip() or wrong not in str(caught.value)


def test_a_url_with_a_password_is_refused_and_the_password_not_shown() -> None:
    with pytest.raises(ClientError, match="holds a password") as caught:
        Client("https://ana:hunter2@a.example")
    assert "hunter2" not in str(caught.value)


def test_a_credential_is_in_no_repr_no_error_and_no_log(
    gateway: ScriptedGateway, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.refuse("GET /functions", 401, "unauthenticated", "The key is not known.")
    with caplog.at_level(logging.DEBUG), pytest.raises(Unauthenticated) as refused:
        client.functions()
    with Client("http://127.0.0.1:1", api_key=KEY) as nowhere, pytest.raises(Unreachable) as unreachable:
        nowhere.workers()
    secret = KEY.partition(".")[2]
    shown = [repr(client), repr(target("https://a.b", api_key=KEY)), caplog.text]
    shown += [f"{error.value!r} {error.value} {vars(error.value)}" for error in (refused, unreachable)]
    assert not [text for text in shown if secret in text]


def test_a_credential_does_not_follow_where_an_answer_points(
    gateway: ScriptedGateway, client: Client
) -> None:
    with ScriptedGateway() as other:
        gateway.answer("GET /functions", b"", 307, location=f"{other.url}/functions")
        with pytest.raises(ClientError):
            client.functions()
        assert other.requests == []


# --- refusals


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (429, TooManyRequests),
        (503, Unavailable),
        (422, ApiError),
    ],
)
def test_a_refusal_is_an_error_of_its_kind(
    gateway: ScriptedGateway, client: Client, status: int, kind: type[ApiError]
) -> None:
    gateway.refuse("POST /keys", status, "some_code", "why", retry_after="7")
    with pytest.raises(ApiError) as caught:
        client.create_key(["read"])
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (status, "some_code", 7)


@pytest.mark.parametrize("call", ["GET /functions", "POST /tasks"])
def test_too_many_requests_are_asked_again_when_the_gateway_says(
    gateway: ScriptedGateway, client: Client, call: str
) -> None:
    gateway.refuse(call, 429, "too_many_requests", "slow down", retry_after="0")
    gateway.refuse(call, 429, "too_many_requests", "slow down")
    gateway.answer(call, {"functions": [], **gateway.task("QUEUED")})
    client.functions() if call.startswith("GET") else client.submit("echo")
    assert len(gateway.requests) == 3
    assert len({request.headers.get("idempotency-key") for request in gateway.requests}) == 1


def test_a_time_that_is_too_long_is_the_callers_to_wait(gateway: ScriptedGateway, client: Client) -> None:
    gateway.refuse("GET /functions", 429, "too_many_requests", "slow down", retry_after="11")
    with pytest.raises(TooManyRequests) as caught:
        client.functions()
    assert caught.value.retry_after == 11
    assert len(gateway.requests) == 1


def test_the_pause_after_a_429_is_the_one_that_it_names() -> None:
    said = wire.Answer(
        429,
        {"content-type": "application/problem+json", "retry-after": "4"},
        b'{"code": "too_many_requests"}',
    )
    call = wire.send(wire.Request("GET", "/x"))
    next(call)
    assert call.send(said) == wire.Pause(4.0)


def test_a_stream_that_is_refused_for_now_is_asked_for_again(
    gateway: ScriptedGateway, client: Client
) -> None:
    gateway.refuse(f"GET {TASK}/events", 429, "too_many_requests", "slow down", retry_after="0")
    gateway.stream(f"GET {TASK}/events", ("status", gateway.task("COMPLETED")))
    assert len(list(client.events(TASK_ID))) == 1
    assert {request.headers["authorization"] for request in gateway.requests} == {f"Bearer {KEY}"}


# --- time


def test_an_answer_may_take_as_long_as_the_client_allows() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []
        taking = threading.Thread(target=_hold, args=(silent, held), daemon=True)
        taking.start()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout=0.05) as client, pytest.raises(Unreachable, match="in time"):
            client.readiness()
        taking.join()
    for connection in held:
        connection.close()


def _hold(listener: socket.socket, held: list[socket.socket]) -> None:
    held.append(listener.accept()[0])


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_time_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        Client("https://a.example", timeout=timeout)


# --- keys and users


def test_a_key_is_made_listed_and_revoked(gateway: ScriptedGateway, client: Client) -> None:
    stored = {"id": "0" * 16, "name": "mailer", "tenant": "acme", "scopes": ["read"], "createdBy": "key:1"}
    gateway.answer("POST /keys", {**stored, "key": OTHER}, 201)
    gateway.answer("GET /keys", {"keys": [{**stored, "revokedAt": "2026-11-24T12:00:00.123Z"}]})
    gateway.answer(f"DELETE /keys/{'0' * 16}", stored)
    ends = datetime(2027, 1, 1, tzinfo=UTC)
    made = client.create_key(["read"], name="mailer", expires_at=ends, tenant="acme")
    assert (made.key, made.id, made.scopes) == (OTHER, "0" * 16, ("read",))
    assert OTHER not in repr(made)
    assert gateway.requests[0].json == {
        "scopes": ["read"],
        "name": "mailer",
        "expiresAt": "2027-01-01T00:00:00+00:00",
        "tenant": "acme",
    }
    [listed] = client.keys()
    assert listed.revoked_at == datetime(2026, 11, 24, 12, 0, 0, 123000, UTC)
    assert client.revoke_key("0" * 16).tenant == "acme"


ANA: dict[str, Any] = {"name": "ana", "tenant": "acme", "scopes": ["read"], "createdBy": "key:1"}


async def test_a_user_is_made_listed_given_a_password_and_disabled(
    gateway: ScriptedGateway, async_client: AsyncClient
) -> None:
    gateway.answer("POST /users", ANA, 201)
    gateway.answer("GET /users", {"users": [ANA]})
    gateway.answer("PUT /users/ana/password", ANA)
    gateway.answer("DELETE /users/ana", {**ANA, "disabledAt": "2026-11-24T12:00:00.123Z"})
    gateway.answer("POST /login", {"token": "a.b.c", "tokenType": "Bearer", "expiresInSeconds": 3600})
    await async_client.create_user("ana", "correct horse battery", ["read"])
    assert [user.name for user in await async_client.users()] == ["ana"]
    await async_client.set_password("ana", "another horse battery")
    assert (await async_client.disable_user("ana")).disabled_at is not None
    token = await async_client.login("ana", "another horse battery")
    assert (token.token, token.expires_in_seconds) == ("a.b.c", 3600)
    assert "a.b.c" not in repr(token)
    bodies = [request.json for request in gateway.requests if request.body]
    assert bodies == [
        {"name": "ana", "password": "correct horse battery", "scopes": ["read"]},
        {"password": "another horse battery"},
        {"username": "ana", "password": "another horse battery"},
    ]


def test_what_is_made_is_not_asked_for_twice(gateway: ScriptedGateway, client: Client) -> None:
    gateway.lose("POST /keys")
    gateway.lose("POST /users")
    with pytest.raises(Unreachable):
        client.create_key(["read"])
    with pytest.raises(Unreachable):
        client.create_user("ana", "correct horse battery", ["read"])
    assert len(gateway.requests) == 2


def test_a_login_that_is_refused_for_now_is_not_tried_again_by_itself() -> None:
    call = identity.login("ana", "secret")
    next(call)
    said = wire.Answer(
        429,
        {"content-type": "application/problem+json", "retry-after": "1"},
        b'{"code": "too_many_requests"}',
    )
    with pytest.raises(TooManyRequests):
        call.send(said)
