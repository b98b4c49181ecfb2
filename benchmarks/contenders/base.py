"""What is measured beside what.

Light on purpose: a peer's workers import its module, and with it this one.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass


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


class Contender:
    """One way of running tasks, with so many at once. Between its slices it uses no CPU to speak of."""

    name: str
    """What its figures are called after: `<name>_per_s`, `<name>_p50_ms`."""
    at_once: int

    def prepare(self) -> None:
        """Once, before any contender's first slice. Raises `Unavailable`."""

    def up(self) -> AbstractContextManager[None]:
        """What has to be there for all of its slices and takes long to start."""
        return nullcontext()

    def run(self, seconds: float) -> Measured:
        """One slice. Raises `Unavailable`."""
        raise NotImplementedError
