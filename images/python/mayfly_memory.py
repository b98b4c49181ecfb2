"""What the kernel says of this container's memory."""

EVENTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
"""Of cgroup v2, and of v1."""


def oom_kills() -> int:
    """How many processes the kernel has killed here for the memory limit; 0 where it does not say."""
    for path in EVENTS:
        try:
            with open(path) as file:  # noqa: PTH123 - pathlib is slow to import
                for line in file:
                    name, _, count = line.partition(" ")
                    if name == "oom_kill":
                        return int(count)
        except OSError:
            continue
    return 0
