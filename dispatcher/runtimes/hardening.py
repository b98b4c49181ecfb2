"""What every container of Mayfly is confined by, in one place.

Each entry has a test that proves it from inside (`tests/integration/test_sandbox_confinement.py`).
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from dispatcher.runtimes.base import SandboxSpec, Use
from mayfly.function import Limits

MIB: Final = 1024 * 1024
USER: Final = "65532:65532"
HOST_NAME: Final = "host.mayfly.internal"
"""The name by which a sandbox with egress finds this machine."""
SANDBOX_HOST: Final = "sandbox"
"""What a sandbox takes itself for."""
SHM_MIB: Final = 16
OOM_SCORE: Final = 500
"""Where the whole machine is out of memory, a sandbox goes before the engine and the control plane."""
HOSTS: Final = f"127.0.0.1 localhost {SANDBOX_HOST}\n::1 localhost\n"
MASKED: Final = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
"""What is hidden of /proc and /sys: an engine has the same list, and the next, of its own."""
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
CGROUPS: Final = "/sys/fs/cgroup"
CONTROLLERS: Final = (
    *("blkio", "cpu", "cpu,cpuacct", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc"),
    *("net_cls", "net_cls,net_prio", "net_prio", "perf_event", "pids", "rdma", "systemd"),
)
"""The folders of control groups of version 1, by the names that distributions give them."""


FORKS_CALLS: Final = ("mount", "setns", "unshare")
"""What a container that forks its tasks' sandboxes needs besides: it refuses them to each task itself."""


@cache
def seccomp_profile(use: Use = Use.ONCE) -> str:
    """`dispatcher/seccomp.json`, compact: it travels with every request to create a container."""
    text = (Path(__file__).parent.parent / "seccomp.json").read_text()
    profile = json.loads(text)
    for rule in profile["syscalls"]:
        del rule["comment"]
    if use is Use.FORKS:
        profile["syscalls"].append({"action": "SCMP_ACT_ALLOW", "names": list(FORKS_CALLS)})
    return json.dumps(profile, separators=(",", ":"))


def hidden(use: Use) -> tuple[list[str], list[str]]:
    """What is masked of /proc and /sys, and what is read-only.

    The kernel lets a task have a /proc of its own only where nothing of its container's is hidden. A parent
    of forks hides the same in each task's; of /sys it stays hidden here.
    """
    if use is Use.FORKS:
        return [path for path in MASKED if path.startswith("/sys/")], []
    return list(MASKED), list(READ_ONLY)


def environment(spec: SandboxSpec) -> dict[str, str]:
    """What is added to the image's own."""
    return {"HOME": "/tmp", **spec.env}  # noqa: S108


def tmpfs_options(limits: Limits) -> str:
    """For /tmp and each of the image's volumes."""
    return f"rw,exec,nosuid,nodev,mode=1777,size={limits.tmp_mib}m"


def rlimits(limits: Limits) -> dict[str, int]:
    return {"nofile": limits.open_files, "core": 0, "memlock": 8 * MIB}


def container_config(
    spec: SandboxSpec,
    *,
    labels: Mapping[str, str],
    volumes: Iterable[str] = (),
    hosts: Path | None = None,
    egress: tuple[str, str] | None = None,
    runtime: str | None = None,
    close_cgroups: bool = False,
) -> dict[str, Any]:
    """The body of Docker's ContainerCreate. `egress` is the network's name and this machine's address on it;
    `hosts` the file to be a sandbox's /etc/hosts where it has no network, for then the engine makes none.

    `volumes` are the paths that the image declares as volumes: each becomes a tmpfs, for otherwise the engine
    makes a directory of the host writable there, without a limit.

    `runtime` is the engine's OCI runtime that starts it; None: its default. `close_cgroups` says that this
    one leaves /sys/fs/cgroup for everybody to write to, as crun does with control groups of version 1.
    """
    config: dict[str, Any] = {
        "Image": spec.image,
        "User": USER,
        "Hostname": SANDBOX_HOST,
        "Env": [f"{name}={value}" for name, value in environment(spec).items()],
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
    if runtime is not None:
        config["HostConfig"]["Runtime"] = runtime
    if close_cgroups:
        # The folder first: what is mounted in it is writable in the copy of it that this puts on top.
        closed = [CGROUPS, *(f"{CGROUPS}/{controller}" for controller in CONTROLLERS)]
        config["HostConfig"]["ReadonlyPaths"] = [*hidden(spec.use)[1], *closed]
    return config


def _host_config(
    spec: SandboxSpec, volumes: Iterable[str], hosts: Path | None, egress: tuple[str, str] | None
) -> dict[str, Any]:
    limits = spec.limits
    memory = limits.memory_mib * MIB
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp_profile(spec.use)}"],
        "Privileged": False,
        "IpcMode": "private",
        "ShmSize": SHM_MIB * MIB,
        "Tmpfs": dict.fromkeys(("/tmp", *volumes), tmpfs_options(limits)),  # noqa: S108
        "Memory": memory,
        # Memory and swap together: none of it is swap.
        "MemorySwap": memory,
        "NanoCpus": int(limits.cpu * 1e9),
        "PidsLimit": limits.pids,
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in rlimits(limits).items()],
        "OomScoreAdj": OOM_SCORE,
        # Without it the engine would copy every log line to its disk.
        "LogConfig": {"Type": "none"},
        # The function is not pid 1, which ignores SIGTERM by default and has to reap.
        "Init": True,
        "RestartPolicy": {"Name": "no"},
    }
    if spec.use is Use.FORKS:
        host["MaskedPaths"], host["ReadonlyPaths"] = hidden(spec.use)
    if egress is not None:
        network, address = egress
        host["NetworkMode"] = network
        host["ExtraHosts"] = [f"{HOST_NAME}:{address}"]
        host["Sysctls"] = {"net.ipv6.conf.all.disable_ipv6": "1"}
    elif hosts is not None:
        host["Mounts"] = [{"Type": "bind", "Source": str(hosts), "Target": "/etc/hosts", "ReadOnly": True}]
    return host
