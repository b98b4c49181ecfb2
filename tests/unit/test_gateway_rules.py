"""The gateway's rules for every request, and the routes beside /tasks."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateway_world import SCHEMA, World
from openapi_spec_validator import validate
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route

from gateway import models
from gateway.bodies import read_body
from gateway.errors import CODES, Problem
from gateway.security import is_loopback, require_loopback
from mayfly.errors import SettingsError
from mayfly.function import Function

JSON_BODY = {"taskType": "echo", "payload": 1}
TASK = "01936b3e-8d5a-7c3e-9f10-2b4c6d8e0f12"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


def code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


# --- who may call


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "localhost", "LocalHost:1", "[::1]", "[::1]:8080", "127.9.9.9:80"]
)
async def test_a_loopback_host_is_served(world: World, host: str) -> None:
    assert (await world.http.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "localhost.",
        "127.0.0.1.nip.io",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "10.0.0.1",
        "0.0.0.0",
        "2130706433",
        "[::]",
        "[fe80::1]",
        "::1",
        "127.0.0.1:x",
        "127.0.0.1:80:80",
        "",
    ],
)
async def test_another_host_is_refused_on_every_route(world: World, host: str) -> None:
    for request in ("GET /healthz", "GET /tasks", "POST /tasks", "GET /nothing"):
        method, path = request.split()
        answer = await world.http.request(method, path, headers={"host": host}, json=JSON_BODY)
        assert code(answer) == (421, "invalid_host")
    assert world.commands.records == []


async def test_two_hosts_are_refused(world: World) -> None:
    answer = await world.http.get("/tasks", headers=[("host", "127.0.0.1"), ("host", "evil.example")])
    assert code(answer) == (421, "invalid_host")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://localhost:8080",
        "http://127.0.0.1:9",
        "https://127.0.0.1:8080",
        "null",
        "",
    ],
)
async def test_a_page_of_another_origin_is_refused(world: World, origin: str) -> None:
    answer = await world.http.post("/tasks", json=JSON_BODY, headers={"origin": origin})
    assert code(answer) == (403, "foreign_origin")
    assert world.commands.records == []


async def test_a_page_of_its_own_is_served_and_nobody_is_told_that_others_may(world: World) -> None:
    answer = await world.http.post("/tasks", json=JSON_BODY, headers={"origin": "http://127.0.0.1:8080"})
    assert answer.status_code == 202
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_preflight_is_not_answered(world: World) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = await world.http.options("/tasks", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.53"])
def test_the_gateway_listens_on_loopback(host: str) -> None:
    require_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_the_gateway_refuses_another_address_and_says_what_to_do(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(SettingsError, match=r"MAYFLY_HOST .* MAYFLY_AUTH is off.* use 127\.0\.0\.1"):
        require_loopback(host)


# --- what every error looks like


@pytest.mark.parametrize(
    "path", ["/nothing", "/tasks/", "/tasks/x/y/z", "//tasks", "/docs/../app.py", "/docs/x.js"]
)
async def test_a_path_that_is_none_is_a_problem(world: World, path: str) -> None:
    assert code(await world.http.get(path)) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/tasks", "GET, HEAD, POST"),
        ("DELETE", f"/tasks/{TASK}", "GET, HEAD"),
        ("POST", "/functions", "GET, HEAD"),
        ("OPTIONS", "/tasks", "GET, HEAD, POST"),
        ("BREW", "/healthz", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_for_a_path_is_a_problem(
    world: World, method: str, path: str, allow: str
) -> None:
    answer = await world.http.request(method, path)
    assert code(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


async def test_an_unexpected_error_shows_an_id_and_the_log_has_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> Any:
        raise ZeroDivisionError("secret reason")

    monkeypatch.setattr(world.read_model, "dispatchers", fail)
    answer = await world.http.get("/workers")
    assert code(answer) == (500, "internal_error")
    assert "secret" not in answer.text
    [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.__dict__["error_id"] == answer.json()["errorId"]
    assert record.exc_info is not None


def test_every_code_has_a_status_of_errors_and_a_title_that_is_a_sentence() -> None:
    for kind in CODES.values():
        assert 400 <= kind.status < 600
        assert kind.title[0].isupper()


# --- bodies


def request_of(*messages: dict[str, Any]) -> Request:
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        for message in coming:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def test_a_body_that_stops_coming_is_refused_in_time() -> None:
    request = request_of({"type": "http.request", "body": b"{", "more_body": True})
    with pytest.raises(Problem) as caught:
        await read_body(request, 100, seconds=0.01)
    assert caught.value.code == "body_too_slow"


async def test_a_body_that_is_cut_off_is_no_body() -> None:
    first = {"type": "http.request", "body": b"{}", "more_body": True}
    with pytest.raises(ClientDisconnect):
        await read_body(request_of(first, {"type": "http.disconnect"}), 100)


async def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    request = request_of()
    request.scope["headers"] = [(b"content-length", b"101")]
    with pytest.raises(Problem) as caught:
        await read_body(request, 100)
    assert caught.value.code == "body_too_large"


async def test_a_body_in_pieces_is_joined() -> None:
    pieces = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c"},
    ]
    assert await read_body(request_of(*pieces), 3) == b"abc"


# --- functions and workers


async def test_functions_are_listed_without_retired_ones_environments_or_secrets(world: World) -> None:
    world.catalog.deploy(Function("mail", "i", "v", env={"PASSWORD": "hunter2"}, secrets=("SMTP_TOKEN",)))
    answer = await world.http.get("/functions")
    listed = models.FunctionList.model_validate(answer.json()).functions
    assert [one.name for one in listed] == ["broken", "echo", "mail", "thumbnail"]
    assert listed[3].payload_schema == SCHEMA
    assert listed[1].deployed_at == "2026-11-24T12:00:00.123Z"
    assert "hunter2" not in answer.text
    assert "SMTP_TOKEN" not in answer.text


async def test_a_function_is_found_by_name(world: World) -> None:
    found = models.FunctionEntry.model_validate((await world.http.get("/functions/echo")).json())
    assert (found.name, found.limits.timeout_seconds) == ("echo", 60.0)
    assert code(await world.http.get("/functions/gone")) == (404, "unknown_function")
    missing = await world.http.get("/functions/thumbnial")
    assert code(missing) == (404, "unknown_function")
    assert 'Did you mean "thumbnail"?' in missing.json()["detail"]


async def test_functions_wait_for_the_catalog(world: World) -> None:
    world.catalog.read = False
    assert code(await world.http.get("/functions")) == (503, "catalog_unavailable")
    assert code(await world.http.get("/functions/new")) == (503, "catalog_unavailable")


async def test_workers_are_the_heartbeats(world: World) -> None:
    world.read_model.heartbeats = [
        {
            "id": "d1",
            "host": "h",
            "pid": 1,
            "address": "http://127.0.0.1:9",
            "queue": "default",
            "slots": 2,
            "running": 1,
            "fences": [4],
            "startedAt": "2026-11-24T12:00:00.000Z",
            "at": "2026-11-24T12:00:05.000Z",
        }
    ]
    [worker] = models.WorkerList.model_validate((await world.http.get("/workers")).json()).workers
    assert (worker.id, worker.running, worker.last_heartbeat) == ("d1", 1, "2026-11-24T12:00:05.000Z")


# --- operation


async def test_ready_names_each_part_that_is_not_with_its_reason(world: World) -> None:
    world.commands.down = "Kafka does not answer"
    world.catalog.read = False
    answer = await world.http.get("/readyz")
    assert code(answer) == (503, "not_ready")
    parts = answer.json()["parts"]
    assert parts == {
        "log": "Kafka does not answer",
        "readModel": "ready",
        "blobs": "ready",
        "catalog": "the functions have not been read from the log yet",
    }
    assert (await world.http.get("/healthz")).json() == {"status": "ok"}


async def test_ready_is_200_when_every_part_is(world: World) -> None:
    answer = await world.http.get("/readyz")
    models.Ready.model_validate(answer.json())
    assert answer.status_code == 200


async def test_metrics_count_by_template_and_never_by_path(world: World) -> None:
    await world.http.get(f"/tasks/{TASK}")
    await world.http.get("/nothing/here")
    await world.http.request("BREW", "/healthz")
    await world.post()
    text = (await world.http.get("/metrics")).text
    assert 'requests_total{code="404",method="GET",route="/tasks/{task_id}"} 1.0' in text
    assert 'requests_total{code="404",method="GET",route="unmatched"} 1.0' in text
    assert 'requests_total{code="405",method="OTHER",route="/healthz"} 1.0' in text
    assert 'mayfly_gateway_tasks_accepted_total{function="echo"} 1.0' in text
    assert "mayfly_gateway_produce_seconds_count 1.0" in text
    assert TASK not in text


# --- OpenAPI and its page


async def test_the_openapi_document_is_valid_and_has_every_functions_schema(world: World) -> None:
    document = (await world.http.get("/openapi.json")).json()
    validate(document)
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    assert schemas["payload.thumbnail"]["properties"]["width"] == {"type": "integer", "minimum": 1}
    items = schemas["payload.thumbnail"]["properties"]["items"]["items"]
    assert items == {"$ref": "#/components/schemas/payload.thumbnail/$defs/item"}
    body = document["paths"]["/tasks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["discriminator"]["mapping"]["thumbnail"] == "#/components/schemas/task.thumbnail"
    assert "payload.gone" not in schemas


async def test_a_new_function_is_in_the_openapi_document_at_once(world: World) -> None:
    await world.http.get("/openapi.json")
    world.catalog.deploy(
        Function("new-one", "i", "v", schema={"$id": "urn:x", "$ref": "#/$defs/a", "$defs": {"a": {}}})
    )
    document = (await world.http.get("/openapi.json")).json()
    validate(document)
    assert document["components"]["schemas"]["payload.new-one"] == {
        "$ref": "#/components/schemas/payload.new-one/$defs/a",
        "$defs": {"a": {}},
    }


async def test_the_openapi_document_has_every_route_and_no_other(world: World) -> None:
    document = (await world.http.get("/openapi.json")).json()
    described = {(path, method.upper()) for path, calls in document["paths"].items() for method in calls}
    routes = [route for route in world.app.routes if isinstance(route, Route)]
    served = {(route.path, method) for route in routes for method in route.methods or () if method != "HEAD"}
    undescribed = {("/openapi.json", "GET"), ("/docs", "GET"), ("/docs/{asset}", "GET")}
    assert described == served - undescribed


async def test_every_code_is_in_the_openapi_document(world: World) -> None:
    text = (await world.http.get("/openapi.json")).text
    missing = {name for name in CODES if f"`{name}`" not in text}
    assert missing == {"not_found", "method_not_allowed", "invalid_request"}


async def test_the_docs_load_nothing_from_elsewhere(world: World) -> None:
    page = await world.http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    for asset, kind in {"docs.css": "text/css", "docs.js": "text/javascript"}.items():
        assert f'"/docs/{asset}"' in page.text
        answer = await world.http.get(f"/docs/{asset}")
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert "//" not in answer.text.replace("// ---", "")
    assert "http" not in page.text
    assert "style=" not in page.text


async def test_problems_are_as_the_model_says(world: World) -> None:
    answer = await world.http.post(
        "/tasks", content=json.dumps({}), headers={"content-type": "application/json"}
    )
    assert models.ProblemDetails.model_validate(answer.json()).field == "taskType"
