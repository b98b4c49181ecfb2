"""Keys and users by the command, at a real gateway that asks who calls."""

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from gateway_process import PATIENCE, Process, StartGateway, wait_for
from typer.testing import CliRunner, Result

from mayfly.cli.app import app
from tests.web import WEB

Mayfly = Callable[..., Result]
SETTINGS = ("MAYFLY_URL", "MAYFLY_API_KEY", "MAYFLY_PROFILE")


@pytest.fixture
def mayfly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    """The command in an empty folder, with a file of profiles of its own; in this process, since it is asked
    for often."""
    monkeypatch.chdir(tmp_path)
    config = {"MAYFLY_CONFIG": str(tmp_path / "config" / "config.toml")}

    def run(*args: str, stdin: str = "", **variables: str) -> Result:
        env = dict.fromkeys(SETTINGS) | config | variables
        return CliRunner().invoke(app, args, input=stdin, env=env, catch_exceptions=False)

    return run


def until_done(run: Callable[[], Result]) -> Result:
    """What it gives once it is not told to come again: the gateway is up before it has read its topics."""
    deadline = time.monotonic() + PATIENCE
    while (done := run()).exit_code == 3:
        assert time.monotonic() < deadline, done.stderr
    return done


def ready(process: Process) -> str:
    url = process.url
    wait_for(lambda: WEB.get(f"{url}/readyz").status_code == 200, process)
    return url


def test_a_key_and_a_user_are_made_used_and_ended(start_gateway: StartGateway, mayfly: Mayfly) -> None:
    admin = mayfly("keys", "generate").stdout.strip()
    secret = "of thirty-two bytes, or a few more"
    url = ready(start_gateway(MAYFLY_AUTH="true", MAYFLY_ADMIN_KEY=admin, MAYFLY_JWT_SECRET=secret))
    as_admin = {"MAYFLY_URL": url, "MAYFLY_API_KEY": admin}

    nobody = mayfly("ls", "--url", url)
    assert (nobody.exit_code, nobody.stdout) == (1, "")
    assert nobody.stderr.startswith("error: not let in: ")
    made = mayfly("keys", "create", "--scope", "read", "--expires", "1h", "--json", **as_admin)
    assert made.exit_code == 0, made.stderr
    key = json.loads(made.stdout)
    as_reader = {"MAYFLY_URL": url, "MAYFLY_API_KEY": key["key"]}
    listed = until_done(lambda: mayfly("ls", **as_reader))
    assert listed.exit_code == 0, listed.stderr
    forbidden = mayfly("keys", "ls", **as_reader)
    assert forbidden.stderr.startswith("error: not allowed: This needs the scope admin")
    assert key["id"] in mayfly("keys", "ls", **as_admin).stdout
    assert mayfly("keys", "revoke", key["id"], **as_admin).exit_code == 0
    refused = mayfly("ls", **as_reader)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: not let in: The credential is refused: the key was revoked.")

    assert until_done(lambda: mayfly("users", "ls", **as_admin)).exit_code == 0
    password = "correct horse battery staple\n"
    # Users are in a topic that all gateways of the session share.
    name = f"ana-{uuid.uuid4().hex[:12]}"
    ana = mayfly("users", "create", name, "--scope", "read", stdin=password, **as_admin)
    assert ana.exit_code == 0, ana.stderr
    login = mayfly("login", url, "--username", name, stdin=password)
    assert login.exit_code == 0, login.stderr
    assert mayfly("ls").exit_code == 0
    assert mayfly("users", "disable", name, **as_admin).exit_code == 0
    ended = mayfly("ls")
    assert ended.exit_code == 1
    assert "the user was disabled" in ended.stderr
    again = mayfly("login", stdin=password)
    assert (again.exit_code, again.stderr) == (1, "error: refused: The name or the password is wrong.\n")
