"""The real parts, started once per session in a directory of their own, on ports that nobody else uses.

Nothing here starts before a test asks for it: the unit tests need no part at all.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import httpx
import hypothesis
import pytest

from mayfly.base_image import ensure_base
from mayfly.settings import Settings
from mayfly.stack import PartState, Running, environment, running
from mayfly.stack.engine import Engine
from mayfly.stack.home import Home
from mayfly.stack.packages import install
from mayfly.stack.process import Process
from mayfly.stack.stack import settings_of

# How long an example takes says something about the machine, and nothing about the code.
hypothesis.settings.register_profile(
    "mayfly", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("mayfly")

ENGINE = pytest.StashKey[Engine]()
REPOSITORY = Path(__file__).parent.parent
PATIENCE = 280.0
"""Seconds for a stack to be up: the first one on a machine installs, downloads and builds images."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where tests are handed out to several processes, what they share is made before: they would install
    programs and build images at the same time, and one would stop the engine that another one uses."""
    if not session.config.pluginmanager.hasplugin("dsession"):
        return
    with tempfile.TemporaryDirectory(prefix="mayfly-tests-") as directory:
        parts = launch("parts", Path(directory, "stack"), Path(directory, "functions"), variables={})
        try:
            parts.until_up()
        finally:
            parts.stop()
    engine = session.config.stash[ENGINE] = started_engine(Path(tempfile.mkdtemp(prefix="mayfly-tests-")))
    client = docker.DockerClient(base_url=engine.address, timeout=120)
    ensure_base(client, on_progress=print)
    client.close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (engine := session.config.stash.get(ENGINE, None)) is not None:
        asyncio.run(engine.stop())
        shutil.rmtree(engine.home.path)


@dataclass
class LiveStack:
    """A stack in a process of its own, as a user has it."""

    directory: Path
    functions: Path
    process: Process

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.directory)

    @property
    def settings(self) -> Settings:
        return settings_of(self.environment)

    @property
    def record(self) -> Running:
        found = running(self.directory)
        assert found is not None, self.output
        return found

    @property
    def url(self) -> str:
        assert self.record.gateway is not None
        return self.record.gateway

    @property
    def output(self) -> str:
        return self.process.last_words(200)

    def part(self, name: str) -> PartState:
        return next(part for part in self.record.parts if part.name == name)

    def until_up(self) -> "LiveStack":
        deadline = time.monotonic() + PATIENCE
        while (found := running(self.directory)) is None or found.pid != self.process.pid:
            assert self.process.exit_code is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        return self

    def until_ended(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self.process.exit_code is None:
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        return self.process.exit_code

    def stop(self) -> None:
        asyncio.run(self.process.end(90))


StartStack = Callable[..., LiveStack]


def launch(
    what: str,
    directory: Path,
    functions: Path,
    *arguments: str,
    variables: Mapping[str, str],
    usual_ports: bool = False,
) -> LiveStack:
    """`python -m mayfly.stack`, without any setting of whoever runs the tests, and with these variables."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    # Brokers and stores that live for a minute: what they would compile twice is not worth it.
    env["JAVA_TOOL_OPTIONS"] = "-XX:TieredStopAtLevel=1"
    kept = {name: os.environ[name] for name in ("MAYFLY_CACHE", "MAYFLY_DOCKER_HOST") if name in os.environ}
    command = [sys.executable, "-m", "mayfly.stack", what, "--dir", str(directory)]
    command += ["--functions", str(functions), *([] if usual_ports else ["--free-ports"]), *arguments]
    process = Process(
        Home(directory.parent / f"{directory.name}-up"), "up", command, {**env, **kept, **variables}
    )
    return LiveStack(directory, functions, process)


@pytest.fixture
def start_stack(tmp_path: Path) -> Iterator[StartStack]:
    """Starts stacks of the test's own, all in one directory: `start_stack("parts", MAYFLY_KAFKA="...")`."""
    started: list[LiveStack] = []

    def start(what: str, *arguments: str, usual_ports: bool = False, **variables: str) -> LiveStack:
        directory, functions = tmp_path / "stack", tmp_path / "functions"
        stack = launch(what, directory, functions, *arguments, variables=variables, usual_ports=usual_ports)
        started.append(stack)
        return stack

    yield start
    for stack in reversed(started):
        stack.stop()


@pytest.fixture(scope="session")
def stack_parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """Kafka, Redis and S3."""
    base = tmp_path_factory.mktemp("parts")
    stack = launch("parts", base / "stack", base / "functions", variables={})
    try:
        yield stack.until_up()
    finally:
        stack.stop()


def started_engine(directory: Path) -> Engine:
    engine = Engine(Home(directory), print, os.environ)
    asyncio.run(install(engine.programs(), print))
    asyncio.run(engine.start(Settings()))
    return engine


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[docker.DockerClient]:
    """The engine of this machine, or one that is started for the session."""
    engine = started_engine(tmp_path_factory.mktemp("engine"))
    client = docker.DockerClient(base_url=engine.address, timeout=120)
    try:
        yield client
    finally:
        client.close()
        asyncio.run(engine.stop())


@pytest.fixture
def settings(stack_parts: LiveStack, tmp_path: Path) -> Settings:
    """The real parts, with a queue and a state directory that are this test's alone.

    The queue's topics are not made yet: `ensure_topics(settings)` does that.
    """
    found = {**stack_parts.environment, "MAYFLY_QUEUE": f"test-{uuid.uuid4().hex[:12]}"}
    return settings_of({**found, "MAYFLY_STATE_DIR": str(tmp_path / "state"), "MAYFLY_PORT": "0"})


@dataclass
class Mayfly:
    """The whole of it: gateway, dispatcher, the example functions, on the session's parts."""

    stack: LiveStack
    http: httpx.Client

    @property
    def functions(self) -> Path:
        """The folder that is watched: a test may drop one of its own there."""
        return self.stack.functions


@pytest.fixture(scope="session")
def mayfly(
    stack_parts: LiveStack, docker_engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mayfly]:
    base = tmp_path_factory.mktemp("mayfly")
    shutil.copytree(REPOSITORY / "functions", base / "functions")
    parts = {name: value for name, value in stack_parts.environment.items() if name.startswith(PARTS)}
    stack = launch("up", base / "stack", base / "functions", "--mail", variables=parts)
    try:
        stack.until_up()
        with httpx.Client(base_url=stack.url, timeout=60, trust_env=False) as http:
            yield Mayfly(stack, http)
    finally:
        stack.stop()


PARTS = ("MAYFLY_KAFKA", "MAYFLY_REDIS", "MAYFLY_S3_")
