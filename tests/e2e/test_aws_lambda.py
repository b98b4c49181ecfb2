"""AWS's own client against a gateway and a dispatcher, and a handler as AWS's documentation has it."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import boto3
import docker
import msgspec
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from mayfly.build import build
from mayfly.client import Client, TaskFailed
from mayfly.function import Function
from mayfly.identity.keys import new_credential
from tests.e2e.conftest import Fleet, deployed, eventually
from tests.web import WEB

NAME = "order-lambda"
HANDLER = """\
import json
import time

print("Loading function")


def lambda_handler(event, context):
    print("Lambda function ARN:", context.invoked_function_arn)
    print("CloudWatch log stream name:", context.log_stream_name)
    print("CloudWatch log group name:", context.log_group_name)
    print("Lambda Request ID:", context.aws_request_id)
    print("Lambda function memory limits in MB:", context.memory_limit_in_mb)
    print("Lambda time remaining in MS:", context.get_remaining_time_in_millis())
    if event.get("sleep"):
        time.sleep(event["sleep"])
    print("value1 = " + event["key1"])
    return {"statusCode": 200, "body": json.dumps(event["key1"]), "id": context.aws_request_id}
"""


@pytest.fixture(scope="session")
def image(docker_engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Function:
    folder = tmp_path_factory.mktemp("lambda") / NAME
    folder.mkdir()
    (folder / "lambda_function.py").write_text(HANDLER)
    (folder / "function.toml").write_text('handler = "lambda_function.lambda_handler"\ntimeout = 3\n')
    return build(folder, docker_engine, on_progress=lambda _: None)


@pytest.fixture
async def function(fleet: Fleet, image: Function) -> AsyncIterator[Function]:
    function = msgspec.structs.replace(image, queue=fleet.settings.queue)
    async with deployed(fleet, function):
        fleet.dispatchers(1)
        yield function


@pytest.fixture
def gateway(fleet: Fleet, function: Function) -> Client:
    return fleet.gateway()


def aws(url: str, key_id: str = "any", secret: str = "any") -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=url,
        region_name="eu-central-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 2}, proxies={}),
    )


def test_boto3_invokes_a_handler_that_was_written_for_aws(gateway: Client) -> None:
    client = aws(gateway.url)
    payload = json.dumps({"key1": "value1"})

    answer = client.invoke(FunctionName=NAME, Payload=payload, LogType="Tail")
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in answer
    result = json.loads(answer["Payload"].read())
    task_id = answer["ResponseMetadata"]["RequestId"]
    assert result == {"statusCode": 200, "body": '"value1"', "id": task_id}
    log = base64.b64decode(answer["LogResult"]).decode()
    assert f"Lambda Request ID: {task_id}\n" in log
    assert log.endswith("value1 = value1\n")

    failed = client.invoke(FunctionName=f"arn:aws:lambda:eu-central-1:000000000000:function:{NAME}")
    assert (failed["StatusCode"], failed["FunctionError"]) == (200, "Unhandled")
    error = json.loads(failed["Payload"].read())
    assert (error["errorType"], error["errorMessage"]) == ("KeyError", "'key1'")
    [frame] = error["stackTrace"]
    assert 'File "lambda_function.py", line ' in frame
    assert "in lambda_handler" in frame

    late = client.invoke(FunctionName=NAME, Payload=json.dumps({"key1": "", "sleep": 30}))
    assert json.loads(late["Payload"].read())["errorType"] == "Sandbox.Timedout"

    event = client.invoke(FunctionName=NAME, InvocationType="Event", Payload=payload)
    assert event["StatusCode"] == 202
    ended = gateway.wait(event["ResponseMetadata"]["RequestId"], timeout=60)
    assert ended.succeeded

    dry = client.invoke(FunctionName=NAME, InvocationType="DryRun", Payload=payload)
    assert dry["StatusCode"] == 204

    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.invoke(FunctionName="nobody")
    with pytest.raises(client.exceptions.InvalidRequestContentException):
        client.invoke(FunctionName=NAME, Payload=b"{")
    with pytest.raises(client.exceptions.RequestTooLargeException):
        client.invoke(FunctionName=NAME, InvocationType="Event", Payload=b'"' + b"x" * (1 << 20) + b'"')


def test_mayflys_own_client_calls_it_and_submits_many(gateway: Client) -> None:
    assert gateway.invoke(NAME, {"key1": "a"})["body"] == '"a"'
    with pytest.raises(TaskFailed) as caught:
        gateway.invoke(NAME, {})
    assert caught.value.error_class == "KeyError"
    assert gateway.invoke(NAME, {"key1": "b", "sleep": 0.5}, wait=60)["body"] == '"b"'

    submitted = list(gateway.submit_many(NAME, [{"key1": str(number)} for number in range(20)]))
    batch_id = submitted[0].batch_id
    assert batch_id is not None
    eventually(lambda: gateway.batch(batch_id).ended == 20, "the batch has ended")
    counts = gateway.batch(batch_id)
    assert (counts.tasks, sum(counts.statuses.values())) == (20, 20)
    results = gateway.map(NAME, [{"key1": str(number)} for number in range(20)], concurrency=8)
    assert [result["body"] for result in results] == [f'"{number}"' for number in range(20)]


def test_boto3_signs_with_what_is_made_of_an_api_key(fleet: Fleet, function: Function) -> None:
    admin = new_credential()
    service = fleet.start("gateway", MAYFLY_AUTH="true", MAYFLY_ADMIN_KEY=str(admin)).until_up()
    eventually(lambda: WEB.get(f"{service.url}/readyz").status_code == 200, "the gateway is ready")
    made = WEB.post(
        f"{service.url}/keys",
        json={"scopes": ["submit"], "tenant": "acme"},
        headers={"authorization": f"Bearer {admin}"},
    ).json()
    client = aws(service.url, made["id"], made["awsSecretAccessKey"])
    answer = client.invoke(FunctionName=NAME, Payload=json.dumps({"key1": "value1"}))
    assert json.loads(answer["Payload"].read())["body"] == '"value1"'
    with pytest.raises(ClientError) as caught:
        aws(service.url, made["id"], "another secret").invoke(FunctionName=NAME, Payload=b"{}")
    assert caught.value.response["Error"]["Code"] == "InvalidSignatureException"
