"""A sandbox as the OCI runtime specification has it: what `hardening` says, for `runc` and `crun`.

Format: `config.json` of the OCI runtime specification 1.0.2, config.md and config-linux.md.
"""

import json
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from dispatcher.runtimes.base import SandboxSpec, Use
from dispatcher.runtimes.hardening import (
    MIB,
    OOM_SCORE,
    SANDBOX_HOST,
    SHM_MIB,
    USER,
    environment,
    hidden,
    rlimits,
    seccomp_profile,
    tmpfs_options,
)

INIT: Final = "/sbin/docker-init"
"""Where a sandbox has its first process, as under Docker."""
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""An image that names none gets the one that Docker gives it."""
PERIOD: Final = 100_000
"""Microseconds over which CPU time is counted."""
ARCHITECTURES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
Mount = tuple[str, str, str, tuple[str, ...]]
"""Destination, type, source, options."""
SYSTEM_MOUNTS: Final[tuple[Mount, ...]] = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", "ro")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
    ("/dev/shm", "tmpfs", "shm", ("nosuid", "noexec", "nodev", "mode=1777", f"size={SHM_MIB}m")),  # noqa: S108
)


@dataclass(frozen=True, slots=True)
class RootFilesystem:
    """An unpacked image, and what its processes start with."""

    path: Path
    environment: Mapping[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    folder: str
    volumes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """What a configuration has of the machine and the program that it is for."""

    init: str
    hosts: Path
    group: str
    """The control group in which each sandbox has one."""
    counts_swap: bool
    closes_cgroups: bool
    """Whether /sys/fs/cgroup has to be made read-only besides: crun, with version 1, leaves it open."""


class Template:
    """The configuration of an image's sandboxes with the same limits: all but arguments and names."""

    def __init__(self, spec: SandboxSpec, root: RootFilesystem, place: Place) -> None:
        self._root = root
        arguments, env, group = (f"@{uuid.uuid4().hex}@" for _ in range(3))
        text = json.dumps(_config(spec, root, place, arguments, env, group), separators=(",", ":"))
        self._parts = []
        for hole in (f'"{arguments}"', f'"{env}"', group):
            part, text = text.split(hole)
            self._parts.append(part.encode())
        self._parts.append(text.encode())

    def fill(self, name: str, spec: SandboxSpec) -> bytes:
        """The `config.json` of one sandbox."""
        command = self._root.command if spec.command is None else spec.command
        arguments = [INIT, "--", *self._root.entrypoint, *command]
        values = {"PATH": PATH, "HOSTNAME": SANDBOX_HOST, **self._root.environment, **environment(spec)}
        env = [f"{name}={value}" for name, value in values.items()]
        holes = (msgspec.json.encode(arguments), msgspec.json.encode(env), name.encode(), b"")
        return b"".join(part + hole for part, hole in zip(self._parts, holes, strict=True))


def _config(
    spec: SandboxSpec, root: RootFilesystem, place: Place, arguments: str, env: str, group: str
) -> dict[str, Any]:
    user, _, own = USER.partition(":")
    masked, read_only = hidden(spec.use)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": int(user), "gid": int(own), "additionalGids": [int(own)], "umask": 0o022},
            "args": arguments,
            "env": env,
            "cwd": root.folder or "/",
            "capabilities": {},
            "rlimits": [
                {"type": f"RLIMIT_{name.upper()}", "hard": value, "soft": value}
                for name, value in rlimits(spec.limits).items()
            ],
            "noNewPrivileges": True,
            "oomScoreAdj": OOM_SCORE,
        },
        "root": {"path": str(root.path), "readonly": True},
        "hostname": SANDBOX_HOST,
        "mounts": _mounts(spec, root, place),
        "linux": {
            "cgroupsPath": f"/{place.group}/{group}",
            "resources": _resources(spec, place),
            "namespaces": [{"type": kind} for kind in ("mount", "network", "uts", "pid", "ipc", "cgroup")],
            "seccomp": _seccomp(platform.machine(), spec.use),
            "maskedPaths": masked,
            "readonlyPaths": read_only,
            # As in a container of Docker's: none of it reaches beyond the sandbox's own network.
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
        },
    }


def _mounts(spec: SandboxSpec, root: RootFilesystem, place: Place) -> list[dict[str, Any]]:
    mounts = list(SYSTEM_MOUNTS)
    if place.closes_cgroups:
        options = ("remount", "ro", "nosuid", "noexec", "nodev", "mode=755", "size=4k")
        closed = ("/sys/fs/cgroup", "tmpfs", "tmpfs", options)
        mounts.insert(1 + [path for path, *_ in mounts].index("/sys/fs/cgroup"), closed)
    tmpfs = tuple(tmpfs_options(spec.limits).split(","))
    mounts += [(path, "tmpfs", "tmpfs", tmpfs) for path in ("/tmp", *root.volumes)]  # noqa: S108
    mounts.append((INIT, "bind", place.init, ("bind", "ro")))
    mounts.append(("/etc/hosts", "bind", str(place.hosts), ("bind", "ro")))
    return [
        {"destination": path, "type": kind, "source": source, "options": list(options)}
        for path, kind, source, options in mounts
    ]


def _resources(spec: SandboxSpec, place: Place) -> dict[str, Any]:
    memory = spec.limits.memory_mib * MIB
    limits = {"limit": memory}
    if place.counts_swap:
        # Memory and swap together: none of it is swap.
        limits["swap"] = memory
    return {
        # What is allowed is what the programs themselves allow: /dev/null and its like.
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": limits,
        "cpu": {"quota": int(spec.limits.cpu * PERIOD), "period": PERIOD},
        "pids": {"limit": spec.limits.pids},
    }


@cache
def _seccomp(machine: str, use: Use) -> dict[str, Any]:
    """Docker's form of a profile, as the specification has it: for this machine's native calls alone."""
    profile = json.loads(seccomp_profile(use))
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [ARCHITECTURES[machine]],
        "syscalls": profile["syscalls"],
    }
