"""What every container of Mayfly is confined by, in one place.

Each entry has a test that proves it from inside (`tests/integration/test_sandbox_confinement.py`).
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from dispatcher.runtimes.base import SandboxSpec

MIB: Final = 1024 * 1024
USER: Final = "65532:65532"
HOST_NAME: Final = "host.mayfly.internal"
"""The name by which a sandbox with egress finds this machine."""
SHM_MIB: Final = 16
HOSTS: Final = "127.0.0.1 localhost sandbox\n::1 localhost\n"


@cache
def seccomp_profile() -> str:
    """`dispatcher/seccomp.json`, compact: it travels with every request to create a container."""
    text = (Path(__file__).parent.parent / "seccomp.json").read_text()
    profile = json.loads(text)
    for rule in profile["syscalls"]:
        del rule["comment"]
    return json.dumps(profile, separators=(",", ":"))


def container_config(
    spec: SandboxSpec,
    *,
    labels: Mapping[str, str],
    volumes: Iterable[str] = (),
    hosts: Path | None = None,
    egress: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """The body of Docker's ContainerCreate. `egress` is the network's name and this machine's address on it;
    `hosts` the file to be a sandbox's /etc/hosts where it has no network, for then the engine makes none.

    `volumes` are the paths that the image declares as volumes: each becomes a tmpfs, for otherwise the engine
    makes a directory of the host writable there, without a limit.
    """
    config: dict[str, Any] = {
        "Image": spec.image,
        "User": USER,
        "Hostname": "sandbox",
        "Env": [f"{name}={value}" for name, value in {"HOME": "/tmp", **spec.env}.items()],  # noqa: S108
        "Labels": dict(labels),
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        # Closes the container's stdin when our half of the connection is closed.
        "StdinOnce": True,
        # An image's health check would run a second process beside the function.
        "Healthcheck": {"Test": ["NONE"]},
        # Without a network the engine's network code is left out: it takes half of a start's time and, before
        # 20.10.27, could deadlock the engine when two containers ended at once (moby/libnetwork#2649). The
        # container still has a network namespace of its own, with loopback alone.
        "NetworkDisabled": egress is None,
        "HostConfig": _host_config(spec, volumes, hosts, egress),
    }
    if spec.command is not None:
        config["Cmd"] = list(spec.command)
    return config


def _host_config(
    spec: SandboxSpec, volumes: Iterable[str], hosts: Path | None, egress: tuple[str, str] | None
) -> dict[str, Any]:
    limits = spec.limits
    memory = limits.memory_mib * MIB
    tmpfs = f"rw,exec,nosuid,nodev,mode=1777,size={limits.tmp_mib}m"
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp_profile()}"],
        "Privileged": False,
        "IpcMode": "private",
        "ShmSize": SHM_MIB * MIB,
        "Tmpfs": dict.fromkeys(("/tmp", *volumes), tmpfs),  # noqa: S108
        "Memory": memory,
        # Memory and swap together: none of it is swap.
        "MemorySwap": memory,
        "NanoCpus": int(limits.cpu * 1e9),
        "PidsLimit": limits.pids,
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "memlock", "Soft": 8 * MIB, "Hard": 8 * MIB},
        ],
        # Where the whole machine is out of memory, a sandbox goes before the engine and the control plane.
        "OomScoreAdj": 500,
        # Without it the engine would copy every log line to its disk.
        "LogConfig": {"Type": "none"},
        # The function is not pid 1, which ignores SIGTERM by default and has to reap.
        "Init": True,
        "RestartPolicy": {"Name": "no"},
    }
    if egress is not None:
        network, address = egress
        host["NetworkMode"] = network
        host["ExtraHosts"] = [f"{HOST_NAME}:{address}"]
        host["Sysctls"] = {"net.ipv6.conf.all.disable_ipv6": "1"}
    elif hosts is not None:
        host["Mounts"] = [{"Type": "bind", "Source": str(hosts), "Target": "/etc/hosts", "ReadOnly": True}]
    return host
