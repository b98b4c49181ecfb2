"""A gateway and dispatchers in processes of their own, on the session's parts, with a queue to themselves."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import docker
import httpx
import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from dispatcher.runtimes.docker import DockerRuntime
from mayfly.adapters.kafka import FUNCTIONS_TOPIC, Log, ensure_topics, events_topic
from mayfly.adapters.kafka_catalog import publish
from mayfly.build import build
from mayfly.client import Client
from mayfly.events import Claimed, Finished, decode_event
from mayfly.fold import Fold
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.stack.stack import settings_of
from tests.conftest import LiveStack
from tests.web import WEB

PATIENCE = 120.0
SLEEPER = """\
import time


def handler(event, context):
    time.sleep(event["seconds"])
    return {"index": event["index"], "attempt": context.attempt}
"""


def eventually(
    condition: Callable[[], bool], what: str, seconds: float = PATIENCE, *, told: Path | None = None
) -> None:
    """`told`: a log that may say why not."""
    deadline = time.monotonic() + seconds
    while not condition():
        late = time.monotonic() >= deadline
        assert not late, f"not within {seconds:g} s: {what}\n{told.read_text()[-4000:] if told else ''}"
        time.sleep(0.05)


@dataclass
class Service:
    """`python -m gateway` or `python -m dispatcher`."""

    process: subprocess.Popen[bytes]
    address_file: Path
    log: Path

    @property
    def url(self) -> str:
        return self.address_file.read_text().strip()

    def until_up(self) -> "Service":
        eventually(lambda: self.process.poll() is not None or self.address_file.exists(), "a service is up")
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        return self

    @property
    def partitions(self) -> int:
        """How many partitions a dispatcher owns, by its metrics."""
        metrics = WEB.get(f"{self.url}/metrics").text
        return int(float(re.findall(r"^mayfly_partitions (\S+)", metrics, re.MULTILINE)[0]))

    def signal(self, which: signal.Signals) -> None:
        self.process.send_signal(which)

    def exit_code(self) -> int:
        eventually(lambda: self.process.poll() is not None, "it ends", told=self.log)
        return self.process.returncode


@dataclass
class Attempts:
    """What the queue's lifecycle log says, by task."""

    claims: dict[str, list[Claimed]] = field(default_factory=lambda: defaultdict(list))
    outcomes: dict[str, list[Finished]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Fleet:
    settings: Settings
    directory: Path
    environment: dict[str, str]
    services: list[Service] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def start(self, module: str, **variables: str) -> Service:
        name = f"{module}-{len(self.services)}"
        address, log = self.directory / f"{name}.url", self.directory / f"{name}.log"
        out: IO[bytes]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                env={**self.environment, **variables, "MAYFLY_ADDRESS_FILE": str(address)},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.services.append(Service(process, address, log))
        return self.services[-1]

    def dispatchers(self, count: int, **variables: str) -> list[Service]:
        """Returns when they share the partitions: a claim that is on its way when one moves is made again."""
        started = [self.start("dispatcher", **variables) for _ in range(count)]
        for service in started:
            service.until_up()

        def balanced() -> bool:
            owned = [service.partitions for service in started]
            return sum(owned) == self.settings.partitions and max(owned) - min(owned) <= 1

        eventually(balanced, "the dispatchers share the partitions")
        return started

    def gateway(self) -> Client:
        """A client of a gateway that is ready."""
        service = self.start("gateway").until_up()

        def ready() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return WEB.get(f"{service.url}/readyz").status_code == 200
            return False

        eventually(ready, "the gateway is ready")
        self.clients.append(Client(service.url))
        return self.clients[-1]

    def attempts(self) -> Attempts:
        """Fold the lifecycle log from its beginning: what counts, and nothing else."""
        found = Attempts()
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.kafka,
                "group.id": "reader",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
            }
        )
        topic = events_topic(self.settings.queue)
        consumer.assign([TopicPartition(topic, number, 0) for number in range(self.settings.partitions)])
        folds = defaultdict(lambda: Fold(lambda _: False))
        unread = self.settings.partitions
        while unread:
            message = consumer.poll(10)
            assert message is not None, "the lifecycle log can be read"
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error
                unread -= 1
                continue
            event = decode_event(message.value())
            assert event is not None
            if not folds[message.partition()].apply(message.offset() or 0, event):
                continue
            if isinstance(event, Claimed):
                found.claims[event.task_id].append(event)
            elif isinstance(event, Finished):
                found.outcomes[event.task_id].append(event)
        consumer.close()
        return found

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        for service in self.services:
            if service.process.poll() is None:
                service.signal(signal.SIGTERM)
        for service in self.services:
            try:
                service.process.wait(30)
            except subprocess.TimeoutExpired:
                service.process.kill()
                service.process.wait()


@pytest.fixture
async def fleet(stack_parts: LiveStack, tmp_path: Path) -> "Iterator[Fleet]":  # type: ignore[misc]
    own = {
        "MAYFLY_QUEUE": f"fleet-{uuid.uuid4().hex[:12]}",
        "MAYFLY_STATE_DIR": str(tmp_path / "state"),
        "MAYFLY_PORT": "0",
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    environment = {**others, **stack_parts.environment, **own}
    settings = settings_of(environment)
    await ensure_topics(settings)
    started = Fleet(settings, tmp_path, environment)
    yield started
    started.stop()
    # What was killed on purpose left its sandboxes to the next dispatcher that starts here.
    runtime = DockerRuntime(settings, "sweeper")
    await runtime.start()
    await runtime.remove_orphans()
    await runtime.close()


@pytest.fixture(scope="session")
def sleeper_image(docker_engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Function:
    folder = tmp_path_factory.mktemp("sleeper") / "sleeper"
    folder.mkdir()
    (folder / "handler.py").write_text(SLEEPER)
    return build(folder, docker_engine, on_progress=lambda _: None)


@pytest.fixture
async def sleeper(fleet: Fleet, sleeper_image: Function) -> AsyncIterator[Function]:
    """A function that sleeps for `seconds` and returns its `index`, deployed."""
    function = msgspec.structs.replace(sleeper_image, queue=fleet.settings.queue)
    async with deployed(fleet, function):
        yield function


@pytest.fixture
async def light_sleeper(fleet: Fleet, sleeper_image: Function) -> AsyncIterator[Function]:
    """The same, of which hundreds may run: forks, for a container takes a core a quarter of a second."""
    function = msgspec.structs.replace(sleeper_image, queue=fleet.settings.queue, isolation="fork")
    async with deployed(fleet, function):
        yield function


@contextlib.asynccontextmanager
async def deployed(fleet: Fleet, function: Function) -> AsyncIterator[None]:
    """In the catalog while this lasts. Another gateway on the same parts would go on to mind its queue, whose
    dispatchers are gone by then."""
    log = Log(fleet.settings)
    await log.start()
    await publish(log, function)
    try:
        yield
    finally:
        await log.append(FUNCTIONS_TOPIC, None, key=function.name)
        await log.close()
