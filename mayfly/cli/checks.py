"""What `mayfly doctor` looks at. Each check is a function that returns what it found."""

import gzip
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from mayfly.cli.escapes import open_escapes

OLDEST_ENGINE: Final = (20, 10)
GIB: Final = 1024**3
MEMORY_WANTED: Final = 2 * GIB
"""What the local stack and two sandboxes take."""
DISK_WANTED: Final = 5 * GIB
DISK_NEEDED: Final = 1 * GIB
PACKAGES: Final = {"runc": "runc", "containerd": "containerd", "engine": "docker.io"}
"""Debian's package of each part of the engine."""
KNOWN: Final = frozenset({*PACKAGES, "desktop"})
"""The parts that escapes are known of; others (docker-init) run inside the sandbox."""


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"
    """Something that Mayfly cannot do without."""


@dataclass(frozen=True)
class Check:
    name: str
    level: Level
    found: str
    mend: str | None = None
    """The one command, or the one thing to do, that helps."""


def examine() -> Iterator[Check]:
    """Every check in turn, as soon as it is known."""
    yield _python()
    yield from _programs()
    yield from _engine()
    yield _cgroups()
    yield _memory()
    yield _disk(Path.cwd())
    yield _port(8080)


def _python() -> Check:
    return Check("python", Level.OK, f"{platform.python_version()} at {sys.executable}")


# --- programs -----------------------------------------------------------------------------------------------


def _programs() -> Iterator[Check]:
    from mayfly.stack.packages import JAVA, MAVEN, MMDEBSTRAP, REDIS, find

    installs = os.geteuid() == 0 and shutil.which("apt-get") is not None
    for program, variables in (
        (JAVA, ("MAYFLY_KAFKA", "MAYFLY_S3_ENDPOINT")),
        (MAVEN, ("MAYFLY_KAFKA", "MAYFLY_S3_ENDPOINT")),
        (REDIS, ("MAYFLY_REDIS",)),
        (MMDEBSTRAP, ()),
    ):
        path = find(program.name)
        if path:
            yield Check(program.name, Level.OK, _program_version(program.name, path))
            continue
        given = variables and all(os.environ.get(variable) for variable in variables)
        purpose = program.why if program.why.startswith("to ") else f"for {program.why}"
        found = f"not found; needed {purpose}"
        if given:
            yield Check(program.name, Level.OK, f"not found, and not needed: {' and '.join(variables)} set")
        elif installs or program is MMDEBSTRAP:
            later = "; `mayfly up` installs it" if installs else ""
            yield Check(program.name, Level.WARNING, found + later, _install(program.packages[0]))
        else:
            yield Check(program.name, Level.MISSING, found, _install(program.packages[0]))


def _program_version(name: str, path: str) -> str:
    from mayfly.stack.packages import java_version

    if name == "java":
        return f"{java_version(Path(path))} at {path}"
    return path


def _install(package: str) -> str:
    sudo = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get"):
        return f"{sudo}apt-get install --no-install-recommends {package}"
    return f"install {package} with your package manager"


# --- the engine ---------------------------------------------------------------------------------------------


def _engine() -> Iterator[Check]:
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    from mayfly.errors import StackError
    from mayfly.stack.engine import address, ping

    try:
        host = address(os.environ)
        ping(host)
        client = docker.DockerClient(base_url=host, timeout=10)
        try:
            version, info = client.version(), client.info()
        finally:
            client.close()
    except (StackError, DockerException, RequestException, OSError) as error:
        mend = error.mend if isinstance(error, StackError) else None
        yield _no_engine(str(error), mend)
        return
    yield _engine_version(host, version)
    yield from isolation(version, _package_changelog)
    yield from limits(info)


def _no_engine(why: str, mend: str | None) -> Check:
    starts = os.geteuid() == 0 and (shutil.which("dockerd") or shutil.which("apt-get"))
    if starts and not mend:
        return Check("docker", Level.WARNING, f"{why}; `mayfly up` starts one", "systemctl start docker")
    have = shutil.which("dockerd") or shutil.which("docker")
    return Check(
        "docker",
        Level.MISSING,
        why,
        mend or ("sudo systemctl start docker" if have else _install("docker.io")),
    )


def _engine_version(host: str, version: Mapping[str, Any]) -> Check:
    number = str(version.get("Version", "unknown"))
    found = f"{number} at {host}"
    parts = number.split(".")
    try:
        old = (int(parts[0]), int(parts[1])) < OLDEST_ENGINE
    except (ValueError, IndexError):
        return Check("docker", Level.OK, found)
    if not old:
        return Check("docker", Level.OK, found)
    wanted = ".".join(str(part) for part in OLDEST_ENGINE)
    return Check("docker", Level.MISSING, f"{found}, older than {wanted}", _install("docker.io"))


