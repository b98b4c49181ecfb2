"""Keys and users by the command, at a real gateway that asks who calls."""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cli_command import MAYFLY
from gateway_process import PATIENCE, Process, StartGateway, wait_for

Mayfly = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mayfly(tmp_path: Path) -> Mayfly:
    """The command in an empty folder, with a file of profiles of its own, and `stdin`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    kept["MAYFLY_CONFIG"] = str(tmp_path / "config" / "config.toml")

    def run(*args: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*MAYFLY, *args],
            cwd=tmp_path,
            env=kept | variables,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def until_done(run: Callable[[], subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    """What it gives once it is not told to come again: the gateway is up before it has read its topics."""
    deadline = time.monotonic() + PATIENCE
    while (done := run()).returncode == 3:
        assert time.monotonic() < deadline, done.stderr
    return done


def ready(process: Process) -> str:
    url = process.url
    wait_for(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200, process)
    return url


def test_a_key_and_a_user_are_made_used_and_ended(start_gateway: StartGateway, mayfly: Mayfly) -> None:
    admin = mayfly("keys", "generate").stdout.strip()
    secret = "of thirty-two bytes, or a few more"
    url = ready(start_gateway(MAYFLY_AUTH="true", MAYFLY_ADMIN_KEY=admin, MAYFLY_JWT_SECRET=secret))
    as_admin = {"MAYFLY_URL": url, "MAYFLY_API_KEY": admin}

    nobody = mayfly("ls", "--url", url)
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr.startswith("error: not let in: ")
    made = mayfly("keys", "create", "--scope", "read", "--expires", "1h", "--json", **as_admin)
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)
    as_reader = {"MAYFLY_URL": url, "MAYFLY_API_KEY": key["key"]}
    listed = until_done(lambda: mayfly("ls", **as_reader))
    assert listed.returncode == 0, listed.stderr
    forbidden = mayfly("keys", "ls", **as_reader)
    assert forbidden.stderr.startswith("error: not allowed: This needs the scope admin")
    assert key["id"] in mayfly("keys", "ls", **as_admin).stdout
    assert mayfly("keys", "revoke", key["id"], **as_admin).returncode == 0
    refused = mayfly("ls", **as_reader)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: not let in: The credential is refused: the key was revoked.")

    assert until_done(lambda: mayfly("users", "ls", **as_admin)).returncode == 0
    password = "correct horse battery staple\n"
    # Users are in a topic that all gateways of the session share.
    name = f"ana-{uuid.uuid4().hex[:12]}"
    ana = mayfly("users", "create", name, "--scope", "read", stdin=password, **as_admin)
    assert ana.returncode == 0, ana.stderr
    login = mayfly("login", url, "--username", name, stdin=password)
    assert login.returncode == 0, login.stderr
    assert mayfly("ls").returncode == 0
    assert mayfly("users", "disable", name, **as_admin).returncode == 0
    ended = mayfly("ls")
    assert ended.returncode == 1
    assert "the user was disabled" in ended.stderr
    again = mayfly("login", stdin=password)
    assert (again.returncode, again.stderr) == (1, "error: refused: The name or the password is wrong.\n")
