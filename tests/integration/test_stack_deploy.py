"""`python -m mayfly.stack deploy`: functions deployed once, by whoever has no stack."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import docker
import pytest

from mayfly.adapters.kafka_catalog import Catalog
from mayfly.settings import Settings
from mayfly.stack.deploy import deploy
from mayfly.stack.engine import address
from tests.engine import remove_images


@pytest.fixture
def name() -> str:
    return f"once-{uuid.uuid4().hex[:8]}"


async def test_a_broken_function_is_told_and_keeps_no_other_from_being_deployed(
    settings: Settings,
    docker_engine: docker.DockerClient,
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for one, text in ((name, "def handler(event, context):\n    return 1\n"), (f"{name}-broken", "def (\n")):
        (tmp_path / "functions" / one).mkdir(parents=True)
        (tmp_path / "functions" / one / "handler.py").write_text(text)
    at_engine = settings.model_copy(update={"docker_host": address(os.environ)})
    assert not await deploy(tmp_path / "home", tmp_path / "functions", at_engine)
    assert f"function {name}-broken:" in capsys.readouterr().out
    catalog = Catalog(settings)
    await catalog.start()
    assert catalog.get(name) is not None
    assert catalog.get(f"{name}-broken") is None
    await catalog.close()
    remove_images(docker_engine, name)


def test_a_folder_without_a_function_is_an_error_that_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mayfly.stack", "deploy", "--functions", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "there is no function in" in done.stderr
    assert "Traceback" not in done.stderr
