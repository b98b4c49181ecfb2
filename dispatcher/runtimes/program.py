"""`runc` and `crun`: which there are, and in which order they are tried."""

import os
import shutil
from typing import Final, NamedTuple

from dispatcher.runtimes.cgroups import Hierarchies

SYSTEM: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a PATH may not lead, and these are."""
INITS: Final = ("docker-init", "tini-static")
"""Statically linked, for they run in any image. Debian's packages docker.io and tini bring them."""


class Program(NamedTuple):
    """A way to start a container."""

    command: tuple[str, ...]
    hide: bool = False
    """Whether it is to see only version 1 of hybrid control groups."""

    @property
    def name(self) -> str:
        return os.path.basename(self.command[0])  # noqa: PTH119 - a name, not a path

    @property
    def is_crun(self) -> bool:
        return self.name == "crun"


def programs(found: Hierarchies) -> list[Program]:
    """Those that this machine has, the fastest first: crun takes a third of the time of runc."""
    candidates = []
    if path := find("crun"):
        # crun refuses hybrid control groups, and would do with the half of them that does the work.
        candidates.append(Program((path,), hide=found.hybrid))
    if path := find("runc"):
        candidates.append(Program((path,)))
    return candidates


def find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=SYSTEM)


def find_init() -> str | None:
    """What becomes a sandbox's first process: it reaps, and passes signals on."""
    return next((os.path.realpath(path) for name in INITS if (path := find(name))), None)
