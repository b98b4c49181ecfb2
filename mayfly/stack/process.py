"""The processes of a stack: started, recorded, and stopped however the last run ended."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mayfly.errors import StackError
from mayfly.stack.home import Home

POLL: Final = 0.05
"""Seconds between two looks at a process that is to end."""
LOG_KEPT: Final = 8 * 1024 * 1024
"""Bytes of a log beyond which the next start sets it aside."""


@dataclass(frozen=True)
class Identity:
    """A process, told apart from a later one with the same pid by when it was born."""

    pid: int
    born: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        born = birth(pid)
        return cls(pid, born) if born else None

    @property
    def alive(self) -> bool:
        return birth(self.pid) == self.born

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    async def end(self, grace: float) -> None:
        """Asks it to end, and makes it after `grace` seconds. Returns once it is gone."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.alive:
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            await asyncio.sleep(POLL)


def birth(pid: int) -> str | None:
    """When a process was started, in a form that only compares; None if it is not running."""
    if sys.platform != "linux":
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        return shown.stdout.strip() or None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The name in the second field may hold spaces and brackets: count from behind it.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{fields[19]}@{boot}"


class Process:
    """A child of ours. It has a session of its own, so that a Ctrl-C reaches us alone and the stack
    stops in its own order; where the system can, it is told to end when we die."""

    def __init__(
        self, home: Home, name: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self._home = home
        self._name = name
        self.log = home.log(name)
        self.log_start = _trimmed(self.log)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [*_end_with_parent(), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        self.identity = Identity.of(self._child.pid) or Identity(self._child.pid, "")
        try:
            home.write_json(f"processes/{name}.json", asdict(self.identity))
        except StackError:
            # Nobody would find it again.
            self._child.kill()
            self._child.wait()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        return self._child.poll()

    def last_words(self, lines: int = 12) -> str:
        """The end of what this process wrote, for a message about why it ended."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        self._child.kill()

    async def end(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        if self.exit_code is None:
            self._child.send_signal(signal.SIGTERM)
        while self.exit_code is None:
            if time.monotonic() > deadline:
                self.kill()
            await asyncio.sleep(POLL)
        forget(self._home, self._name)


def _end_with_parent() -> list[str]:
    """PR_SET_PDEATHSIG through util-linux: code of ours between fork and exec could deadlock."""
    can = sys.platform == "linux" and shutil.which("setpriv")
    return ["setpriv", "--pdeathsig", "TERM", "--"] if can else []


def _trimmed(log: Path) -> int:
    """Sets a log aside that has grown too long, and tells where the next line will stand."""
    if not log.exists():
        return 0
    if log.stat().st_size > LOG_KEPT:
        log.replace(log.with_suffix(".old.log"))
        return 0
    return log.stat().st_size


def recorded(home: Home) -> dict[str, Identity]:
    """The processes that a run in this directory has started and not ended, by name."""
    found = {}
    for path in sorted(home.directory("processes").glob("*.json")):
        value = home.read_json(f"processes/{path.name}")
        if isinstance(value, dict) and isinstance(value.get("pid"), int):
            found[path.stem] = Identity(value["pid"], str(value.get("born")))
    return found


def forget(home: Home, name: str) -> None:
    (home.directory("processes") / f"{name}.json").unlink(missing_ok=True)


async def sweep(home: Home, grace: float = 10.0) -> list[str]:
    """Ends what a run that was killed has left, and returns the names. Only for who holds the lock."""
    left = {name: identity for name, identity in recorded(home).items() if identity.alive}
    await asyncio.gather(*(identity.end(grace) for identity in left.values()))
    for name in recorded(home):
        forget(home, name)
    return sorted(left)


async def run(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Runs a command to its end: its exit code, and what it wrote. It ends when the caller is cancelled."""
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=env,
    )
    try:
        output, _ = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    return child.returncode or 0, output.decode(errors="replace")
