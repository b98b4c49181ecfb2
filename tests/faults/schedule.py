"""What is done to the stack, and when. Pure: the same seed gives the same faults."""

import enum
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

GAP: Final = (3.0, 7.0)
"""Seconds between two faults."""
PAUSE: Final = (20.0, 40.0)
"""Seconds for which a process is stopped."""
PAUSED_SHARE: Final = 0.2
KAFKA_GAP: Final = 60.0
"""Seconds between two faults of Kafka: while it is down nothing else is put to the test."""


class Target(enum.StrEnum):
    GATEWAY = "gateway"
    DISPATCHER = "dispatcher"
    REDIS = "redis"
    S3 = "s3"
    DOCKER = "docker"
    KAFKA = "kafka"
    DATA = "data"
    """Not Redis, but all that it holds."""


class How(enum.StrEnum):
    KILL = "SIGKILL"
    PAUSE = "SIGSTOP"
    FLUSH = "FLUSHALL"


@dataclass(frozen=True)
class Fault:
    """`at` seconds after the first task; a pause ends after `seconds`. `number` says which of several."""

    at: float
    target: Target
    how: How
    number: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.0f} s" if self.how is How.PAUSE else ""
        return f"{self.at:6.1f} s  {self.how} {self.target}{lasts}"


def schedule(
    seed: int, targets: Collection[Target] = tuple(Target), *, pauses: bool = True
) -> Iterator[Fault]:
    """Faults without end, in order of time."""
    draw = random.Random(seed)
    at, kafka_again = 0.0, KAFKA_GAP / 2
    while True:
        at += draw.uniform(*GAP)
        others = sorted(set(targets) - {Target.KAFKA})
        if Target.KAFKA in targets and (at >= kafka_again or not others):
            target, kafka_again = Target.KAFKA, at + KAFKA_GAP
        else:
            target = draw.choice(others)
        how = How.FLUSH if target is Target.DATA else How.KILL
        if how is How.KILL and pauses and draw.random() < PAUSED_SHARE:
            how = How.PAUSE
        seconds = draw.uniform(*PAUSE) if how is How.PAUSE else 0.0
        yield Fault(at, target, how, draw.randrange(1000), seconds)
