"""The command as a process, and what its tests leave in the engine."""

import sys
from typing import Final

import docker

MAYFLY: Final = [sys.executable, "-c", "from mayfly.cli import main; main()"]


def remove_images(prefix: str) -> None:
    """Removes the images of the functions whose names start so."""
    client = docker.from_env()
    try:
        for image in client.images.list():
            if any(tag.startswith(f"mayfly/fn-{prefix}") for tag in image.tags):
                client.images.remove(image.id, force=True)
    finally:
        client.close()
