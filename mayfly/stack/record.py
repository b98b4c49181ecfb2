"""What runs in a directory, as other processes find it: `stack.json` and `environment`."""

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mayfly.stack.home import Home
from mayfly.stack.part import PartState
from mayfly.stack.process import Identity


@dataclass(frozen=True)
class Running:
    """A stack that is up, seen from outside. `pid` is of the process that supervises it."""

    pid: int
    gateway: str | None
    parts: tuple[PartState, ...]
    started_at: int
    """Seconds since 1970."""


def write_record(home: Home, parts: Sequence[PartState] | None, *, gateway: str | None = None) -> None:
    """Records the parts, or, with None, that nothing is up."""
    if parts is None:
        (home.path / "stack.json").unlink(missing_ok=True)
        return
    before = home.read_json("stack.json") or {}
    mine = Identity.of(os.getpid())
    same = mine is not None and before.get("pid") == mine.pid and before.get("born") == mine.born
    value: dict[str, Any] = {
        "pid": os.getpid(),
        "born": mine.born if mine else "",
        "startedAt": before["startedAt"] if same else int(time.time()),
        "gateway": gateway,
        "parts": [asdict(part) for part in parts],
    }
    home.write_json("stack.json", value)


def running(directory: Path) -> Running | None:
    """The stack that is up in the directory, or None. Its parts' health is that of the last change."""
    value = Home(directory).read_json("stack.json")
    if not isinstance(value, dict) or not Identity(value["pid"], value["born"]).alive:
        return None
    parts = tuple(PartState(**part) for part in value["parts"])
    return Running(value["pid"], value["gateway"], parts, value["startedAt"])


def environment(directory: Path) -> dict[str, str]:
    """The settings by which a process finds the stack of the directory."""
    lines = (Home(directory).read("environment") or "").splitlines()
    pairs = (shlex.split(line)[0].partition("=") for line in lines if line)
    return {name: value for name, _, value in pairs}
