"""What AWS Fargate has: sizes, the smallest of them that a function fits into, and what it has not. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

GIB: Final = 1024


class Size(NamedTuple):
    """CPU units, of which 1024 are a core, and MiB."""

    cpu: int
    memory: int


SIZES: Final[tuple[tuple[int, Sequence[int]], ...]] = (
    (256, (512, 1 * GIB, 2 * GIB)),
    (512, range(1 * GIB, 4 * GIB + 1, GIB)),
    (1024, range(2 * GIB, 8 * GIB + 1, GIB)),
    (2048, range(4 * GIB, 16 * GIB + 1, GIB)),
    (4096, range(8 * GIB, 30 * GIB + 1, GIB)),
    (8192, range(16 * GIB, 60 * GIB + 1, 4 * GIB)),
    (16384, range(32 * GIB, 120 * GIB + 1, 8 * GIB)),
)
"""Of Linux on x86-64: each number of CPU units, and the MiB that go with it. A size with more CPU costs more,
whatever its memory."""
LARGEST: Final = Size(SIZES[-1][0], SIZES[-1][1][-1])


def size_of(cores: float, memory_mib: int) -> Size | None:
    """The cheapest that has both, or None where there is none."""
    for cpu, memories in SIZES:
        if cpu >= cores * 1024:
            for memory in memories:
                if memory >= memory_mib:
                    return Size(cpu, memory)
    return None


def refusals(
    *, isolation: str, warm_pool: int | None, network: str, cpu: float, memory: int
) -> Iterator[tuple[str, str]]:
    """What a function with `runtime = "ecs"` cannot be, or cannot do without: the key, and why."""
    if isolation != "container":
        yield (
            "isolation",
            f'isolation = "{isolation}": with runtime = "ecs" every task has a machine of its own',
        )
    if warm_pool:
        yield "warm_pool", f'warm_pool = {warm_pool}: with runtime = "ecs" none is kept ready'
    if network != "egress":
        # A network that was not asked for is given to nobody, and on Fargate there is no task without one.
        yield (
            "network",
            'runtime = "ecs" needs network = "egress": on Fargate there is no task without a network',
        )
    if size_of(cpu, memory) is None:
        yield (
            "memory",
            f'cpu = {cpu:g} with memory = {memory}: with runtime = "ecs" there are '
            f"at most {LARGEST.cpu // 1024} cores and {LARGEST.memory} MiB",
        )