def isolation(version: Mapping[str, Any], changelog_of: Callable[[str, str], str | None]) -> Iterator[Check]:
    """The engine's parts against the known escapes.

    `version` is the engine's answer to /version; `changelog_of(package, version)` gives the changelog of the
    package that this version was installed from, or None.
    """
    for part, number, revision in _parts(version):
        if part not in KNOWN:
            continue
        package = PACKAGES.get(part)
        changelog = changelog_of(package, number) if package else None
        name = "docker" if part == "engine" else part
        found = open_escapes(part, number, changelog)
        if not found and part != "engine":
            yield Check(name, Level.OK, f"{revision}, no known escape")
        for escape in found:
            doubt = (
                "" if changelog is not None or number == revision else " unless your distribution fixed it"
            )
            yield Check(
                name,
                Level.WARNING,
                f"{revision} has {', '.join(escape.ids)}{doubt}: {escape.what}",
                _renew(name, package if changelog is not None else None, escape.fixed),
            )


def _parts(version: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(part, its version, its package's version where the engine tells it)."""
    platform_name = str((version.get("Platform") or {}).get("Name", ""))
    if platform_name.startswith("Docker Desktop "):
        number = platform_name.split()[2]
        yield "desktop", number, number
    for component in version.get("Components") or []:
        part = {"Engine": "engine"}.get(component["Name"], component["Name"])
        number = str(component["Version"])
        commit = str((component.get("Details") or {}).get("GitCommit", ""))
        # Debian writes the package's version where others write the commit.
        yield part, number, commit if commit.startswith(number) else number


def _renew(name: str, package: str | None, fixed: tuple[str, ...]) -> str:
    releases = f"{name} " + " or ".join(fixed)
    if package is None:
        return f"update to {releases}"
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install --only-upgrade {package}; if that brings no fix, {releases} or later"


def _package_changelog(package: str, number: str) -> str | None:
    """The changelog of the installed package, if it is of that version; its absence fixes nothing."""
    if not shutil.which("dpkg-query"):
        return None
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Version}", package],
        capture_output=True,
        text=True,
        check=False,
    )
    installed = shown.stdout.rpartition(":")[2]  # without the epoch
    if shown.returncode != 0 or not installed.startswith(number):
        return None
    try:
        return gzip.decompress(Path(f"/usr/share/doc/{package}/changelog.Debian.gz").read_bytes()).decode()
    except (OSError, UnicodeDecodeError):
        return None


def limits(info: Mapping[str, Any]) -> Iterator[Check]:
    """Whether the engine can hold a sandbox to its limits. `info` is its answer to /info."""
    kinds = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "CPU"}
    lacking = [what for key, what in kinds.items() if info.get(key) is False]
    if lacking:
        yield Check(
            "limits",
            Level.MISSING,
            f"the engine cannot limit {', '.join(lacking)}",
            "boot with systemd.unified_cgroup_hierarchy=1 cgroup_enable=memory",
        )
    else:
        yield Check("limits", Level.OK, "memory, processes, CPU")
    options = info.get("SecurityOptions") or []
    if not any("seccomp" in option for option in options):
        yield Check(
            "seccomp", Level.WARNING, "the engine filters no system calls", "use a kernel with CONFIG_SECCOMP"
        )


# --- the machine --------------------------------------------------------------------------------------------


def _cgroups() -> Check:
    if sys.platform != "linux":
        return Check("cgroups", Level.OK, "those of the engine's own virtual machine")
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return Check("cgroups", Level.OK, "version 2")
    return Check("cgroups", Level.OK, "version 1; version 2 is better supported by newer runtimes")


def _memory() -> Check:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return Check("memory", Level.OK, "unknown")
    found = f"{free / GIB:.1f} GiB available"
    if free >= MEMORY_WANTED:
        return Check("memory", Level.OK, found)
    return Check(
        "memory", Level.WARNING, f"{found}; the stack wants {MEMORY_WANTED / GIB:.0f}", "close other programs"
    )


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free at {folder}"
    if free >= DISK_WANTED:
        return Check("disk", Level.OK, found)
    level = Level.WARNING if free >= DISK_NEEDED else Level.MISSING
    return Check("disk", level, f"{found}; {DISK_WANTED / GIB:.0f} are wanted", "docker image prune")


def _port(port: int) -> Check:
    name = f"port {port}"
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return Check(name, Level.OK, "free")
    if _is_gateway(f"http://127.0.0.1:{port}"):
        return Check(name, Level.OK, "a Mayfly gateway listens there")
    return Check(
        name,
        Level.WARNING,
        "taken by another program; `mayfly up` chooses another",
        f"ss -ltnp 'sport = :{port}'",
    )


def _is_gateway(url: str) -> bool:
    from mayfly.client import Client, ClientError

    try:
        with Client(url) as client:
            client.functions()
    except ClientError:
        return False
    return True
