"""What this machine's processors do."""

import os
from pathlib import Path


def idle_seconds() -> float | None:
    """How long they have been idle since the machine's start, all together; None where nobody says. From
    proc_stat(5)."""
    try:
        with Path("/proc/stat").open() as file:
            _, _user, _nice, _system, idle, waiting, *_ = file.readline().split()
    except (OSError, ValueError):
        return None
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")
