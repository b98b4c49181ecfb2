"""`mayfly tenants` and `mayfly webhooks renew`: what is sent, and what is printed and what is not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import Mayfly, ScriptedGateway, command

from mayfly.cli.output import USAGE
from mayfly.client import Allowance, AsyncClient, Client, Unreachable

SECRET = "whsec_3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
RENEWED = {"secret": SECRET, "tenant": "acme", "createdAt": "2026-11-24T12:00:00.123Z"}
FORMER = {"formerSignsUntil": "2026-11-25T12:00:00.123Z"}
ACME = {"tenant": "acme", "allowance": {"requestsPerSecond": 2.5, "waitingTasks": 0}}
TENANTS = {"tenants": [ACME], "defaults": {"payloadBytesPerDay": 1000}}


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as script:
        yield script


@pytest.fixture
def mayfly(gateway: ScriptedGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    return command(gateway, tmp_path, monkeypatch)


# --- what webhooks are signed with


def test_a_new_secret_stands_alone_on_stdout(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("PUT /webhooks/secret", RENEWED)
    gateway.answer("PUT /webhooks/secret", RENEWED | FORMER)
    first, second = mayfly("webhooks", "renew"), mayfly("webhooks", "renew")
    assert (first.exit_code, first.stdout) == (0, f"{SECRET}\n")
    assert first.stderr == "it signs the webhooks of acme; it is shown this once\n"
    assert "the one before beside it until 2026-11-2" in second.stderr
    assert SECRET not in first.stderr + second.stderr
    told = json.loads(mayfly("webhooks", "renew", "--json").stdout)
    assert told["secret"] == SECRET
    assert told.keys() == RENEWED.keys() | FORMER.keys()


def test_it_is_not_asked_for_twice(gateway: ScriptedGateway) -> None:
    """The second would take the place of the first, which nobody has seen."""
    gateway.lose("PUT /webhooks/secret")
    with Client(gateway.url) as client, pytest.raises(Unreachable):
        client.renew_webhook_secret()
    assert len(gateway.requests) == 1


# --- tenants


def test_tenants_are_listed_with_what_holds_for_all_others(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("GET /tenants", TENANTS)
    header, *rows = [line.split("\t") for line in mayfly("tenants", "ls").stdout.splitlines()]
    assert header[0] == "TENANT"
    assert rows == [["acme", "2.5", "0", "", ""], ["(all others)", "", "", "", "1000"]]
    assert json.loads(mayfly("tenants", "ls", "--json").stdout) == TENANTS


def test_what_a_tenant_may_ask_for_is_set(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("PUT /tenants/acme", ACME)
    done = mayfly("tenants", "set", "acme", "--requests-per-second", "2.5", "--waiting-tasks", "0")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "acme may have: requests per second 2.5, waiting tasks 0\n"
    assert gateway.requests[0].json == {"requestsPerSecond": 2.5, "waitingTasks": 0}
    mayfly("tenants", "set", "acme", "--running-tasks", "7", "--payload-bytes-per-day", "9", "--json")
    assert gateway.requests[1].json == {"runningTasks": 7, "payloadBytesPerDay": 9}


def test_with_nothing_what_holds_for_all_holds_for_it(gateway: ScriptedGateway, mayfly: Mayfly) -> None:
    gateway.answer("PUT /tenants/acme", {"tenant": "acme", "allowance": {}})
    done = mayfly("tenants", "set", "acme")
    assert (done.exit_code, done.stderr) == (0, "what holds for all holds for acme\n")
    assert gateway.requests[0].json == {}


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "many"])
def test_what_is_no_rate_is_not_sent(gateway: ScriptedGateway, mayfly: Mayfly, rate: str) -> None:
    done = mayfly("tenants", "set", "acme", "--requests-per-second", rate)
    assert done.exit_code == USAGE
    assert "no number above 0" in done.stderr
    assert mayfly("tenants", "set", "acme", "--waiting-tasks", "-1").exit_code == USAGE
    assert gateway.requests == []


async def test_both_clients_have_the_same(gateway: ScriptedGateway) -> None:
    gateway.answer("PUT /webhooks/secret", RENEWED)
    gateway.answer("GET /tenants", TENANTS)
    gateway.answer("PUT /tenants/acme", ACME)
    async with AsyncClient(gateway.url) as client:
        with Client(gateway.url) as blocking:
            made = await client.renew_webhook_secret()
            assert made == blocking.renew_webhook_secret()
            assert await client.tenants() == blocking.tenants()
            assert await client.set_tenant("acme", waiting_tasks=0) == blocking.set_tenant("acme")
            assert blocking.tenants().defaults == Allowance(payload_bytes_per_day=1000)
    assert SECRET not in repr(made)
