"""Kafka, Redis and S3 as interfaces: what any client appends runs, and what it is shown is documented."""

import base64
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.config import Config
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from redis import Redis

from mayfly.task import place_id
from tests.conftest import Mayfly
from tests.e2e.tasks import ended, logs, result

PARTITIONS = 8
SECONDS = 60
CHATTER = logging.getLogger("outside")
"""Of clients that outlive the broker."""
CHATTER.addHandler(logging.NullHandler())
CHATTER.propagate = False


@dataclass(frozen=True)
class Place:
    topic: str
    partition: int
    offset: int
    timestamp: int

    @property
    def task_id(self) -> str:
        """Of the task whose record names none."""
        return place_id(self.topic, self.partition, self.offset)


@dataclass
class Outside:
    """A program that knows the addresses and the documentation, and nothing of the code."""

    kafka: str
    redis: "Redis[str]"
    s3: Any
    bucket: str
    places: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._producer = Producer({"bootstrap.servers": self.kafka, "acks": "all", "logger": CHATTER})

    def append(
        self, value: object, *, lane: str = "normal", key: str | None = None, partition: int = -1
    ) -> Place:
        """A command: bytes as they are, None as a tombstone, all else in JSON."""
        data = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
        self._producer.produce(
            f"mayfly.default.{lane}", data, key=key, partition=partition, on_delivery=self._delivered
        )
        assert self._producer.flush(SECONDS) == 0
        return self.places.pop()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        self.places.append(Place(topic, partition, offset, message.timestamp()[1]))

    def events(self, partition: int, task_id: str) -> list[tuple[int, dict[str, Any]]]:
        """The task's records in the lifecycle log, each with its offset."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka,
                "group.id": "outside",
                "logger": CHATTER,
                "enable.partition.eof": True,
                "enable.auto.commit": False,
            }
        )
        consumer.assign([TopicPartition("mayfly.default.events", partition, 0)])
        found = []
        # An empty record is falsy.
        while (message := consumer.poll(SECONDS)) is not None:
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                break
            if message.key() == task_id.encode():
                found.append((message.offset() or 0, json.loads(message.value() or b"")))
        consumer.close()
        return found

    def hash(self, task_id: str) -> dict[str, str]:
        return self.redis.hgetall(f"mayfly:task:{task_id}")

    def object(self, key: str) -> tuple[str, bytes]:
        """(content type, bytes) of what is stored under the key."""
        answer = self.s3.get_object(Bucket=self.bucket, Key=key)
        return answer["ContentType"], answer["Body"].read()


@pytest.fixture(scope="module")
def outside(mayfly: Mayfly) -> Iterator[Outside]:
    found = mayfly.stack.environment
    s3 = boto3.client(
        "s3",
        endpoint_url=found["MAYFLY_S3_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=found["MAYFLY_S3_ACCESS_KEY"],
        aws_secret_access_key=found["MAYFLY_S3_SECRET_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    )
    with Redis.from_url(found["MAYFLY_REDIS"], decode_responses=True) as redis:
        yield Outside(found["MAYFLY_KAFKA"], redis, s3, found.get("MAYFLY_S3_BUCKET", "mayfly"))


def rfc3339(milliseconds: int) -> str:
    at = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- Kafka: appending a task


@pytest.mark.parametrize("lane", ["high", "normal", "low"])
def test_an_appended_envelope_runs_like_a_posted_one(mayfly: Mayfly, outside: Outside, lane: str) -> None:
    task_id = str(uuid.uuid4())
    payload = {"hello": ["wörld", 1.5, None]}
    envelope = {"taskType": "echo", "taskId": task_id, "payload": payload, "unknown": "passed over"}
    place = outside.append(envelope, lane=lane, key=task_id)
    task = ended(mayfly.http, task_id)
    [worker] = mayfly.http.get("/workers").json()["workers"]
    echo = mayfly.http.get("/functions/echo").json()
    assert (
        task.items()
        >= {
            "taskId": task_id,
            "taskType": "echo",
            "queue": "default",
            "priority": lane,
            "status": "COMPLETED",
            "attempt": 1,
            "tags": [],
            "createdAt": rfc3339(place.timestamp),
            "dispatcher": worker["id"],
            "image": echo["image"],
            "result": payload,
            "resultContentType": "application/json",
        }.items()
    )
    assert result(mayfly.http, task_id) == ("application/json", '{"hello":["wörld",1.5,null]}'.encode())
    listed = mayfly.http.get("/tasks", params={"taskType": "echo", "limit": "200"}).json()["tasks"]
    assert task in listed


def test_an_envelope_without_an_id_has_the_uuid_of_its_place_in_every_partition(
    mayfly: Mayfly, outside: Outside
) -> None:
    places = [
        outside.append({"taskType": "echo", "payload": number}, partition=number)
        for number in range(PARTITIONS)
    ]
    namespace = uuid.UUID("6f1c6a52-4f0e-5d0b-9d53-6d6179666c79")
    for number, place in enumerate(places):
        documented = uuid.uuid5(namespace, f"mayfly.default.normal/{number}/{place.offset}")
        task = ended(mayfly.http, str(documented))
        assert (task["status"], task["result"]) == ("COMPLETED", number)


def test_bytes_ride_in_base64_with_their_content_type(mayfly: Mayfly, outside: Outside) -> None:
    data = bytes(range(256))
    place = outside.append(
        {
            "taskType": "echo",
            "payloadBase64": base64.b64encode(data).decode(),
            "contentType": "application/x-dice",
        }
    )
    task = ended(mayfly.http, place.task_id)
    assert (task["status"], task["resultContentType"]) == ("COMPLETED", "application/octet-stream")
    assert result(mayfly.http, place.task_id) == ("application/octet-stream", data)


def test_a_payload_may_be_in_s3(mayfly: Mayfly, outside: Outside) -> None:
    data = json.dumps({"large": "x" * 200_000}).encode()
    outside.s3.put_object(Bucket=outside.bucket, Key="elsewhere/payload", Body=data)
    reference = {
        "key": "elsewhere/payload",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    place = outside.append({"taskType": "echo", "payloadRef": reference})
    task = ended(mayfly.http, place.task_id)
    assert task["status"] == "COMPLETED"
    assert "result" not in task, "it is too large to be inline"
    assert json.loads(result(mayfly.http, place.task_id)[1]) == json.loads(data)


def test_no_payload_is_null(mayfly: Mayfly, outside: Outside) -> None:
    task = ended(mayfly.http, outside.append({"taskType": "echo"}).task_id)
    assert (task["status"], task["result"]) == ("COMPLETED", None)


def test_what_a_transaction_takes_back_never_runs_and_its_markers_hold_nobody(
    mayfly: Mayfly, outside: Outside
) -> None:
    producer = Producer(
        {
            "bootstrap.servers": outside.kafka,
            "transactional.id": f"outside-{uuid.uuid4()}",
            "logger": CHATTER,
        }
    )
    producer.init_transactions(SECONDS)

    def transaction() -> str:
        task_id = str(uuid.uuid4())
        producer.begin_transaction()
        value = json.dumps({"taskType": "echo", "taskId": task_id, "payload": 1})
        producer.produce("mayfly.default.normal", value, partition=0)
        producer.flush(SECONDS)
        return task_id

    taken_back = transaction()
    producer.abort_transaction(SECONDS)
    kept = transaction()
    producer.commit_transaction(SECONDS)
    assert ended(mayfly.http, kept)["status"] == "COMPLETED"
    behind = outside.append({"taskType": "echo", "payload": 2}, partition=0)
    assert ended(mayfly.http, behind.task_id)["status"] == "COMPLETED"
    assert mayfly.http.get(f"/tasks/{taken_back}").status_code == 404


# --- Kafka: what cannot be run

NOT_AN_ENVELOPE = "the command is not an envelope: "
ID = "01a20da0-dcee-7424-aa58-1cb0dc7e9e6f"
DEEP = b'{"taskType":"echo","payload":' + b"[" * 33 + b"]" * 33 + b"}"
GONE = {"key": "payloads/gone", "size": 1, "sha256": "0" * 64}

INVALID: dict[str, tuple[object, str]] = {
    "no JSON": (b"hello", NOT_AN_ENVELOPE + "JSON is malformed: invalid character (byte 0)"),
    "nothing": (b"", NOT_AN_ENVELOPE + "Input data was truncated"),
    "a tombstone": (None, NOT_AN_ENVELOPE + "Input data was truncated"),
    "no object": ([1], NOT_AN_ENVELOPE + "Expected `object`, got `array`"),
    "no type": ({"payload": 1}, NOT_AN_ENVELOPE + "Object missing required field `taskType`"),
    "a field of another type": (
        {"taskType": "echo", "tags": "x"},
        NOT_AN_ENVELOPE + "Expected `array`, got `str` - at `$.tags`",
    ),
    "NaN": (
        b'{"taskType":"echo","payload":NaN}',
        NOT_AN_ENVELOPE + "JSON is malformed: invalid character (byte 29)",
    ),
    "a name in no UTF-8": (
        b'{"taskType":"echo","name":"\xff"}',
        NOT_AN_ENVELOPE + "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    "half a surrogate pair": (
        b'{"taskType":"ec\\ud800ho"}',
        NOT_AN_ENVELOPE,
    ),
    "an id that is none": ({"taskType": "echo", "taskId": "17"}, "taskId is not a UUID in lower case"),
    "an id in upper case": (
        {"taskType": "echo", "taskId": ID.upper()},
        "taskId is not a UUID in lower case with hyphens",
    ),
    "two payloads": (
        {"taskType": "echo", "payload": 1, "payloadBase64": "AQ=="},
        "payload, payloadBase64 and payloadRef exclude each other",
    ),
    "a time of less than nothing": (
        {"taskType": "echo", "timeoutSeconds": -1},
        NOT_AN_ENVELOPE + "Expected `float` > 0.0 - at `$.timeoutSeconds`",
    ),
    "a time beyond a day": (
        {"taskType": "echo", "timeoutSeconds": 1e300},
        NOT_AN_ENVELOPE + "Expected `float` <= 86400.0 - at `$.timeoutSeconds`",
    ),
    "an unknown function": (
        {"taskType": "nobody", "payload": 1},
        "there is no function 'nobody': deploy its folder, then submit the task again",
    ),
    "a function's name that is none": (
        {"taskType": "../echo"},
        "there is no function '../echo': deploy its folder, then submit the task again",
    ),
    "a payload against the schema": (
        {"taskType": "email", "payload": {"to": "ada", "subject": "", "text": ""}},
        'payload.to: "ada" is not of type "array"',
    ),
    "no payload where there is a schema": ({"taskType": "email"}, 'payload: null is not of type "object"'),
    "bytes where JSON is due": (
        {"taskType": "email", "payloadBase64": "AQ==", "contentType": "text/csv"},
        "email takes JSON, and this payload is text/csv",
    ),
    "the same key twice": (b'{"taskType":"echo","payload":{"a":1,"a":2}}', "payload: "),
    "too deep": (DEEP, "payload: "),
    "a payload in no UTF-8": (b'{"taskType":"echo","payload":"\xff"}', "payload: "),
    "no base64": (
        {"taskType": "echo", "payloadBase64": "A", "contentType": "text/plain"},
        "payloadBase64: Invalid base64-encoded string: ",
    ),
    "base64 beyond ASCII": (
        {"taskType": "echo", "payloadBase64": "é", "contentType": "text/plain"},
        "payloadBase64: string argument should contain only ASCII characters",
    ),
    "a payload that is gone": (
        {"taskType": "echo", "payloadRef": GONE},
        "the payload is gone: ",
    ),
    "a payload without a place": (
        {"taskType": "echo", "payloadRef": GONE | {"key": ""}},
        "the payload is gone: S3 can have no key of 0 bytes",
    ),
    "a payload at no place": (
        {"taskType": "echo", "payloadRef": GONE | {"key": "a/../b//c"}},
        "the payload is gone: ",
    ),
    "a payload that is another's": (
        {"taskType": "echo", "payloadRef": GONE | {"key": "elsewhere/other"}},
        "elsewhere/other does not have the hash that the command names",
    ),
}


@pytest.fixture(scope="module")
def invalid(outside: Outside) -> dict[str, Place]:
    """All of them in one partition of one lane, and a task that can be run behind them."""
    outside.s3.put_object(Bucket=outside.bucket, Key="elsewhere/other", Body=b"1")
    places = {case: outside.append(value, partition=1) for case, (value, _) in INVALID.items()}
    places["behind them"] = outside.append({"taskType": "echo", "payload": "behind them"}, partition=1)
    return places


@pytest.mark.parametrize("case", INVALID)
def test_a_record_that_cannot_be_run_is_a_failed_task_that_says_why(
    mayfly: Mayfly, invalid: dict[str, Place], case: str
) -> None:
    task_id = invalid[case].task_id
    task = ended(mayfly.http, task_id)
    assert (task["status"], task["attempt"]) == ("FAILED", 1)
    error = task["error"]
    assert error.keys() == {"type", "message"}
    assert error["type"] == "Task.Invalid"
    assert error["message"].startswith(INVALID[case][1])
    assert "\n" not in error["message"]
    assert len(error["message"]) < 300
    assert mayfly.http.get(f"/tasks/{task_id}/result").json()["code"] == "no_result"
    assert logs(mayfly.http, task_id) == ""


def test_a_good_task_behind_records_that_cannot_be_run_completes(
    mayfly: Mayfly, invalid: dict[str, Place]
) -> None:
    task = ended(mayfly.http, invalid["behind them"].task_id)
    assert (task["status"], task["result"]) == ("COMPLETED", "behind them")


@pytest.mark.parametrize("value", [b"", None])
def test_an_empty_record_is_noticed_even_where_no_other_comes_with_it(
    mayfly: Mayfly, outside: Outside, value: bytes | None
) -> None:
    task = ended(mayfly.http, outside.append(value, partition=3).task_id)
    assert (task["status"], task["error"]["type"]) == ("FAILED", "Task.Invalid")


def test_an_event_that_is_none_is_passed_over(mayfly: Mayfly, outside: Outside) -> None:
    producer = Producer({"bootstrap.servers": outside.kafka, "acks": "all", "logger": CHATTER})
    for value in (b"hello", b"", None, b"{}", b'{"type":"Claimed"}', b'{"type":"Later","taskId":"x"}'):
        producer.produce("mayfly.default.events", value, partition=2)
    assert producer.flush(SECONDS) == 0
    behind = outside.append({"taskType": "echo", "payload": 1}, partition=2)
    assert ended(mayfly.http, behind.task_id)["status"] == "COMPLETED"


# --- Redis and S3: what is shown


def expected(task: dict[str, Any], outside: Outside, place: Place) -> dict[str, str]:
    """What every ended task's hash has, by the log and by HTTP."""
    (fence, claimed), (end, finished) = outside.events(place.partition, task["taskId"])
    assert claimed.items() >= {"type": "Claimed", "attempt": 1, "offset": place.offset}.items()
    assert finished.items() >= {"type": "Finished", "attempt": 1, "fence": fence}.items()
    outcome = finished["outcome"]
    assert place.timestamp <= outcome["startedAt"] <= outcome["finishedAt"]
    attempt = {
        "attempt": 1,
        "dispatcher": claimed["dispatcher"],
        "startedAt": rfc3339(outcome["startedAt"]),
        "finishedAt": rfc3339(outcome["finishedAt"]),
        "image": task["image"],
    }
    if failure := outcome.get("failure"):
        attempt["error"] = {"type": failure["type"], "message": failure["message"]}
    if log := outcome.get("log"):
        attempt["logKey"] = log["blob"]["key"]
    return {
        "taskId": task["taskId"],
        "taskType": task["taskType"],
        "queue": "default",
        "priority": "high",
        "status": task["status"],
        "tags": json.dumps(task["tags"]),
        "createdAt": rfc3339(place.timestamp),
        "command": f"high:{place.partition}:{place.offset}",
        "attempt": "1",
        "startedAt": rfc3339(outcome["startedAt"]),
        "finishedAt": rfc3339(outcome["finishedAt"]),
        "dispatcher": claimed["dispatcher"],
        "image": task["image"],
        "fence": str(fence),
        "position": f"{place.partition}:{end}",
        "attempts": json.dumps([attempt]),
    }


