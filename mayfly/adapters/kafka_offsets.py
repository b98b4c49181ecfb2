"""Where partitions begin and end, asked of a broker that may have just started."""

import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

PAUSE_SECONDS: Final = 0.05
T = TypeVar("T")
Slot = tuple[str, int]
"""A topic and a partition's number."""


def offsets(
    admin: AdminClient, slots: Iterable[Slot], which: OffsetSpec, *, patience: float
) -> dict[Slot, int]:
    """Of each partition the offset that is asked for. Raises `KafkaException`."""
    wanted = {TopicPartition(*slot): which for slot in slots}
    if not wanted:
        return {}
    timeout = min(10.0, patience)

    def ask() -> dict[Slot, int]:
        answers = admin.list_offsets(wanted, request_timeout=timeout)
        try:
            return {(place.topic, place.partition): one.result().offset for place, one in answers.items()}
        except KafkaException:
            # That a topic is unknown is kept for a while, and not asked again; this asks for all of them.
            admin.list_topics(timeout=timeout)
            raise

    return insist(ask, patience)


def insist(ask: Callable[[], T], patience: float) -> T:
    """Asks again for `patience` seconds: a broker that has just started, or has just made a topic, does not
    know of everything at once. Raises `KafkaException`."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)
