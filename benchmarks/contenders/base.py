"""What is measured beside what.

Light on purpose: a peer's workers import its module, and with it this one.
"""

from dataclasses import dataclass
from typing import Protocol


class Unavailable(Exception):
    """It cannot be measured here, for the reason that the message gives."""


@dataclass(frozen=True)
class Measured:
    """What one slice saw: `count` tasks in `seconds`, and what single ones took, in milliseconds."""

    count: float
    seconds: float
    latencies_ms: tuple[float, ...] = ()
    client_cpu: float | None = None
    """Where a client of its own made the load: how much of a core that client used, from 0 to 1."""
    resident_mib: float | None = None
    """Of Mayfly's dispatchers together, when the clock stopped."""

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


class Contender(Protocol):
    """One way of running tasks, with so many at once. Between its slices it uses no CPU to speak of."""

    name: str
    """What its figures are called after: `<name>_per_s`, `<name>_p50_ms`."""
    at_once: int

    def prepare(self) -> None:
        """Once, before the first slice. Raises `Unavailable`."""
        ...

    def run(self, seconds: float) -> Measured:
        """One slice. Raises `Unavailable`."""
        ...

    def close(self) -> None:
        """Leaves nothing behind; also after a `prepare` or a `run` that raised."""
        ...
