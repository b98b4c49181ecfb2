"""Functions' images, from the engine that built them to one that has them not, by a real registry."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest

from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.docker import DockerRuntime
from mayfly.adapters.kafka_catalog import Catalog
from mayfly.errors import SandboxesUnavailable, SandboxLost
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.stack.deploy import deploy
from mayfly.stack.engine import address
from tests.engine import remove_images


@pytest.fixture
def shared(settings: Settings, registry: str) -> Settings:
    """The settings of a deployer and a dispatcher that have the registry in common."""
    repository = f"{registry}/functions"
    return settings.model_copy(
        update={"functions_repository": repository, "docker_host": address(os.environ), "slots": 2}
    )


@pytest.fixture
async def function(
    shared: Settings, docker_engine: docker.DockerClient, tmp_path: Path
) -> AsyncIterator[Function]:
    """A function that was deployed, and whose image the engine has lost since."""
    name = f"carried-{uuid.uuid4().hex[:8]}"
    folder = tmp_path / "functions" / name
    folder.mkdir(parents=True)
    (folder / "handler.py").write_text("def handler(event, context):\n    return 'here'\n")
    assert await deploy(tmp_path / "deployer", folder.parent, shared)
    catalog = Catalog(shared)
    await catalog.start()
    deployed = catalog.get(name)
    await catalog.close()
    assert deployed is not None
    version = deployed.version
    for tag in (deployed.image, f"{shared.functions_repository}:{name}-{version}"):
        docker_engine.images.remove(tag, force=True)
    yield deployed
    remove_images(docker_engine, name)


async def test_an_image_that_the_engine_has_not_comes_from_the_registry(
    shared: Settings, function: Function, docker_engine: docker.DockerClient
) -> None:
    runtime = DockerRuntime(shared, "test")
    await runtime.start()
    try:
        spec = SandboxSpec.of(function, "task")
        first, second = await asyncio.gather(runtime.launch(spec), runtime.launch(spec))
        assert docker_engine.images.get(function.image)
        runtime.discard(first.name)
        runtime.discard(second.name)
    finally:
        await runtime.close()


async def test_a_registry_that_is_away_is_waited_for_and_an_image_that_is_nowhere_is_not(
    shared: Settings, function: Function
) -> None:
    nowhere = shared.model_copy(update={"functions_repository": "127.0.0.1:1/functions"})
    runtime = DockerRuntime(nowhere, "test")
    await runtime.start()
    try:
        with pytest.raises(SandboxesUnavailable, match=r"127\.0\.0\.1:1"):
            await runtime.launch(SandboxSpec.of(function, "task"))
    finally:
        await runtime.close()
    runtime = DockerRuntime(shared, "test")
    await runtime.start()
    try:
        with pytest.raises(SandboxLost, match="nor the registry") as raised:
            await runtime.launch(SandboxSpec(image="mayfly/fn-nobody:0", task_id="task", function="nobody"))
        assert not isinstance(raised.value, SandboxesUnavailable)
    finally:
        await runtime.close()
