"""What is measured on: a stack of its own, and the report that says what was seen."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mayfly.stack import running

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

    def __init__(self, base: Path) -> None:
        self.directory = base / "stack"
        self.functions = base / "functions"
        self.output = base / "output"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Returns when it is up; how long that took, in seconds."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
        kept = {
            name: os.environ[name] for name in ("MAYFLY_CACHE", "MAYFLY_DOCKER_HOST") if name in os.environ
        }
        command = [sys.executable, "-m", "mayfly.stack", "up", "--dir", str(self.directory), "--free-ports"]
        command += ["--functions", str(self.functions), "--dispatchers", str(DISPATCHERS)]
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
