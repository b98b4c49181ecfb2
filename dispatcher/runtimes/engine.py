"""Which Docker engine, whether it can do what a sandbox needs, and which of its OCI runtimes starts one."""

import os
from typing import Any, Final
from urllib.parse import urlsplit

import docker
from docker.errors import DockerException

from mayfly.errors import StackError
from mayfly.settings import Settings

REQUEST_SECONDS: Final = 60
"""How long the engine may take for one request: a cold one on a busy machine takes seconds."""
HTTP_PORT: Final = 80
RUNC: Final = "runc"
CRUN: Final = "crun"
"""Does what runc does, in less time: the one is a C program, the other a Go program of ten times the size."""


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


def oci_runtime(wanted: str | None, info: dict[str, Any]) -> str | None:
    """The engine's OCI runtime to start sandboxes with; None: its default. `wanted` is the setting.

    Raises `StackError` for one that the engine does not have.
    """
    names = info.get("Runtimes") or {}
    if wanted and wanted not in names:
        raise StackError(
            f"MAYFLY_DOCKER_RUNTIME is {wanted}, and the Docker engine has {', '.join(sorted(names))}",
            mend=f'add {wanted} to "runtimes" in the engine\'s daemon.json and restart it, or unset it here',
        )
    if wanted:
        return wanted
    # It stands in for runc alone: whoever gave the engine another default, such as gVisor, meant it.
    return CRUN if CRUN in names and info.get("DefaultRuntime") == RUNC else None


def leaves_cgroups_open(runtime: str | None, info: dict[str, Any]) -> bool:
    """Whether this OCI runtime, or the engine's default, may leave /sys/fs/cgroup writable in a container."""
    return info.get("CgroupVersion") != "2" and (runtime or info.get("DefaultRuntime")) != RUNC
