"""Where a task's command goes, and how much of a limit each partition has. Pure.

A limit is counted by partitions, each by its one owner: the tasks of a limited function, or of a key, go to
as many partitions as the limit allows, and each of those has its share of it.
"""

import struct
from typing import Final, NamedTuple

from mayfly.task import DEFAULT_TENANT, Envelope

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


class Limit(NamedTuple):
    """At most `most` tasks of the `group` at once, over all dispatchers."""

    group: str
    most: int

    def partitions(self, count: int) -> list[int]:
        """The partitions, of `count`, that its tasks go to."""
        first = murmur2_partition(self.group, count)
        return [(first + step) % count for step in range(min(self.most, count))]

    def share(self, partition: int, count: int) -> int:
        """How many of its tasks may run in that partition at once.

        One, where none should be: a task that came by another way, or before the limit was lowered, is not
        to wait for ever.
        """
        own = self.partitions(count)
        if partition not in own:
            return 1
        return self.most // len(own) + (own.index(partition) < self.most % len(own))


def limit_of(
    task_type: str, concurrency: int | None, concurrency_key: str | None, tenant: str = DEFAULT_TENANT
) -> Limit | None:
    """What limits a task: its key, as many at once as its function allows, or one; else its function.

    Each tenant has its own keys. A function's limit is everybody's together: it is there for what the
    function uses.
    """
    if concurrency_key is not None:
        whose = "" if tenant == DEFAULT_TENANT else f"{tenant}@"
        return Limit(f"{whose}{task_type}/{concurrency_key}", concurrency or 1)
    return Limit(task_type, concurrency) if concurrency is not None else None


def partition_of(envelope: Envelope, concurrency: int | None, count: int) -> int:
    """The partition, of `count`, that a task's command goes to. The same task always goes to the same."""
    limited = limited_partition(envelope, concurrency, count)
    return murmur2_partition(envelope.task_id, count) if limited is None else limited


def limited_partition(envelope: Envelope, concurrency: int | None, count: int) -> int | None:
    """The same where a limit has a say in it; None: it is that of the command's key, the task's id, which
    Kafka's own client finds in a fraction of the time."""
    limit = limit_of(envelope.task_type, concurrency, envelope.concurrency_key, envelope.tenant)
    if limit is None:
        return None
    own = limit.partitions(count)
    return own[murmur2_partition(envelope.task_id, len(own))]


def murmur2_partition(key: str, count: int) -> int:
    """What Kafka's own clients make of a key: murmur2, its sign bit dropped, modulo `count`."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % count


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit MurmurHash2 (org.apache.kafka.common.utils.Utils)."""
    length = len(data)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for word in struct.unpack_from(f"<{length >> 2}I", data):
        k = word * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if length > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15
