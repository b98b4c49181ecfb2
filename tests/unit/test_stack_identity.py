"""A local stack that asks who calls."""

from pathlib import Path

import pytest

from mayfly.identity.keys import new_credential, parse
from mayfly.stack.home import Home
from mayfly.stack.services import Dispatcher, Gateway
from mayfly.stack.stack import Stack

GIVEN = {
    "MAYFLY_AUTH": "true",
    "MAYFLY_ADMIN_KEY": str(new_credential()),
    "MAYFLY_JWT_SECRET": "of thirty-two bytes, or a few more",
    "MAYFLY_JWT_ISSUER": "us",
    "MAYFLY_JWT_AUDIENCE": "them",
    "MAYFLY_JWT_JWKS_URL": "https://id.example/keys",
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "stack")
    home.make()
    return home


def stack(home: Home, services: bool = True, **environ: str) -> Stack:
    return Stack(home.path, environ=environ, services=services, usual_ports=False, say=lambda line: None)


def test_what_says_who_may_call_is_passed_on_to_the_gateway_and_to_the_tools(home: Home) -> None:
    made = stack(home, **GIVEN)
    gateway = Gateway.plan(home, lambda line: None, made._child_environment, {}, usual=False)
    assert GIVEN.items() <= gateway.child_environment().items()
    assert GIVEN.items() <= made.environment().items()
    assert made.admin_key == GIVEN["MAYFLY_ADMIN_KEY"]
    assert made.settings().auth


def test_a_dispatcher_gets_no_secret_that_is_the_gateways(home: Home) -> None:
    made = stack(home, **GIVEN)
    dispatcher = Dispatcher.plan(home, lambda line: None, made._child_environment, 1, usual=False, grace=1)
    environment = dispatcher.child_environment()
    assert environment["MAYFLY_AUTH"] == "true"
    assert not {"MAYFLY_ADMIN_KEY", "MAYFLY_JWT_SECRET"} & environment.keys()


def test_without_an_admin_key_one_is_made_and_kept(home: Home) -> None:
    key = stack(home, MAYFLY_AUTH="true").admin_key
    assert key is not None
    assert parse(key)
    assert stack(home, MAYFLY_AUTH="true").admin_key == key
    assert (home.path / "secrets" / "admin-key").stat().st_mode & 0o077 == 0


def test_where_nobody_is_asked_no_key_is_made(home: Home) -> None:
    assert stack(home).admin_key is None
    assert stack(home, services=False, MAYFLY_AUTH="true").admin_key is None
    assert not (home.path / "secrets" / "admin-key").exists()


@pytest.mark.parametrize(
    ("host", "address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://0.0.0.0:1", "http://127.0.0.1:1"),
        ("::", "http://[::]:1", "http://[::1]:1"),
        ("10.0.0.7", "http://10.0.0.7:1", "http://10.0.0.7:1"),
    ],
)
def test_a_gateway_on_every_address_is_called_on_loopback(
    home: Home, host: str, address: str, url: str
) -> None:
    gateway = Gateway(home, lambda line: None, dict, host, 1)
    assert (gateway.address, gateway.url) == (address, url)