def test_the_hash_of_a_completed_task_has_the_documented_fields_and_no_other(
    mayfly: Mayfly, outside: Outside
) -> None:
    envelope = {
        "taskType": "echo",
        "payload": {"ü": 1},
        "name": "nightly",
        "tags": ["a", "b"],
        "timeoutSeconds": 7,
    }
    place = outside.append(envelope, lane="high")
    task = ended(mayfly.http, place.task_id)
    # An envelope is passed on as the bytes that came: json.dumps had escaped the letter.
    text = '{"ü":1}'.encode()
    found = outside.hash(place.task_id)
    key = f"results/{place.task_id}/1-{found['fence']}"
    assert found == expected(task, outside, place) | {
        "name": "nightly",
        "timeoutSeconds": "7.0",
        "contentType": "application/json",
        "payloadBytes": str(len(b'{"\\u00fc": 1}')),
        "resultKey": key,
        "resultSize": str(len(text)),
        "resultSha256": hashlib.sha256(text).hexdigest(),
        "resultContentType": "application/json",
        "result": text.decode(),
    }
    assert outside.object(key) == ("application/json", text)


def test_the_hash_of_a_large_result_says_where_it_is(mayfly: Mayfly, outside: Outside) -> None:
    text = b'"' + b"x" * 40_000 + b'"'
    place = outside.append(b'{"taskType":"echo","payload":' + text + b"}", lane="high")
    task = ended(mayfly.http, place.task_id)
    found = outside.hash(place.task_id)
    assert "result" not in found
    assert (found["resultSize"], task["resultSize"]) == ("40002", 40_002)
    assert outside.object(found["resultKey"]) == ("application/json", text)


