"""What a backup is, as its folder says; and what a command that took or restored one reports."""

from typing import Final

import msgspec

VERSION: Final = 1


class Span(msgspec.Struct, frozen=True, rename="camel"):
    """A partition: its records are those from `start` on and before `end` that the topic still had."""

    start: int
    end: int
    records: int


class Committed(msgspec.Struct, frozen=True, rename="camel"):
    """A partition's checkpoint, as the dispatchers have committed it: the string, the offset of the events
    that it stands at, and those of the lanes."""

    metadata: str
    events: int
    lanes: tuple[int, ...]


class Objects(msgspec.Struct, frozen=True, rename="camel"):
    """What was taken of the store. `gone` were removed while they were to be read: housekeeping did."""

    count: int = 0
    size: int = 0
    """Bytes."""
    gone: int = 0


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """Written last: a folder without it holds no backup."""

    version: int
    began_at: str
    """RFC 3339, UTC: what was accepted before this is in it."""
    ended_at: str
    mayfly: str
    """The version that took it."""
    queues: dict[str, int]
    """Each with its partitions."""
    topics: dict[str, tuple[Span, ...]]
    checkpoints: dict[str, tuple[Committed | None, ...]]
    """Of each queue's partitions; None where no dispatcher has committed one."""
    objects: Objects | None
    """None where the store was left out."""


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """`trouble` says why there is no backup, or why nothing was restored; `mend` what to do about it."""

    folder: str = ""
    began_at: str = ""
    queues: tuple[str, ...] = ()
    records: int = 0
    objects: int = 0
    object_bytes: int = 0
    gone: int = 0
    seconds: float = 0.0
    trouble: str | None = None
    mend: str | None = None


def report_of(manifest: Manifest, folder: str, seconds: float) -> Report:
    objects = manifest.objects or Objects()
    return Report(
        folder,
        manifest.began_at,
        tuple(sorted(manifest.queues)),
        sum(span.records for spans in manifest.topics.values() for span in spans),
        objects.count,
        objects.size,
        objects.gone,
        seconds,
    )
