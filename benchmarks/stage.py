"""What is measured on: a stack of its own, and the report that says what was seen."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import docker
from docker.errors import DockerException

from mayfly.stack import environment, running

REPOSITORY: Final = Path(__file__).parent.parent
PATIENCE: Final = 300.0
DISPATCHERS: Final = 3


@dataclass(frozen=True)
class Line:
    """A promise, its bound, and what was seen. `kept` is None where nothing was promised."""

    promise: str
    bound: str
    measured: str
    kept: bool | None

    def __str__(self) -> str:
        verdict = {True: "ok", False: "FAIL", None: ""}[self.kept]
        return f"{verdict:4}  {self.promise:<68}  {self.bound:>12}  {self.measured}"


class Report:
    def __init__(self) -> None:
        self.lines: list[Line] = []

    def seconds(self, promise: str, seconds: float, *, at_most: float | None = None) -> None:
        bound = "" if at_most is None else f"<= {at_most:g} s"
        self.add(promise, bound, f"{seconds:.2f} s", None if at_most is None else seconds <= at_most)

    def add(self, promise: str, bound: str, measured: str, kept: bool | None = None) -> None:
        self.lines.append(Line(promise, bound, measured, kept))
        print(self.lines[-1], flush=True)

    @property
    def kept(self) -> bool:
        return all(line.kept is not False for line in self.lines)


def until(condition: Callable[[], Any], what: str) -> float:
    """Wait for it; how long it took, in seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(f"not within {PATIENCE:g} s: {what}")
        time.sleep(0.01)
    return time.monotonic() - began


class Stack:
    """`python -m mayfly.stack up`, as a user has it, in a directory that goes with it."""

    def __init__(self, base: Path, *, dispatchers: int = DISPATCHERS) -> None:
        self.base = base
        self.directory = base / "stack"
        self.functions = base / "functions"
        self.output = base / "output"
        self._dispatchers = dispatchers
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Returns when it is up; how long that took, in seconds."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        kept = {
            name: os.environ[name] for name in ("MAYFLY_CACHE", "MAYFLY_DOCKER_HOST") if name in os.environ
        }
        command = [sys.executable, "-m", "mayfly.stack", "up", "--dir", str(self.directory), "--free-ports"]
        command += ["--functions", str(self.functions), "--dispatchers", str(self._dispatchers)]
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=env | kept, stdout=output, stderr=output, start_new_session=True
            )
        return until(self._is_up, "the stack is up")

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the stack did not start:\n{self.output.read_text()}")
        return running(self.directory) is not None

    def stop(self) -> int:
        """Its exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(120)
        except subprocess.TimeoutExpired:
            # A second signal ends it at once, and all that it started.
            self._process.send_signal(signal.SIGTERM)
            return self._process.wait(60)
        finally:
            self._process = None

    @property
    def url(self) -> str:
        found = running(self.directory)
        assert found is not None
        assert found.gateway is not None
        return found.gateway

    def part(self, address: str) -> int:
        """The pid of the part at that address."""
        found = running(self.directory)
        assert found is not None
        pid = next(part.pid for part in found.parts if part.address == address)
        assert pid is not None
        return pid

    def says(self, text: str, *, after: int = 0) -> bool:
        return text.encode() in self.output.read_bytes()[after:]

    def write(self, name: str, handler: str, manifest: str = "") -> None:
        folder = self.functions / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "function.toml").write_text(manifest)
        (folder / "handler.py").write_text(handler)


@contextmanager
def own_stack(name: str, *, dispatchers: int = DISPATCHERS) -> Iterator[Stack]:
    """A stack in a temporary directory, with functions named `<name>-...`. Whatever happens, nothing of it
    is left."""

    def ended(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, ended)
    base = Path(tempfile.mkdtemp(prefix=f"mayfly-{name}-"))
    stack = Stack(base, dispatchers=dispatchers)
    try:
        yield stack
    finally:
        # While the engine is there: one that the stack started goes with it.
        if address := environment(stack.directory).get("MAYFLY_DOCKER_HOST"):
            with suppress(DockerException):
                _remove_images(address, f"mayfly/fn-{name}-")
        stack.stop()
        shutil.rmtree(base)


def _remove_images(engine: str, prefix: str) -> None:
    """Those of the functions that are there to be measured; the examples' are anybody's."""
    client = docker.DockerClient(base_url=engine)
    # Not `images.list`, which looks at each image once more: another may be removed meanwhile.
    for image in client.api.images():
        if any(tag.startswith(prefix) for tag in image["RepoTags"] or ()):
            client.images.remove(image["Id"], force=True)
    client.close()


class Program:
    """A process for as long as the `with` lasts; what it says goes to a file.

    It is up once it `listens` on that port. `kill`: it has nothing to end in order, so its end is quick.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str],
        *,
        listens: int | None = None,
        kill: bool = False,
    ) -> None:
        self._command, self._log, self._env, self._port = command, log, env, listens
        self._patience = 0 if kill else 90
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def resident_mib(self) -> float:
        return resident_mib(self.pid)

    @property
    def ended(self) -> str | None:
        """The last line that it said, where it has ended."""
        if self._process is None or self._process.poll() is None:
            return None
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else f"it ended with {self._process.returncode}"

    def __enter__(self) -> "Program":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=REPOSITORY, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        if self._port is not None:
            until(self._listening, f"{self._command[0]} listens on {self._port}")
        return self

    def _listening(self) -> bool:
        if why := self.ended:
            raise RuntimeError(f"{' '.join(self._command)} ended: {why}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        try:
            if self._patience:
                self._process.terminate()
            self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def resident_mib(pid: int) -> float:
    """What a process holds of memory, without its children: VmRSS of proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
