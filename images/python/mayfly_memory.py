"""What the kernel says of this container's memory."""

import os

EVENTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
"""Of cgroup v2, and of v1."""
_NAME = b"\noom_kill "


def oom_kills() -> int:
    """How many processes the kernel has killed here for the memory limit; 0 where it does not say."""
    events = open_events()
    try:
        return oom_kills_in(events)
    finally:
        if events >= 0:
            os.close(events)


def open_events() -> int:
    """A descriptor, for whoever asks often; -1 where the kernel does not say."""
    for path in EVENTS:
        try:
            return os.open(path, os.O_RDONLY)
        except OSError:
            continue
    return -1


def oom_kills_in(events: int) -> int:
    if events < 0:
        return 0
    _, _, rest = os.pread(events, 512, 0).partition(_NAME)
    return int(rest.partition(b"\n")[0] or 0)
