"""A fresh container per task by Docker itself: its command line, and its API through the SDK.

Both get what Mayfly gives its own: the function's image, limits, user, capabilities, seccomp profile, a
read-only root, no network. Its Python runs nothing. No input, no output, and nothing is stored.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import docker

from benchmarks.arena import Arena
from benchmarks.contenders.base import Contender, Measured, Unavailable
from dispatcher.runtimes.base import SandboxSpec
from dispatcher.runtimes.hardening import container_config, seccomp_profile

NOTHING: Final = ("python3", "-I", "-S", "-c", "pass")
"""Without `site`, as Mayfly's own bootstrap is started."""
STREAMS: Final = ("AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce")


class DockerRun(Contender):
    """`docker run --rm` in a loop."""

    name = "docker_run"

    def __init__(self, arena: Arena, at_once: int) -> None:
        self.at_once = at_once
        self._arena = arena
        self._command: list[str] = []

    def prepare(self) -> None:
        if shutil.which("docker") is None:
            raise Unavailable("there is no `docker` command")
        profile = self._arena.directory / "seccomp.json"
        profile.write_text(seccomp_profile())
        flags = run_flags(_config(self._arena), profile)
        program, *arguments = NOTHING
        self._command = ["docker", "--host", self._arena.engine, "run", "--rm", "--network", "none", *flags]
        self._command += ["--entrypoint", program, self._arena.image, *arguments]

    def run(self, seconds: float) -> Measured:
        return _loops(lambda: self._once, self.at_once, seconds)

    def _once(self) -> None:
        subprocess.run(self._command, check=True, capture_output=True)


class DockerApi(Contender):
    """Create, start, wait, remove, in a loop, over a connection that is kept."""

    name = "docker_api"

    def __init__(self, arena: Arena, at_once: int) -> None:
        self.at_once = at_once
        self._arena = arena

    def run(self, seconds: float) -> Measured:
        return _loops(self._client, self.at_once, seconds)

    def _client(self) -> Callable[[], None]:
        api = docker.APIClient(base_url=self._arena.engine, timeout=120)
        config = _config(self._arena) | {"Entrypoint": [NOTHING[0]], "Cmd": list(NOTHING[1:])}

        def once() -> None:
            made = api.create_container_from_config(config)["Id"]  # type: ignore[no-untyped-call]
            try:
                api.start(made)
                assert api.wait(made)["StatusCode"] == 0
            finally:
                api.remove_container(made, force=True)

        return once


def _config(arena: Arena) -> dict[str, Any]:
    spec = SandboxSpec(arena.image, task_id="", function="bench", limits=arena.limits)
    config = container_config(spec, labels={})
    # Nobody is attached to it.
    return {name: value for name, value in config.items() if name not in STREAMS}


def run_flags(config: dict[str, Any], profile: Path) -> list[str]:
    """The flags of `docker run` that say what this ContainerCreate says, but for the network."""
    host = config["HostConfig"]
    flags = ["--user", config["User"], "--hostname", config["Hostname"], "--no-healthcheck", "--init"]
    flags += ["--read-only", "--cap-drop", "ALL", "--ipc", host["IpcMode"], "--log-driver", "none"]
    flags += ["--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}"]
    flags += ["--memory", str(host["Memory"]), "--memory-swap", str(host["MemorySwap"])]
    flags += ["--cpus", f"{host['NanoCpus'] / 1e9:g}", "--pids-limit", str(host["PidsLimit"])]
    flags += ["--shm-size", str(host["ShmSize"]), "--oom-score-adj", str(host["OomScoreAdj"])]
    for variable in config["Env"]:
        flags += ["--env", variable]
    for limit in host["Ulimits"]:
        flags += ["--ulimit", f"{limit['Name']}={limit['Soft']}:{limit['Hard']}"]
    for target, options in host["Tmpfs"].items():
        flags += ["--tmpfs", f"{target}:{options}"]
    return flags


def _loops(client: Callable[[], Callable[[], None]], at_once: int, seconds: float) -> Measured:
    """So many loops side by side. Each is timed to the end of its own last round, so that none is cut."""

    def loop(once: Callable[[], None]) -> list[float]:
        took: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.monotonic()
            once()
            took.append(time.monotonic() - began)
        return took

    clients = [client() for _ in range(at_once)]
    with ThreadPoolExecutor(at_once) as threads:
        loops = list(threads.map(loop, clients))
    per_second = sum(len(took) / sum(took) for took in loops)
    latencies = tuple(one * 1000 for took in loops for one in took)
    return Measured(len(latencies), len(latencies) / per_second, latencies)


def versions(arena: Arena) -> dict[str, str]:
    api = docker.APIClient(base_url=arena.engine)
    found = api.version()
    api.close()
    components = {part["Name"]: part["Version"] for part in found.get("Components", ())}
    program = shutil.which("docker")
    command = ""
    if program:
        asked = subprocess.run([program, "version", "--format", "json"], capture_output=True, check=False)
        command = json.loads(asked.stdout or b"{}").get("Client", {}).get("Version", "")
    return {
        "docker engine": found["Version"],
        "docker command": command,
        "runc": components.get("runc", ""),
    }
