"""Which Docker engine, and whether it can do what a sandbox needs."""

import os
from typing import Any, Final
from urllib.parse import urlsplit

import docker
from docker.errors import DockerException

from mayfly.settings import Settings

REQUEST_SECONDS: Final = 60
"""How long the engine may take for one request: a cold one on a busy machine takes seconds."""
HTTP_PORT: Final = 80


def connect(settings: Settings) -> docker.APIClient:
    """A client of the engine that the settings, DOCKER_HOST or the Docker context name. Blocks."""
    options: dict[str, Any] = {"timeout": REQUEST_SECONDS, "max_pool_size": 64}
    if settings.docker_host:
        options["environment"] = {**os.environ, "DOCKER_HOST": settings.docker_host}
    api = docker.from_env(**options).api
    if not api.base_url.startswith(("http+docker://localhost", "http://")):
        raise DockerException(f"{api.base_url} is neither a Unix socket nor plain TCP")
    return api


def address(api: docker.APIClient) -> str | tuple[str, int]:
    """Where it listens: a Unix socket's path, or a host and a port."""
    if api.base_url.startswith("http+docker://"):
        return str(api._custom_adapter.socket_path)  # type: ignore[attr-defined]
    parts = urlsplit(api.base_url)
    return parts.hostname or "localhost", parts.port or HTTP_PORT


def lacking(info: dict[str, Any]) -> list[str]:
    """What a sandbox needs and this engine does not have."""
    needs = {
        "Linux containers": info.get("OSType") == "linux",
        "seccomp": any("seccomp" in option for option in info.get("SecurityOptions") or ()),
        "memory limits": info.get("MemoryLimit"),
        "limits on processes": info.get("PidsLimit"),
        "limits on CPU": info.get("CpuCfsQuota"),
    }
    return [need for need, met in needs.items() if not met]
