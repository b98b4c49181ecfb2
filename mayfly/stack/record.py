"""What runs in a directory, as other processes find it: `stack.json` and `environment`."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mayfly.stack.home import Home
from mayfly.stack.part import PartState
from mayfly.stack.process import Identity


@dataclass(frozen=True)
class Running:
    """A stack that is up, seen from outside. `pid` is of the process that supervises it."""

    pid: int
    gateway: str | None
    parts: tuple[PartState, ...]


def claim(home: Home) -> None:
    """Records that this process has the directory's stack, from its first moment on."""
    mine = Identity.of(os.getpid())
    assert mine is not None
    home.write_json("supervisor.json", asdict(mine))


def write_record(home: Home, parts: Sequence[PartState], gateway: str | None) -> None:
    """Records what is up."""
    home.write_json("stack.json", {"gateway": gateway, "parts": [asdict(part) for part in parts]})


def clear(home: Home) -> None:
    for name in ("stack.json", "supervisor.json"):
        (home.path / name).unlink(missing_ok=True)


def running(directory: Path) -> Running | None:
    """The stack that is up in the directory, or None. Its parts' health is that of the last change:
    `states` asks them."""
    home = Home(directory)
    up, value = supervisor(home), home.read_json("stack.json")
    if up is None or not value:
        return None
    parts = tuple(PartState(**part) for part in value["parts"])
    return Running(up.pid, value["gateway"], parts)


def supervisor(home: Home) -> Identity | None:
    """The process that has the directory's stack, if it is alive."""
    value = home.read_json("supervisor.json")
    identity = Identity(value["pid"], value["born"]) if isinstance(value, dict) else None
    return identity if identity and identity.alive else None


def environment(directory: Path) -> dict[str, str]:
    """The settings by which a process finds the stack of the directory."""
    lines = (Home(directory).read("environment") or "").splitlines()
    pairs = (shlex.split(line)[0].partition("=") for line in lines if line)
    return {name: value for name, _, value in pairs}
