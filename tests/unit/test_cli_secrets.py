"""`mayfly secrets` and `mayfly audit-log ls`: what is sent, and what is printed and what is not."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import Mayfly, ScriptedGateway, command

from mayfly.cli.output import FAILED, USAGE
from mayfly.client import AsyncClient, Client
from mayfly.identity.vault import parse_key

SECRET = {"name": "TOKEN", "updatedAt": "2026-11-24T12:00:00.123Z", "updatedBy": "user:ana", "keyId": "ab"}
RECORD = {
    "place": 3,
    "at": "2026-11-24T12:00:00.123Z",
    "subject": "user:ana",
    "tenant": "acme",
    "action": "key.create",
    "target": "k1",
    "outcome": "ok",
    "address": "10.0.0.1",
    "requestId": "r",
    "count": 1,
}
VALUE = "correct horse battery staple"


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    return command(gateway, tmp_path, monkeypatch)


@pytest.fixture
async def client(gateway: ScriptedGateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.url) as client:
        yield client


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (VALUE, VALUE),
        (f"{VALUE}\n", VALUE),
        (f"{VALUE}\r\n", VALUE),
        (f"{VALUE}\n\n", f"{VALUE}\n"),
        (f" {VALUE} ", f" {VALUE} "),
    ],
)
def test_a_value_comes_from_stdin_without_its_last_line_end(
    gateway: ScriptedGateway, mayfly: Mayfly, given: str, sent: str
) -> None:
    gateway.answer("PUT /secrets/TOKEN", SECRET)
    done = mayfly("secrets", "set", "TOKEN", input=given)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "TOKEN is set\n")
    assert gateway.requests[0].body.decode() == sent


def test_a_value_comes_from_a_file_as_it_is(gateway: ScriptedGateway, mayfly: Mayfly, tmp_path: Path) -> None:
    gateway.answer("PUT /secrets/TOKEN", SECRET)
    (tmp_path / "key.pem").write_bytes(b"-----BEGIN\n")
    assert mayfly("secrets", "set", "TOKEN", "--file", "key.pem").exit_code == 0
    assert gateway.requests[0].body == b"-----BEGIN\n"


def test_a_value_is_never_an_argument(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    done = mayfly("secrets", "set", f"TOKEN={VALUE}")
    assert done.exit_code == USAGE
    assert VALUE not in done.output
    assert mayfly("secrets", "set", "TOKEN", VALUE).exit_code == USAGE
    assert gateway.requests == []


def test_nothing_is_no_value(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    done = mayfly("secrets", "set", "TOKEN", input="\n")
    assert done.exit_code == USAGE
    assert "mayfly secrets rm TOKEN" in done.stderr
    assert gateway.requests == []


def test_a_value_that_is_too_long_is_not_sent(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    done = mayfly("secrets", "set", "TOKEN", input="x" * 65_537)
    assert done.exit_code == USAGE
    assert "65537 bytes, and may have 65536" in done.stderr
    assert gateway.requests == []


def test_secrets_are_listed_and_removed(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("GET /secrets", {"secrets": [SECRET]})
    gateway.answer("DELETE /secrets/TOKEN", SECRET)
    header, row = mayfly("secrets", "ls").stdout.splitlines()
    assert header.split("\t") == ["NAME", "SET", "BY", "KEY"]
    assert row.split("\t")[0] == "TOKEN"
    assert json.loads(mayfly("secrets", "ls", "--json").stdout)["secrets"][0]["updatedBy"] == "user:ana"
    assert mayfly("secrets", "rm", "TOKEN").stderr == "TOKEN is gone\n"


def test_what_cannot_be_encrypted_anew_is_named(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    failed = {"tenant": "acme", "name": "TOKEN", "detail": "no key opens it"}
    gateway.answer("POST /secrets/rotate", {"rotated": 2, "failed": [failed]})
    done = mayfly("secrets", "rotate")
    assert done.exit_code == FAILED
    assert "TOKEN of acme stays under its old key: no key opens it" in done.stderr
    assert "2 encrypted anew" in done.stderr


def test_a_gateway_without_a_key_says_what_to_set(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.refuse("PUT /secrets/TOKEN", 501, "no_secrets_key", "Set MAYFLY_SECRETS_KEY.")
    done = mayfly("secrets", "set", "TOKEN", input=VALUE)
    assert done.exit_code == FAILED
    assert "Set MAYFLY_SECRETS_KEY." in done.stderr


def test_a_key_is_printed_that_the_settings_take(mayfly: Mayfly) -> None:
    keys = {mayfly("secrets", "generate-key").stdout for _ in range(2)}
    assert len(keys) == 2
    assert all(len(parse_key(key)) == 32 for key in keys)


def test_the_audit_log_is_listed_page_by_page(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    refused: dict[str, Any] = {**RECORD, "place": 2, "outcome": "refused", "reason": "no key", "count": 9}
    gateway.answer("GET /audit", {"records": [RECORD], "nextCursor": "3"})
    gateway.answer("GET /audit", {"records": [refused], "nextCursor": None})
    lines = mayfly("audit-log", "ls", "--action", "key", "--by", "user:ana").stdout.splitlines()
    assert [line.split("\t")[5] for line in lines] == ["OUTCOME", "ok", "refused: no key"]
    assert gateway.requests[0].query == [("subject", "user:ana"), ("action", "key"), ("limit", "20")]
    assert ("cursor", "3") in gateway.requests[1].query


async def test_both_clients_have_the_same(gateway: ScriptedGateway, client: AsyncClient) -> None:
    gateway.answer("GET /secrets", {"secrets": [SECRET]})
    gateway.answer("PUT /secrets/TOKEN", SECRET)
    gateway.answer("DELETE /secrets/TOKEN", SECRET)
    gateway.answer("POST /secrets/rotate", {"rotated": 1, "failed": []})
    gateway.answer("GET /audit", {"records": [RECORD], "nextCursor": None})
    with Client(gateway.url) as blocking:
        assert await client.secrets() == blocking.secrets()
        assert await client.set_secret("TOKEN", VALUE) == blocking.set_secret("TOKEN", VALUE.encode())
        assert await client.remove_secret("TOKEN") == blocking.remove_secret("TOKEN")
        assert await client.rotate_secrets() == blocking.rotate_secrets()
        assert [one async for one in client.audit_log()] == list(blocking.audit_log())
