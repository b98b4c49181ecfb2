"""AWS Lambda's Invoke, by what AWS's own client signs and expects."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.parsers import create_parser
from gateway_world import World

from gateway import signatures
from gateway.aws_lambda import EVENT_BYTES, stack_trace
from mayfly.identity.keys import ApiKey, new_credential
from mayfly.identity.principal import Scope

PATH = "/2015-03-31/functions/echo/invocations"
TRACEBACK = """Traceback (most recent call last):
  File "lambda_function.py", line 2, in lambda_handler
    return event["name"]
           ~~~~~^^^^^^^^
KeyError: 'name'
"""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.http:
        yield world


async def invoke(world: World, payload: bytes = b"null", path: str = PATH, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.http.post(path, content=payload, headers=named)


async def ended(world: World, call: Any, **fields: str) -> httpx.Response:
    answer = asyncio.ensure_future(call)
    while not world.read_model.hashes:
        assert not answer.done(), answer.result().text
        await asyncio.sleep(0)
    [task_id] = world.read_model.hashes
    world.read_model.hashes[task_id] |= fields
    world.gateway.waiters._wake_all()
    return await answer


def as_boto3_reads(answer: httpx.Response) -> dict[str, Any]:
    """What boto3 makes of an answer."""
    client = boto3.client(
        "lambda", region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    shape = client.meta.service_model.operation_model("Invoke").output_shape
    raw = {"body": answer.content, "headers": answer.headers, "status_code": answer.status_code}
    found: dict[str, Any] = create_parser("rest-json").parse(raw, shape)
    return found


async def test_a_result_is_the_payload_of_the_answer(world: World) -> None:
    answer = await ended(world, invoke(world, b'{"n": 1}'), status="COMPLETED", result='{"n":1}')
    assert (answer.status_code, answer.content) == (200, b'{"n":1}')
    assert answer.headers["x-amz-executed-version"] == "$LATEST"
    assert "x-amz-function-error" not in answer.headers
    assert answer.headers["x-amzn-requestid"] == world.commands.envelopes[0].task_id


async def test_nothing_is_an_empty_object(world: World) -> None:
    await ended(world, invoke(world, b""), status="COMPLETED", result="null")
    assert bytes(world.commands.envelopes[0].payload) == b"{}"


async def test_an_event_is_not_waited_for(world: World) -> None:
    answer = await invoke(world, x_amz_invocation_type="Event")
    assert (answer.status_code, answer.content) == (202, b"")
    assert len(world.commands.records) == 1


async def test_a_dry_run_makes_no_task(world: World) -> None:
    assert (await invoke(world, x_amz_invocation_type="DryRun")).status_code == 204
    assert not world.commands.records


async def test_a_failed_function_is_told_as_aws_tells_it(world: World) -> None:
    failed = {
        "errorType": "Function.Error",
        "errorMessage": "'name'",
        "errorClass": "KeyError",
        "errorTraceback": TRACEBACK,
    }
    answer = await ended(world, invoke(world), status="FAILED", **failed)
    assert (answer.status_code, answer.headers["x-amz-function-error"]) == (200, "Unhandled")
    assert answer.json() == {
        "errorMessage": "'name'",
        "errorType": "KeyError",
        "requestId": world.commands.envelopes[0].task_id,
        "stackTrace": [
            '  File "lambda_function.py", line 2, in lambda_handler\n    return event["name"]\n'
            "           ~~~~~^^^^^^^^\n"
        ],
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Function.Timeout", "Sandbox.Timedout"),
        ("Function.OutOfMemory", "Runtime.OutOfMemory"),
        ("Function.ExitCode", "Runtime.ExitError"),
        ("Function.BadResult", "Runtime.MarshalError"),
        ("Task.Cancelled", "Task.Cancelled"),
    ],
)
async def test_a_failure_without_an_exception_has_awss_name(world: World, kind: str, name: str) -> None:
    answer = await ended(world, invoke(world), status="FAILED", errorType=kind, errorMessage="why")
    assert answer.json()["errorType"] == name
    assert answer.headers["x-amz-function-error"] == "Unhandled"


async def test_a_sandbox_that_was_lost_is_the_services_fault(world: World) -> None:
    answer = await ended(world, invoke(world), status="FAILED", errorType="Sandbox.Lost", errorMessage="gone")
    check_error(answer, 500, "ServiceException")


def test_of_chained_exceptions_the_last_ones_frames_are_told() -> None:
    text = TRACEBACK + "\nDuring handling of the above exception, another exception occurred:\n\n" + TRACEBACK
    assert stack_trace(text) == stack_trace(TRACEBACK)


async def test_the_tail_of_the_log_goes_with_the_answer(world: World) -> None:
    log = bytes(range(32, 127)) * 100
    world.blobs.objects["logs/1"] = log
    call = invoke(world, x_amz_log_type="Tail")
    answer = await ended(world, call, status="COMPLETED", result="1", logKey="logs/1")
    assert base64.b64decode(answer.headers["x-amz-log-result"]) == log[-4096:]


@pytest.mark.parametrize(
    "name",
    [
        "echo",
        "echo:$LATEST",
        "function:echo",
        "000000000000:function:echo",
        "arn:aws:lambda:us-east-1:000000000000:function:echo",
        "arn:aws:lambda:us-east-1:000000000000:function:echo:$LATEST",
        "arn:mayfly:lambda:local:000000000000:function:echo",
    ],
)
async def test_a_function_may_be_named_by_its_arn(world: World, name: str) -> None:
    path = f"/2015-03-31/functions/{name.replace(':', '%3A')}/invocations"
    assert (await invoke(world, path=path, x_amz_invocation_type="DryRun")).status_code == 204


def check_error(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["x-amzn-errortype"]) == (status, name), answer.text
    error = as_boto3_reads(answer)["Error"]
    assert error["Code"] == name
    assert error["Message"] == answer.json()["detail"]
    return dict(answer.json())


@pytest.mark.parametrize(
    ("call", "status", "name"),
    [
        ({"path": PATH.replace("echo", "nobody")}, 404, "ResourceNotFoundException"),
        ({"path": f"{PATH}?Qualifier=prod"}, 404, "ResourceNotFoundException"),
        ({"path": PATH.replace("echo", "echo%3A7")}, 404, "ResourceNotFoundException"),
        ({"path": PATH.replace("echo", "ec%20ho")}, 400, "InvalidParameterValueException"),
        ({"payload": b"{"}, 400, "InvalidRequestContentException"),
        ({"path": PATH.replace("echo", "thumbnail")}, 400, "InvalidRequestContentException"),
        ({"x_amz_invocation_type": "Soon"}, 400, "InvalidParameterValueException"),
        ({"x_amz_log_type": "Head"}, 400, "InvalidParameterValueException"),
        ({"x_amz_client_context": "e30="}, 400, "InvalidParameterValueException"),
        ({"payload": b'"' + b"x" * (6 << 20) + b'"'}, 413, "RequestTooLargeException"),
        (
            {"payload": b'"' + b"x" * EVENT_BYTES + b'"', "x_amz_invocation_type": "Event"},
            413,
            "RequestTooLargeException",
        ),
    ],
)
async def test_what_is_refused_is_refused_in_awss_terms(
    world: World, call: dict[str, Any], status: int, name: str
) -> None:
    check_error(await invoke(world, **call), status, name)
    assert not world.commands.records


async def test_without_the_log_or_redis_the_service_is_not_there(world: World) -> None:
    world.commands.down = "away"
    check_error(await invoke(world), 503, "ServiceException")
    world.commands.down, world.read_model.down = "", "away"
    check_error(await invoke(world, amz_sdk_invocation_id="0" * 36), 503, "ServiceException")


async def test_a_call_that_the_client_repeats_is_one_task(world: World) -> None:
    once = {"amz_sdk_invocation_id": "0a9b4e9c-7d3e-4b7f-9d3a-6f7f1d2c3b4a"}
    first = await ended(world, invoke(world, b"1", **once), status="COMPLETED", result="1")
    again = await invoke(world, b"1", **once)
    assert first.content == again.content == b"1"
    assert len(world.commands.records) == 1
    check_error(await invoke(world, b"2", **once), 409, "ResourceConflictException")


async def test_a_call_outlives_the_gateway_by_its_task(world: World) -> None:
    world.gateway.waiters.close()
    problem = check_error(await invoke(world), 503, "ServiceException")
    assert problem["taskId"] == world.commands.envelopes[0].task_id


# --- signatures

OTHER = new_credential()


class Signer:
    """A gateway that asks who calls, and what boto3 would send to it."""

    def __init__(self, *scopes: Scope, **fields: Any) -> None:
        self.world = World(auth=True)
        self.world.http.headers.clear()
        self.credential = new_credential()
        key = ApiKey(
            self.credential.id, self.credential.sha256, "acme", scopes or (Scope.SUBMIT,), 0, **fields
        )
        self.world.control.book.keys |= {key.id: key}

    def sign(
        self,
        *,
        payload: bytes = b'{"n": 1}',
        path: str = PATH,
        service: str = "lambda",
        secret: str = "",
        key_id: str = "",
        **headers: str,
    ) -> AWSRequest:
        request = AWSRequest("POST", f"http://127.0.0.1:8080{path}", data=payload)
        request.headers["X-Amz-Invocation-Type"] = "Event"
        for name, value in headers.items():
            request.headers[name.replace("_", "-")] = value
        credentials = Credentials(key_id or self.credential.id, secret or self.credential.sha256)
        SigV4Auth(credentials, service, "eu-central-1").add_auth(request)
        return request

    async def send(self, request: AWSRequest, **changed: Any) -> httpx.Response:
        headers = {**dict(request.headers.items()), **changed.pop("headers", {})}
        url = changed.pop("url", request.url)
        content = changed.pop("content", request.data)
        return await self.world.http.post(url, content=content, headers=headers)


async def test_what_boto3_signs_with_a_keys_hash_is_taken() -> None:
    signer = Signer()
    answer = await signer.send(signer.sign())
    assert answer.status_code == 202, answer.text
    assert signer.world.commands.envelopes[0].tenant == "acme"


async def test_a_name_and_a_query_with_escapes_are_signed_as_they_are_sent() -> None:
    signer = Signer()
    path = "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Aecho/invocations"
    answer = await signer.send(signer.sign(path=f"{path}?Qualifier=%24LATEST"))
    assert answer.status_code == 202, answer.text


def a_minute_ago() -> str:
    return (datetime.now(UTC) - timedelta(minutes=1)).strftime("%Y%m%dT%H%M%SZ")


@pytest.mark.parametrize(
    ("signed", "changed"),
    [
        ({"secret": OTHER.sha256}, {}),
        ({"secret": OTHER.secret}, {}),
        ({"service": "s3"}, {}),
        ({}, {"content": b'{"n": 2}'}),
        ({}, {"url": f"http://127.0.0.1:8080{PATH}?Qualifier=%24LATEST"}),
        ({}, {"url": f"http://127.0.0.1:8080{PATH.replace('echo', 'thumbnail')}"}),
        ({}, {"headers": {"X-Amz-Invocation-Type": "DryRun"}}),
        ({}, {"headers": {"X-Amz-Log-Type": "Tail"}}),
        ({}, {"headers": {"X-Amz-Date": a_minute_ago()}}),
        ({}, {"headers": {"X-Amz-Date": "yesterday"}}),
        ({}, {"headers": {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}}),
        ({"X_Amz_Content_SHA256": "UNSIGNED-PAYLOAD"}, {}),
        ({}, {"headers": {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}}),
    ],
)
async def test_a_signature_of_something_else_is_refused(signed: Any, changed: Any) -> None:
    signer = Signer()
    answer = await signer.send(signer.sign(**signed), **changed)
    check_error(answer, 401, "InvalidSignatureException")
    assert not signer.world.commands.records


@pytest.mark.parametrize("seconds", [-301, 301])
async def test_an_old_signature_is_refused(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    signer = Signer()
    request = signer.sign()
    real = signatures.time.time
    monkeypatch.setattr(signatures.time, "time", lambda: real() + seconds)
    check_error(await signer.send(request), 401, "InvalidSignatureException")


async def test_a_key_that_is_not_known_or_over_or_for_something_else_is_refused() -> None:
    signer = Signer()
    unknown = signer.sign(key_id=OTHER.id, secret=OTHER.sha256)
    check_error(await signer.send(unknown), 401, "UnrecognizedClientException")
    for fields in ({"revoked_at": 1}, {"expires_at": 1}):
        signer = Signer(**fields)
        check_error(await signer.send(signer.sign()), 401, "UnrecognizedClientException")
    signer = Signer(Scope.READ)
    check_error(await signer.send(signer.sign()), 403, "AccessDeniedException")


async def test_a_signature_opens_no_other_route() -> None:
    signer = Signer(*Scope)
    answer = await signer.send(signer.sign(path="/tasks", payload=b'{"taskType": "echo", "payload": 1}'))
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_a_bearer_token_is_taken_as_well() -> None:
    signer = Signer()
    headers = {"authorization": f"Bearer {signer.credential}", "x-amz-invocation-type": "DryRun"}
    answer = await signer.world.http.post(PATH, headers=headers)
    assert answer.status_code == 204, answer.text


async def test_where_nobody_is_asked_any_signature_is_taken(world: World) -> None:
    nobody = "AWS4-HMAC-SHA256 Credential=any"
    assert (await invoke(world, authorization=nobody, x_amz_invocation_type="DryRun")).status_code == 204
