"""The gateway as a process of its own on the real parts, and what a test does beside it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Consumer, TopicPartition

from mayfly.adapters import kafka, kafka_catalog
from mayfly.adapters.redis import ReadModel
from mayfly.events import Finished
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.task import BlobRef, Envelope, Lane, Outcome, Result, decode_envelope
from mayfly.view import QueuedTask, finished

PATIENCE = 60.0


class Process:
    """`python -m gateway`, with these settings in its environment."""

    def __init__(self, directory: Path, settings: Settings, **variables: str) -> None:
        self._address = directory / f"address-{uuid.uuid4().hex}"
        self._stderr = directory / f"stderr-{uuid.uuid4().hex}"
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        env |= environment(settings) | {"MAYFLY_ADDRESS_FILE": str(self._address)} | variables
        with self._stderr.open("w") as stderr:
            self.popen = subprocess.Popen([sys.executable, "-m", "gateway"], env=env, stderr=stderr)

    @property
    def errors(self) -> str:
        return self._stderr.read_text()

    @property
    def url(self) -> str:
        wait_for(self._address.exists, self)
        return self._address.read_text()

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(PATIENCE)


StartGateway = Callable[..., Process]


def environment(settings: Settings) -> dict[str, str]:
    assert settings.s3_access_key
    assert settings.s3_secret_key
    return {
        "MAYFLY_PORT": "0",
        "MAYFLY_KAFKA": settings.kafka,
        "MAYFLY_QUEUE": settings.queue,
        "MAYFLY_REDIS": settings.redis.get_secret_value(),
        "MAYFLY_S3_ENDPOINT": settings.s3_endpoint or "",
        "MAYFLY_S3_BUCKET": settings.s3_bucket,
        "MAYFLY_S3_ACCESS_KEY": settings.s3_access_key.get_secret_value(),
        "MAYFLY_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
    }


def wait_for(condition: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.popen.poll() is None, process.errors
        assert time.monotonic() < deadline, process.errors
        time.sleep(0.01)


async def until(http: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    deadline = time.monotonic() + PATIENCE
    while (answer := await http.get(path)).status_code != status:
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.05)
    return answer


@pytest.fixture
def start_gateway(tmp_path: Path, settings: Settings) -> Iterator[StartGateway]:
    started: list[Process] = []

    def start(**variables: str) -> Process:
        started.append(Process(tmp_path, settings, **variables))
        return started[-1]

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait()


@pytest.fixture
async def function(settings: Settings) -> AsyncIterator[Function]:
    """A function of the test's own, deployed in the test's own queue."""
    await kafka.ensure_topics(settings)
    name = f"f-{uuid.uuid4().hex[:12]}"
    schema = {"type": "object", "properties": {"width": {"type": "integer"}}}
    function = Function(name, "image", "1", queue=settings.queue, schema=schema)
    log = kafka.Log(settings)
    await log.start()
    await kafka_catalog.publish(log, function)
    yield function
    await log.close()


def commands(settings: Settings, lane: Lane, count: int) -> dict[str, tuple[int, Envelope]]:
    """The lane's commands by their keys, each with its partition."""
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka, "group.id": "reader", "auto.offset.reset": "earliest"}
    )
    topic = kafka.lane_topic(settings.queue, lane)
    consumer.assign([TopicPartition(topic, number, 0) for number in range(settings.partitions)])
    found: dict[str, tuple[int, Envelope]] = {}
    deadline = time.monotonic() + PATIENCE
    while len(found) < count:
        assert time.monotonic() < deadline
        for message in consumer.consume(100, 0.2):
            value, key, partition = message.value(), message.key(), message.partition()
            assert isinstance(value, bytes)
            assert isinstance(key, bytes)
            assert partition is not None
            found[key.decode()] = (
                partition,
                decode_envelope(value, topic=topic, partition=partition, offset=0),
            )
    consumer.close()
    return found


async def queue(read_model: ReadModel, settings: Settings, task_id: str) -> None:
    await read_model.queued(
        QueuedTask(
            task_id=task_id,
            task_type="f",
            queue=settings.queue,
            priority=Lane.NORMAL,
            partition=0,
            offset=0,
            created_at=int(time.time() * 1000),
            payload_bytes=4,
            content_type="application/json",
        )
    )


async def finish(read_model: ReadModel, settings: Settings, task_id: str, size: int) -> None:
    await queue(read_model, settings, task_id)
    blob = BlobRef(key=f"results/{task_id}/1-5", size=size, sha256="")
    outcome = Outcome(started_at=1, finished_at=2, result=Result(blob=blob, content_type="image/png"))
    event = Finished(task_id=task_id, fence=5, attempt=1, outcome=outcome)
    change = finished(event, partition=0, offset=6)
    await read_model.project([], [change])
