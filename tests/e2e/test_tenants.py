"""Two tenants and their keys, through real gateways and a dispatcher."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from mayfly.audit.__main__ import audit
from mayfly.function import Function
from mayfly.identity.keys import new_credential
from tests.e2e.conftest import Fleet, eventually

SIGNS = "of thirty-two bytes, or a few more"


class Gateways:
    """Two of them, and whoever operates them."""

    def __init__(self, fleet: Fleet) -> None:
        self._admin = str(new_credential())
        variables = {"MAYFLY_AUTH": "true", "MAYFLY_ADMIN_KEY": self._admin, "MAYFLY_HEARTBEAT_KEY": SIGNS}
        self._services = [fleet.start("gateway", **variables) for _ in range(2)]
        self.https = [
            httpx.Client(base_url=service.until_up().url, timeout=60, trust_env=False)
            for service in self._services
        ]
        for http in self.https:
            eventually(lambda http=http: http.get("/readyz").status_code == 200, "a gateway is ready")

    def call(self, method: str, path: str, key: str = "", *, at: int = 0, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self._admin}"}
        return self.https[at].request(method, path, headers=headers, **options)

    def key(self, tenant: str, *scopes: str, at: int = 0) -> dict[str, str]:
        body = {"scopes": scopes or ["submit", "read", "cancel"], "tenant": tenant}
        made = self.call("POST", "/keys", at=at, json=body)
        assert made.status_code == 201, made.text
        answer: dict[str, str] = made.json()
        return answer


@pytest.fixture
def gateways(fleet: Fleet) -> Iterator[Gateways]:
    gateways = Gateways(fleet)
    yield gateways
    for http in gateways.https:
        http.close()


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within two seconds: counted in looks, for on a slow machine both take longer."""
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.02)
    return False


async def test_each_tenant_sees_its_own_and_a_keys_life_is_known_to_every_gateway(
    fleet: Fleet, sleeper: Function, gateways: Gateways
) -> None:
    fleet.dispatchers(1, MAYFLY_HEARTBEAT_KEY=SIGNS)
    workers = gateways.call("GET", "/workers").json()["workers"]
    assert [one["queue"] for one in workers].count(fleet.settings.queue) == 1, "its heartbeat is signed"
    # Names of their own: other tests of the stack have an acme as well.
    acme, zeta = (f"{name}-{fleet.settings.queue}" for name in ("acme", "zeta"))
    made = {tenant: gateways.key(tenant) for tenant in (acme, zeta)}
    keys = {tenant: key["key"] for tenant, key in made.items()}
    for key in keys.values():
        known = soon(lambda key=key: gateways.call("GET", "/tasks", key, at=1).status_code == 200)
        assert known, "a key that one gateway made is good at another"

    # A task, and one that fails, of each; each posted here and read there.
    ids: dict[str, list[str]] = {}
    for tenant, key in keys.items():
        posted = [
            gateways.call("POST", "/tasks", key, json={"taskType": sleeper.name, **body})
            for body in (
                {"payload": {"seconds": 0, "index": 7}, "tags": ["shared"]},
                {"payload": {"seconds": "none"}, "tags": ["shared"], "retry": {"maxAttempts": 1}},
            )
        ]
        ids[tenant] = [answer.json()["taskId"] for answer in posted]
    for tenant, (done, failed) in ids.items():
        for task_id, status in ((done, "COMPLETED"), (failed, "FAILED")):
            answer = gateways.call("GET", f"/tasks/{task_id}?wait=60", keys[tenant], at=1).json()
            assert answer["status"] == status, answer

    for tenant, other in ((acme, zeta), (zeta, acme)):
        key, (done, failed) = keys[tenant], ids[tenant]
        for path, seen in (
            ("/tasks", {done, failed}),
            ("/tasks?status=COMPLETED", {done}),
            (f"/tasks?taskType={sleeper.name}&tag=shared", {done, failed}),
            ("/dead-letters", {failed}),
        ):
            listed = gateways.call("GET", path, key, at=1).json()["tasks"]
            assert {task["taskId"] for task in listed} == seen, path
        for task_id in ids[other]:
            for path in ("", "/result", "/logs", "/events"):
                assert gateways.call("GET", f"/tasks/{task_id}{path}", key).status_code == 404
            for path in ("cancel", "rerun"):
                assert gateways.call("POST", f"/tasks/{task_id}/{path}", key).status_code == 404
        answer = gateways.call("POST", "/dead-letters/purge", key, json={"taskIds": ids[other]}).json()
        assert answer["purged"] == []
        assert gateways.call("GET", f"/tasks/{done}/result", key).json() == {"index": 7, "attempt": 1}
    # What nobody named is the default tenant's, and the operator sees no tenant's tasks.
    for path in ("/tasks", "/dead-letters"):
        shown = {task["taskId"] for task in gateways.call("GET", path).json()["tasks"]}
        assert not shown & {task_id for both in ids.values() for task_id in both}

    # Driven again it stays its tenant's.
    answer = gateways.call("POST", "/dead-letters/redrive", keys[acme], json={"all": True}).json()
    [redriven] = answer["redriven"]
    again = redriven["newTaskId"]
    assert gateways.call("GET", f"/tasks/{again}?wait=60", keys[acme]).json()["status"] == "FAILED"
    assert gateways.call("GET", f"/tasks/{again}", keys[zeta]).status_code == 404

    report = await audit(fleet.settings, only=fleet.settings.queue, settle=60)
    assert report.clean, report

    path = f"/keys/{made[acme]['id']}"
    assert gateways.call("DELETE", path).json()["revokedAt"]
    for at in (0, 1):
        refused = soon(lambda at=at: gateways.call("GET", "/tasks", keys[acme], at=at).status_code == 401)
        assert refused, "a key that one gateway revoked is refused by another"
        assert gateways.call("GET", "/tasks", keys[zeta], at=at).status_code == 200
    listed = {one["id"]: one for one in gateways.call("GET", "/keys").json()["keys"]}
    assert {listed[key["id"]].get("lastUsedAt", "") > "2020" for key in made.values()} == {True}