def test_the_hash_of_a_failed_process_has_its_exit_code_and_its_log(mayfly: Mayfly, outside: Outside) -> None:
    place = outside.append(
        {"taskType": "wordcount", "payloadBase64": "IAo=", "contentType": "text/plain"}, lane="high"
    )
    task = ended(mayfly.http, place.task_id)
    found = outside.hash(place.task_id)
    key = f"logs/{place.task_id}/1-{found['fence']}"
    log = b"there is no word in the text\n"
    assert found == expected(task, outside, place) | {
        "contentType": "text/plain",
        "payloadBytes": "2",
        "errorType": "Function.ExitCode",
        "errorMessage": "the process exited with code 65",
        "errorExitCode": "65",
        "logKey": key,
        "logSize": str(len(log)),
        "logDropped": "0",
    }
    content_type, stored = outside.object(key)
    assert (content_type.replace(" ", ""), stored) == ("text/plain;charset=utf-8", log)
    assert logs(mayfly.http, place.task_id).encode() == log


def test_the_hash_of_a_failed_handler_has_its_exception(mayfly: Mayfly, outside: Outside) -> None:
    place = outside.append(
        {"taskType": "report", "payloadBase64": "YSxiCg==", "contentType": "text/csv"}, lane="high"
    )
    task = ended(mayfly.http, place.task_id)
    message = "the CSV needs a header and a row, with a label and a number in each"
    found = outside.hash(place.task_id)
    traceback = found.pop("errorTraceback")
    assert found == expected(task, outside, place) | {
        "contentType": "text/csv",
        "payloadBytes": "4",
        "errorType": "Function.Error",
        "errorMessage": message,
        "errorClass": "ValueError",
    }
    assert re.fullmatch(
        rf'Traceback \(most recent call last\):\n  File "handler\.py", line \d+, in handler\n(.|\n)*'
        rf"ValueError: {message}\n",
        traceback,
    )
    assert task["error"] == {
        "type": "Function.Error",
        "message": message,
        "class": "ValueError",
        "traceback": traceback,
    }
