"""A real registry of images, on loopback."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from mayfly.stack.packages import Program, find, install

REGISTRY = Program("docker-registry", ("docker-registry",), "a registry of images")
CONFIG = """\
version: 0.1
storage:
  filesystem:
    rootdirectory: {data}
http:
  addr: {address}
"""
DEADLINE = 120.0


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, on loopback, which engines speak plain HTTP to."""
    asyncio.run(install([REGISTRY], print))
    directory = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    config = directory / "config.yml"
    config.write_text(CONFIG.format(data=directory / "data", address=host))
    command = [find(REGISTRY.name) or REGISTRY.name, "serve", str(config)]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _until_it_listens(host)
            yield host
        finally:
            process.kill()


def _until_it_listens(host: str) -> None:
    name, port = host.split(":")
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            socket.create_connection((name, int(port)), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the registry does not listen"
            time.sleep(0.05)
        else:
            return
