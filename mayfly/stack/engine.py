"""Docker: the engine that runs here, else one of ours."""

import asyncio
import json
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import docker
from docker.context import ContextAPI
from docker.errors import DockerException
from requests.exceptions import RequestException

from mayfly.errors import StackError
from mayfly.settings import Settings
from mayfly.stack import mounts
from mayfly.stack.home import Home
from mayfly.stack.packages import CRUN, DOCKERD, Program, find
from mayfly.stack.part import Part, Say

DEFAULT: Final = "unix:///var/run/docker.sock"
PING_SECONDS: Final = 5
CONFIGURATION: Final = Path("/etc/docker/daemon.json")
CONTAINERD: Final = Path("/run/containerd/containerd.sock")
"""Where an engine looks for a containerd that is not its own, which it takes if it is there."""


def address(environ: Mapping[str, str]) -> str:
    """Where the engine is, or would be: the order is the one that Docker's own tools have."""
    return environ.get("MAYFLY_DOCKER_HOST") or environ.get("DOCKER_HOST") or _context() or DEFAULT


def _context() -> str | None:
    try:
        context = ContextAPI.get_current_context()
    except DockerException:
        return None
    return str(context.Host) if context and context.Host and context.Name != "default" else None


def _connect(host: str) -> None:
    """Raises `OSError` where nobody listens: the SDK would leave its own socket open then."""
    if host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PING_SECONDS)
            connection.connect(host.removeprefix("unix://"))


def ping(host: str) -> None:
    """Raises `StackError` unless an engine answers there."""
    try:
        _connect(host)
        client = docker.DockerClient(base_url=host, timeout=PING_SECONDS)
        try:
            client.ping()
        finally:
            client.close()
    except (DockerException, RequestException, OSError) as error:
        if "Permission denied" in str(error):
            raise StackError(
                f"the Docker engine at {host} does not let this user in",
                mend="sudo usermod -aG docker $USER && newgrp docker",
            ) from error
        raise StackError(f"no Docker engine answers at {host}: {error}") from error


def with_crun(dockerd: list[str]) -> list[str]:
    """The command of an engine that has crun, where there is one, beside its own runc."""
    crun = find("crun")
    if crun is None:
        return dockerd
    configured = _configured()
    # What its file says of runtimes, a flag may not say besides: it would not start.
    command = dockerd if "runtimes" in configured else [*dockerd, "--add-runtime", f"crun={crun}"]
    # Somebody else's containerd starts the containers where it is itself: what the engine mounts for them in
    # a namespace of its own is not there.
    shared = CONTAINERD.exists() or "containerd" in configured
    return command if shared else mounts.made_for(crun, command)


def _configured() -> frozenset[str]:
    """What the engine's file says something of."""
    try:
        return frozenset(json.loads(CONFIGURATION.read_text()))
    except (OSError, ValueError, TypeError):
        return frozenset()


class Engine(Part):
    name = "docker"
    variable = "DOCKER_HOST"
    grace = 30.0

    def __init__(self, home: Home, say: Say, environ: Mapping[str, str]) -> None:
        self.variable = "MAYFLY_DOCKER_HOST" if environ.get("MAYFLY_DOCKER_HOST") else "DOCKER_HOST"
        super().__init__(home, say, environ.get(self.variable))
        self._oci = environ.get("MAYFLY_RUNTIME") == "oci"
        self._address = address(environ)
        self.running = not self.given and self._answers()

    def _answers(self) -> bool:
        try:
            ping(self._address)
        except StackError as error:
            # A service that must not be used is no reason to start a second one over it.
            if error.mend:
                raise
            return False
        return True

    @property
    def address(self) -> str:
        return self._address

    @property
    def started_by(self) -> str:
        return "the system" if self.running else super().started_by

    @property
    def data(self) -> str | None:
        return None if self.given or self.running else "/var/lib/docker"

    def reason(self) -> str:
        return " because none was running"

    def environment(self) -> dict[str, str]:
        return {"MAYFLY_DOCKER_HOST": self._address}

    def programs(self) -> list[Program]:
        programs = [] if self.given or self.running else [DOCKERD]
        installs = os.geteuid() == 0 and shutil.which("apt-get") is not None
        # runc does as well, in three times the time: where crun cannot just be had, it is good enough. An
        # engine that is there already may do with what it has, one that is installed gets crun with it.
        wanted = self._oci or (DOCKERD in programs and not DOCKERD.present)
        if (wanted and installs) or (self._oci and find("runc") is None):
            programs.append(CRUN)
        return programs

    async def start(self, settings: Settings) -> None:
        if self.running:
            self.say(f"{self._address}, already running")
            return
        if not self.given and os.geteuid() != 0:
            raise StackError(
                f"no Docker engine answers at {self._address}, and only root can start one",
                mend="sudo systemctl start docker",
            )
        await super().start(settings)

    def command(self) -> list[str]:
        return with_crun([find("dockerd") or "dockerd", "--log-level", "warn"])

    async def probe(self, settings: Settings) -> None:
        await asyncio.to_thread(ping, self._address)
