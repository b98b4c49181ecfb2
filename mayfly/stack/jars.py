"""The Java parts: their jars, by pinned Maven poms, downloaded once per user."""

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from mayfly.errors import StackError
from mayfly.settings import Settings
from mayfly.stack import archives
from mayfly.stack.home import cache_directory
from mayfly.stack.packages import JAVA, MAVEN, Program, find
from mayfly.stack.part import Part
from mayfly.stack.process import run

POMS: Final = Path(__file__).parent / "poms"
JVM: Final = (
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    # All compiler threads from the start, so that `_yield_compiler` finds them.
    "-XX:-UseDynamicNumberOfCompilerThreads",
    # Nobody looks at its counters, for which it would wake up twenty times a second.
    "-XX:-UsePerfData",
)
"""What a part's JVM has beside its own options."""
COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def directory(name: str) -> Path:
    """Where the jars of a pom are, or will be."""
    return cache_directory() / "jars" / name


def present(name: str) -> bool:
    return directory(name).is_dir()


def programs(name: str) -> list[Program]:
    """What is needed to run them: Maven as well, where they are still to be downloaded."""
    return [JAVA] if present(name) else [JAVA, MAVEN]


def java(name: str, options: Sequence[str], *, makes_archive: bool = False) -> list[str]:
    """The command that runs a class of theirs, which is to follow. `makes_archive`: of a `JavaPart`."""
    program = find("java") or "java"
    archive = archives.using_or_making if makes_archive else archives.using
    return [program, *options, *archive(directory(name), program), "-cp", f"{directory(name)}/*"]


async def download(name: str, say: Callable[[str], None]) -> None:
    """Puts the jars of `poms/<name>.xml` in the cache, unless they are there. Raises `StackError`."""
    if present(name):
        return
    async with _alone(cache_directory() / "jars.lock"):
        if present(name):
            return
        say(f"{name}: its jars are downloaded by Maven to {directory(name)}")
        fresh = directory(f".{name}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        command = ["mvn", "-q", "-B", "-f", str(POMS / f"{name}.xml"), COPY, f"-DoutputDirectory={fresh}"]
        code, output = await run(command)
        if code != 0 or not fresh.is_dir():
            tail = "\n".join(line for line in output.splitlines() if "ERROR" in line)[:1500]
            raise StackError(f"Maven could not download the jars of {name}:\n{tail}", mend=" ".join(command))
        fresh.rename(directory(name))


class JavaPart(Part):
    """A JVM on the jars of `pom`. Its first one writes an archive when it ends, which takes it seconds."""

    pom: str
    grace = 30.0

    def programs(self) -> list[Program]:
        return [] if self.given else programs(self.pom)

    async def start(self, settings: Settings) -> None:
        await super().start(settings)
        if self.process is not None:
            _yield_compiler(self.process.pid)

    async def stop(self) -> None:
        process = self.process
        await super().stop()
        if process is not None:
            archives.keep(directory(self.pom), find("java") or "java", process.exit_code)


def _yield_compiler(pid: int) -> None:
    """Have a JVM's second compiler take what nobody else wants. It makes a third less of what a task costs
    the broker, and half of what a result costs S3Proxy, and would take a third of a core for the first
    minutes of a busy stack."""
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            if (thread / "comm").read_text().startswith("C2 Compiler"):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    """One download at a time, of all this user's stacks: Maven's own repository is not made for two."""
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.1)
        yield
