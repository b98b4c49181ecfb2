"""Mayfly by its image: built here, and run as compose.yaml runs it, on the session's parts."""

import asyncio
import contextlib
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
import yaml
from docker.models.containers import Container

from mayfly.adapters.kafka import FUNCTIONS_TOPIC, Log
from mayfly.build import build
from mayfly.data import functions_dir
from mayfly.example import read_examples
from mayfly.identity.keys import new_credential
from mayfly.stack.home import Home
from mayfly.stack.image import build_own
from mayfly.stack.mail import MailSink, messages
from mayfly.stack.stack import settings_of
from tests.conftest import REPOSITORY, LiveStack
from tests.e2e.tasks import PATIENCE, ended, logs, post, post_bytes, result
from tests.engine import remove_images
from tests.web import WEB

PREFIX = "imaged-"
"""Of the functions' names here: on the same Kafka are the examples themselves, which others run."""
NAMES = ["echo", "email", "report", "thumbnail", "wordcount"]
EXAMPLES = [(name, example) for name in NAMES for example in read_examples(functions_dir() / name)]
SECOND = 1_000_000_000
SOCKET = "/var/run/docker.sock"


@dataclass
class System:
    """Containers of one image, a queue and a state folder of their own."""

    engine: docker.DockerClient
    image: str
    environment: dict[str, str]
    state: Path
    services: dict[str, Any]
    containers: list[Container] = field(default_factory=list)

    def start(self, name: str, *, command: list[str] | None = None, **more: Any) -> Container:
        """As the service of compose.yaml, but in the machine's network, where the session's parts are."""
        service = self.services[name]
        tmpfs = dict(mount.split(":", 1) for mount in service.get("tmpfs", ()))
        volumes = {} if name == "gateway" else {SOCKET: {"bind": SOCKET}}
        container = self.engine.containers.run(
            self.image,
            command or service["command"],
            detach=True,
            network_mode="host",
            user=service["user"],
            init=service["init"],
            read_only=service["read_only"],
            cap_drop=service["cap_drop"],
            cap_add=service.get("cap_add"),
            security_opt=service["security_opt"],
            tmpfs=tmpfs,
            volumes=volumes | more.pop("volumes", {}),
            environment=self.environment | more.pop("variables", {}),
            # The image's own check, but more often.
            healthcheck={"interval": SECOND},
            **more,
        )
        self.containers.append(container)
        return container

    def dispatcher(self, **variables: str) -> Container:
        return self.start("dispatcher", volumes=self.shared, variables=variables)

    @property
    def shared(self) -> dict[str, dict[str, str]]:
        return {str(self.state): {"bind": str(self.state)}}

    def printed(self, container: Container) -> str:
        """What a container that ends has printed, once it has."""
        assert container.wait(timeout=PATIENCE)["StatusCode"] == 0, container.logs().decode()
        return str(container.logs(stderr=False).decode())

    def sandboxes(self) -> list[Container]:
        listed = self.engine.containers.list(filters={"label": "mayfly.lock"}, ignore_removed=True)
        return [one for one in listed if str(self.state) in one.labels["mayfly.lock"]]

    def close(self) -> None:
        """Leaves nothing, and may be repeated."""
        for container in self.containers:
            # A dispatcher that is told to stop takes its sandboxes with it.
            container.stop(timeout=40)
        with contextlib.suppress(AssertionError):
            egress(self, "remove")
        for container in [*self.containers, *self.sandboxes()]:
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)
        self.containers.clear()


def egress(system: System, *arguments: str) -> str:
    command = ["python", "-P", "-m", "dispatcher.runtimes.egress", *arguments]
    return system.printed(system.start("dispatcher", command=command, volumes=system.shared)).strip()


def until_healthy(container: Container) -> None:
    deadline = time.monotonic() + PATIENCE
    while (state := container.attrs["State"]).get("Health", {}).get("Status") != "healthy":
        assert state["Status"] in ("created", "running"), container.logs().decode()
        assert time.monotonic() < deadline, (state["Health"], container.logs().decode())
        time.sleep(0.1)
        container.reload()


def url(container: Container) -> str:
    address = container.exec_run(["sh", "-c", "cat $MAYFLY_ADDRESS_FILE"]).output.decode()
    return str(address.strip().replace("0.0.0.0", "127.0.0.1"))


@contextlib.contextmanager
def mail_server(home: Home, address: str) -> Iterator[MailSink]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    sink = MailSink(home, home.port("mail", None))
    try:
        asyncio.run_coroutine_threadsafe(sink.start(address), loop).result(PATIENCE)
        yield sink
        asyncio.run_coroutine_threadsafe(sink.stop(), loop).result(PATIENCE)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def image(docker_engine: docker.DockerClient) -> Iterator[str]:
    tag = f"mayfly:test-{uuid.uuid4().hex[:8]}"
    yield build_own(docker_engine, tag=tag, on_progress=print)
    docker_engine.images.remove(tag, force=True)


