"""A secret from the command that sets it to the function, and out of what the function says of it."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import msgspec
import pytest

from mayfly.adapters.kafka import AUDIT_TOPIC, replay
from mayfly.build import build
from mayfly.function import Function
from mayfly.identity.chain import Verifier
from mayfly.identity.keys import new_credential
from mayfly.identity.vault import new_key
from tests.e2e.conftest import PATIENCE, Fleet, deployed, eventually

VALUE = "correct horse battery staple"
TELLTALE = """\
import os
import sys
import time


def handler(event, context):
    secret = os.environ["TOKEN"]
    for letter in f"with {secret}\\n":
        sys.stderr.write(letter)
        sys.stderr.flush()
    if event == "fail":
        raise ValueError(f"not with {secret}")
    return len(secret)
"""


@pytest.fixture
async def telltale(
    fleet: Fleet, docker_engine: docker.DockerClient, tmp_path: Path
) -> AsyncIterator[Function]:
    folder = tmp_path / f"telltale-{fleet.settings.queue[-6:]}"
    folder.mkdir()
    (folder / "handler.py").write_text(TELLTALE)
    (folder / "function.toml").write_text('secrets = ["TOKEN"]\n')
    function = build(folder, docker_engine, on_progress=lambda _: None)
    function = msgspec.structs.replace(function, queue=fleet.settings.queue)
    async with deployed(fleet, function):
        yield function


class Admin:
    """A gateway that asks who calls, and its admin."""

    def __init__(self, fleet: Fleet) -> None:
        self.key = str(new_credential())
        service = fleet.start("gateway", MAYFLY_AUTH="true", MAYFLY_ADMIN_KEY=self.key).until_up()
        self.http = httpx.Client(base_url=service.url, timeout=PATIENCE, trust_env=False)
        eventually(lambda: self.http.get("/readyz").status_code == 200, "the gateway is ready")
        self.headers = {"authorization": f"Bearer {self.key}"}
        eventually(lambda: self.ask("GET", "/secrets").status_code == 200, "the keys are read")

    def ask(self, method: str, path: str, key: str = "", **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else self.headers
        return self.http.request(method, path, headers=headers, **more)

    def run(self, function: Function, payload: Any, key: str) -> Any:
        body = {"taskType": function.name, "payload": payload}
        posted = self.ask("POST", "/tasks", key, json=body)
        assert posted.status_code == 202, posted.text
        path = f"/tasks/{posted.json()['taskId']}"

        def ended() -> bool:
            return self.ask("GET", f"{path}?wait=30", key).json()["status"] in ("COMPLETED", "FAILED")

        eventually(ended, "the task has ended")
        task = self.ask("GET", path, key).json()
        return task | {"log": self.ask("GET", f"{path}/logs", key).text}


@pytest.fixture
def admin(fleet: Fleet) -> Iterator[Admin]:
    one = Admin(fleet)
    yield one
    one.http.close()


def verified(fleet: Fleet, *arguments: str) -> tuple[int, Any]:
    command = [sys.executable, "-m", "mayfly.audit.trail", *arguments]
    done = subprocess.run(
        command, env=fleet.environment, stdout=subprocess.PIPE, check=False, timeout=PATIENCE
    )
    return done.returncode, json.loads(done.stdout)


async def test_a_secret_reaches_the_function_and_nobody_else(
    fleet: Fleet, admin: Admin, telltale: Function
) -> None:
    made = admin.ask("POST", "/keys", json={"scopes": ["submit", "read"]}).json()
    fleet.dispatchers(1)
    missing = admin.run(telltale, "fine", made["key"])
    assert "mayfly secrets set TOKEN" in missing["error"]["message"]
    assert admin.ask("PUT", "/secrets/TOKEN", content=VALUE).status_code == 200
    fine = admin.run(telltale, "fine", made["key"])
    assert (fine["status"], fine["result"]) == ("COMPLETED", len(VALUE))
    assert fine["log"] == "with ***\n"
    failed = admin.run(telltale, "fail", made["key"])
    assert failed["error"]["message"] == "not with ***"
    assert VALUE not in json.dumps(failed)
    assert "***" in failed["error"]["traceback"]
    assert admin.ask("DELETE", "/secrets/TOKEN").status_code == 200
    logs = b"".join(service.log.read_bytes() for service in fleet.services)
    assert VALUE.encode() not in logs

    actions = [record["action"] for record in admin.ask("GET", "/audit").json()["records"]][:3]
    assert actions == ["secret.remove", "secret.set", "key.create"]
    assert admin.ask("GET", "/audit", made["key"]).status_code == 403
    code, report = verified(fleet)
    assert (code, report["found"]) == (0, 0), report
    assert verified(fleet, "--head", report["head"])[0] == 0
    assert verified(fleet, "--head", f"0:{'0' * 64}")[0] == 1


async def test_a_copy_of_the_audit_log_that_was_touched_is_found(fleet: Fleet, admin: Admin) -> None:
    for _ in range(5):
        assert admin.ask("POST", "/keys", json={"scopes": ["read"]}).status_code == 201
    values = [entry.value async for batch in replay(fleet.settings, [(AUDIT_TOPIC, 0)]) for entry in batch]
    changed = [*values[:-2], (values[-2] or b"").replace(b"key.create", b"key.revoke"), values[-1]]
    moved = [*values[:-3], values[-2], values[-3], values[-1]]
    copies = [changed, moved, [*values[:-2], values[-1]], [*values[:-1], values[-2], values[-1]]]
    for copy in (values, *copies):
        verifier = Verifier()
        found = [one for place, value in enumerate(copy) for one in verifier.take(place, value)]
        assert bool(found) == (copy is not values), found


async def test_what_one_gateway_has_stored_a_dispatcher_with_another_key_does_not_open(
    fleet: Fleet, admin: Admin, telltale: Function
) -> None:
    admin.ask("PUT", "/secrets/TOKEN", content=VALUE)
    fleet.dispatchers(1, MAYFLY_SECRETS_KEY=new_key())
    failed = admin.run(telltale, "fine", admin.key)
    admin.ask("DELETE", "/secrets/TOKEN")
    assert failed["status"] == "FAILED"
    assert "cannot be opened" in failed["error"]["message"]
