import asyncio
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import docker
import pytest

from mayfly.adapters.kafka import ensure_topics
from mayfly.adapters.kafka_catalog import Catalog
from mayfly.adapters.kafka_trail import TrailTopic
from mayfly.function import Function
from mayfly.identity import chain
from mayfly.settings import Settings
from mayfly.stack.deployer import Deployer, deployed
from mayfly.stack.engine import address
from mayfly.stack.home import Home
from tests.engine import remove_images

HANDLER = "def handler(event, context):\n    return {answer!r}\n"
NOTICED = 2.0
"""Seconds within which a change is picked up."""
SOON = 120.0


class Watched:
    """A folder, its deployer, and the catalog as a gateway sees it."""

    def __init__(self, folder: Path, home: Home, settings: Settings, engine: str) -> None:
        self.folder = folder
        self.home = home
        self.lines: list[str] = []
        self.catalog = Catalog(settings)
        self.deployer = Deployer(home, folder, settings, engine, self.lines.append)
        self.name = f"watched-{uuid.uuid4().hex[:8]}"

    def write(self, text: str, file: str = "handler.py") -> None:
        path = self.folder / self.name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    async def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + SOON
        while not condition():
            assert time.monotonic() < deadline, self.lines
            await asyncio.sleep(0.02)

    @property
    def served(self) -> Function | None:
        return self.catalog.get(self.name)

    async def version(self, *, other_than: str | None = None) -> Function:
        await self.until(lambda: self.served and self.served.version != other_than)
        assert self.served is not None
        return self.served


@pytest.fixture
async def watched(
    settings: Settings, docker_engine: docker.DockerClient, tmp_path: Path
) -> AsyncIterator[Watched]:
    await ensure_topics(settings)
    home = Home(tmp_path / "stack")
    home.make()
    folder = tmp_path / "functions"
    folder.mkdir()
    watched = Watched(folder, home, settings, address(os.environ))
    await watched.catalog.start()
    await watched.deployer.start()
    yield watched
    await watched.deployer.stop()
    await watched.catalog.close()
    remove_images(docker_engine, watched.name)


async def test_a_new_folder_is_picked_up_within_two_seconds(watched: Watched) -> None:
    began = time.monotonic()
    watched.write(HANDLER.format(answer=1))
    await watched.until(lambda: any(watched.name in line for line in watched.lines))
    assert time.monotonic() - began < NOTICED
    assert (await watched.version()).image.startswith(f"mayfly/fn-{watched.name}:")


async def test_a_change_is_deployed_and_the_same_content_is_not_deployed_again(watched: Watched) -> None:
    watched.write(HANDLER.format(answer=1))
    first = await watched.version()
    watched.write(HANDLER.format(answer=2))
    second = await watched.version(other_than=first.version)
    assert second.deployed_at > first.deployed_at
    revision = watched.catalog.revision
    watched.write(HANDLER.format(answer=2))
    watched.write(HANDLER.format(answer=3))
    await watched.version(other_than=second.version)
    assert watched.catalog.revision == revision + 1


async def test_a_broken_change_is_reported_with_its_line_and_the_last_good_version_serves(
    watched: Watched,
) -> None:
    watched.write(HANDLER.format(answer=1))
    good = await watched.version()
    watched.write("def handler(event, context):\n    return (\n")
    await watched.until(lambda: any(state.error for state in deployed(watched.home)))
    state = next(state for state in deployed(watched.home) if state.name == watched.name)
    assert state.error is not None
    assert state.error.startswith(f"functions/{watched.name}/handler.py:2: ")
    assert state.version == good.version
    assert watched.served == good
    assert f"version {good.version} goes on serving" in watched.lines[-1]
    watched.write(HANDLER.format(answer=2))
    await watched.version(other_than=good.version)
    await watched.until(lambda: not any(state.error for state in deployed(watched.home)))


async def test_a_function_whose_folder_is_gone_is_retired_and_comes_back_with_it(watched: Watched) -> None:
    watched.write(HANDLER.format(answer=1))
    await watched.version()
    await watched.until(lambda: [state.name for state in deployed(watched.home)] == [watched.name])
    shutil.rmtree(watched.folder / watched.name)
    await watched.until(lambda: watched.served and watched.served.retired)
    watched.write(HANDLER.format(answer=1))
    await watched.until(lambda: watched.served and not watched.served.retired)


async def test_what_is_deployed_and_retired_is_in_the_audit_log_before_the_catalog(
    watched: Watched, settings: Settings
) -> None:
    topic = TrailTopic(settings)
    since = (await topic.bounds()).end
    watched.write(HANDLER.format(answer=1))
    version = (await watched.version()).version
    await watched.until(lambda: deployed(watched.home))
    shutil.rmtree(watched.folder / watched.name)
    await watched.until(lambda: watched.served and watched.served.retired)
    records = [chain.read(one.value) for one in await topic.read(since, (await topic.bounds()).end)]
    await topic.close()
    told = [(one.action, one.target) for one in records if one and one.target.startswith(watched.name)]
    assert told == [
        ("function.deploy", f"{watched.name}@{version}"),
        ("function.retire", f"{watched.name}@{version}"),
    ]


async def test_what_changed_while_nothing_watched_is_deployed_at_the_next_start(
    watched: Watched, settings: Settings
) -> None:
    watched.write(HANDLER.format(answer=1))
    await watched.version()
    await watched.until(lambda: deployed(watched.home))
    await watched.deployer.stop()
    shutil.rmtree(watched.folder / watched.name)
    watched.deployer = _again(watched, settings)
    await watched.deployer.start()
    await watched.until(lambda: watched.served and watched.served.retired)


async def test_the_functions_of_others_in_the_catalog_are_left_alone(
    watched: Watched, settings: Settings, tmp_path: Path
) -> None:
    watched.write(HANDLER.format(answer=1))
    served = await watched.version()
    other = Home(tmp_path / "other")
    other.make()
    (tmp_path / "empty").mkdir()
    deployer = Deployer(other, tmp_path / "empty", settings, address(os.environ), watched.lines.append)
    await deployer.start()
    await deployer.stop()
    assert watched.served == served


def _again(watched: Watched, settings: Settings) -> Deployer:
    return Deployer(watched.home, watched.folder, settings, address(os.environ), watched.lines.append)