@pytest.fixture(scope="module")
def system(
    image: str, docker_engine: docker.DockerClient, stack_parts: LiveStack, tmp_path_factory: Any
) -> Iterator[System]:
    state = tmp_path_factory.mktemp("state")
    own = {
        "MAYFLY_QUEUE": f"images-{uuid.uuid4().hex[:8]}",
        "MAYFLY_STATE_DIR": str(state),
        "MAYFLY_HOST": "0.0.0.0",
        "MAYFLY_PORT": "0",
        "MAYFLY_AUTH": "true",
        "MAYFLY_ADMIN_KEY": str(new_credential()),
    }
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    made = System(docker_engine, image, {**stack_parts.environment, **own}, state, services)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def deployed(system: System, tmp_path_factory: Any) -> Iterator[list[str]]:
    """The examples under names of their own, by the deployer in its container; their names."""
    folders = tmp_path_factory.mktemp("functions")
    for name in NAMES:
        folder = folders / f"{PREFIX}{name}"
        shutil.copytree(functions_dir() / name, folder)
        manifest = (folder / "function.toml").read_text()
        more = f'queue = "{system.environment["MAYFLY_QUEUE"]}"\n' + "warm_pool = 1\n" * (name == "echo")
        (folder / "function.toml").write_text(more + manifest)
    # Its packages are fetched here: whether a container reaches a package index is the machine's matter.
    build(functions_dir() / "thumbnail", system.engine, on_progress=print)
    volumes = {str(folders): {"bind": "/functions", "mode": "ro"}}
    try:
        printed = system.printed(system.start("deploy", volumes=volumes))
        assert all(f"function {PREFIX}{name}: version" in printed for name in NAMES), printed
        yield [f"{PREFIX}{name}" for name in NAMES]
    finally:
        asyncio.run(forget(system, [f"{PREFIX}{name}" for name in NAMES]))
        system.close()
        remove_images(system.engine, PREFIX)


async def forget(system: System, names: list[str]) -> None:
    """Takes them from the catalog: other gateways would go on to mind their queue."""
    log = Log(settings_of(system.environment))
    await log.start()
    for name in names:
        await log.append(FUNCTIONS_TOPIC, None, key=name)
    await log.close()


@pytest.fixture(scope="module")
def mail(system: System, tmp_path_factory: Any) -> Iterator[MailSink]:
    home = Home(tmp_path_factory.mktemp("mail"))
    with mail_server(home, egress(system)) as sink:
        yield sink


@pytest.fixture(scope="module")
def dispatcher(system: System, deployed: list[str], mail: MailSink) -> Container:
    started = system.dispatcher(**mail.environment())
    until_healthy(started)
    deadline = time.monotonic() + PATIENCE
    partitions = settings_of(system.environment).partitions
    # Until it has told of each, reads of the queue may be refused.
    while f"mayfly_partitions {partitions}.0" not in WEB.get(url(started) + "/metrics").text:
        assert time.monotonic() < deadline, started.logs().decode()
        time.sleep(0.05)
    return started


@pytest.fixture(scope="module")
def gateway(system: System, deployed: list[str]) -> Container:
    started = system.start("gateway")
    until_healthy(started)
    return started


@pytest.fixture(scope="module")
def http(system: System, gateway: Container) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {system.environment['MAYFLY_ADMIN_KEY']}"}
    with httpx.Client(base_url=url(gateway), headers=headers, timeout=60, trust_env=False) as client:
        deadline = time.monotonic() + PATIENCE
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, client.get("/readyz").text
            time.sleep(0.05)
        yield client


def test_a_task_of_every_example_gives_what_it_promises(
    http: httpx.Client, dispatcher: Container, mail: MailSink
) -> None:
    tasks = {}
    for name, example in EXAMPLES:
        if example.is_json:
            task_id = post(http, PREFIX + name, yaml.safe_load(example.payload))
        else:
            task_id = post_bytes(http, PREFIX + name, example.payload, example.content_type)
        tasks[task_id] = name, example
    for task_id, (name, example) in tasks.items():
        task = ended(http, task_id)
        assert task["status"] == "COMPLETED", (name, task["error"], logs(http, task_id))
        assert example.problems(*result(http, task_id)) == []
    assert len(messages(mail._home)) == 1


def test_the_gateway_is_not_root_and_the_image_has_no_pip_and_no_tests(
    system: System, gateway: Container
) -> None:
    top = gateway.top(ps_args="-o uid,pid,args")
    assert {row[0] for row in top["Processes"]} == {"65532"}
    assert gateway.exec_run(["python", "-m", "pip", "--version"]).exit_code != 0
    assert gateway.exec_run(["find", "/opt/mayfly", "-name", "tests"]).output == b""
    version = gateway.exec_run(["mayfly", "--version"])
    assert re.fullmatch(rb"mayfly \d+\.\d+\.\d+\n", version.output), version.output


def test_what_a_killed_dispatcher_left_is_removed_by_the_next_container(
    system: System, dispatcher: Container
) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (left := system.sandboxes()):
        assert time.monotonic() < deadline, dispatcher.logs().decode()
        time.sleep(0.05)
    [lock] = {one.labels["mayfly.lock"] for one in left}
    assert (system.state / "dispatchers/folder-id").read_text()[:12] in lock, (
        "no machine's id is in the image"
    )
    dispatcher.kill()
    until_healthy(system.dispatcher())
    assert lock not in {one.labels["mayfly.lock"] for one in system.sandboxes()}
    assert not Path(lock.partition(":")[2]).exists()
