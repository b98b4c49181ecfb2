"""Programs that the stack needs and the machine's package manager has."""

import asyncio
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mayfly.errors import StackError
from mayfly.stack.process import run

INDEX_LIFE: Final = 24 * 3600
"""Seconds after which the package index is fetched again before anything is installed."""


@dataclass(frozen=True)
class Program:
    """A program, and the packages that bring it: the first that the machine's index has is taken."""

    name: str
    packages: tuple[str, ...]
    why: str
    needed: bool = True
    """Whether it is an error that no package has brought it: else there is something that does as well."""

    @property
    def present(self) -> bool:
        return find(self.name) is not None


JAVA: Final = Program(
    "java",
    ("openjdk-17-jre-headless", "openjdk-21-jre-headless", "openjdk-25-jre-headless"),
    "Kafka and S3Proxy",
)
MAVEN: Final = Program("mvn", ("maven",), "to download Kafka and S3Proxy")
REDIS: Final = Program("redis-server", ("redis-server",), "Redis")
DOCKERD: Final = Program("dockerd", ("docker.io",), "sandboxes")
CRUN: Final = Program("crun", ("crun", "runc"), "sandboxes that start faster", needed=False)
MMDEBSTRAP: Final = Program("mmdebstrap", ("mmdebstrap",), "the base image, where none can be pulled")

OLDEST_JAVA: Final = 17


def find(name: str) -> str | None:
    """A program's path. Daemons lie where a user's PATH may not lead; a Java too old does not count."""
    if name == "java":
        return _java()
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    candidates = [Path(home) / "bin/java"] if home else []
    on_path = shutil.which("java")
    candidates += [Path(on_path)] if on_path else []
    candidates += sorted(Path("/usr/lib/jvm").glob("*/bin/java"))
    return next((str(java) for java in candidates if java_version(java) >= OLDEST_JAVA), None)


def java_version(java: Path) -> int:
    """The major version, as the JDK's `release` file has it: starting a JVM to ask takes far longer."""
    try:
        release = (java.resolve().parent.parent / "release").read_text()
    except OSError:
        return 0
    found = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', release)
    return int(found[1]) if found else 0


async def install(programs: Sequence[Program], say: Callable[[str], None]) -> None:
    """Installs what is missing, in one go; where we cannot, the `StackError` has the command that does."""
    missing = [program for program in programs if not program.present]
    if not missing:
        return
    needs = ", ".join(f"{program.name} (for {program.why})" for program in missing)
    apt = shutil.which("apt-get")
    if not apt:
        raise StackError(
            f"missing: {needs}",
            mend="install " + ", ".join(program.name for program in missing) + " with your package manager",
        )
    if os.geteuid() != 0:
        names = " ".join(program.packages[0] for program in missing)
        raise StackError(f"missing: {needs}", mend=f"sudo apt-get install --no-install-recommends {names}")
    say(f"packages: {needs} missing, installed by apt-get")
    await _apt(apt, [program.packages for program in missing])
    for program in missing:
        if program.needed and not program.present:
            raise StackError(f"{program.name} is still missing after apt-get installed {program.packages[0]}")


async def _apt(apt: str, wanted: Sequence[tuple[str, ...]]) -> None:
    if not _index_is_fresh():
        await _update(apt)
    names = [await _first_known(packages) for packages in wanted]
    # Without a runlevel, packages install their services but do not start them: a Redis or an engine
    # that we did not start would be a stranger's.
    env = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
    command = [apt, "install", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120", *names]
    code, output = await run(command, env=env)
    if code != 0:
        tail = "\n".join(output.splitlines()[-8:])
        raise StackError(f"apt-get could not install {' '.join(names)}:\n{tail}", mend=" ".join(command))


def _index_is_fresh() -> bool:
    index = Path("/var/lib/apt/lists")
    files = list(index.glob("*_Packages*"))
    return bool(files) and time.time() - max(path.stat().st_mtime for path in [*files, index]) < INDEX_LIFE


async def _update(apt: str) -> None:
    code, output = await run([apt, "update", "-q", "-o", "DPkg::Lock::Timeout=120"])
    if code != 0:
        tail = "\n".join(output.splitlines()[-4:])
        raise StackError(f"apt-get update failed:\n{tail}", mend=f"{apt} update")


async def _first_known(packages: tuple[str, ...]) -> str:
    shown = await asyncio.gather(*(run(["apt-cache", "show", name]) for name in packages))
    known = [name for name, (code, _) in zip(packages, shown, strict=True) if code == 0]
    return known[0] if known else packages[0]
