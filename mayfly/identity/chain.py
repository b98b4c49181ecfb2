"""The audit log's records, and how each one holds on to an earlier one. Pure.

Several writers append to one topic. Each has a chain of its own: a record carries its writer, its number in
the chain, and place and SHA-256 of the record before it. A chain's first record names the last one that its
writer saw in the topic, whoever wrote that. So what is removed, changed, put in or put elsewhere shows,
unless nothing was written after it: `Verifier.head` is what to keep elsewhere against that.
"""

import hashlib
import os
from typing import Final, NamedTuple

import msgspec

NOWHERE: Final = -1
"""The place of what comes before the first record of all."""


class Entry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Who did what to what. Never a secret."""

    action: str
    """What was done, such as `key.create`."""
    target: str = ""
    """To what: an id or a name."""
    subject: str = ""
    """By whom, as `Principal` has it."""
    tenant: str = ""
    """Whose: of who asked, unless it was done to another one's."""
    outcome: str = "ok"
    """`ok`: it was allowed, and begun. `refused`: it was not."""
    address: str = ""
    """The client's."""
    request_id: str = ""
    targets: tuple[str, ...] = ()
    """All of them, where a call is about many."""
    reason: str = ""
    count: int = 1
    """How many of the kind this record stands for."""
    at: int = 0
    """Milliseconds since 1970, UTC, by the writer's clock."""


class Record(Entry, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """An entry in its chain."""

    writer: str
    number: int
    """From 0."""
    after: int
    """The place (offset) of the record that this one holds on to."""
    hash: str
    """That one's SHA-256, in hex."""


class Stored(msgspec.Struct, frozen=True):
    """What stands in the topic. The hash is of the record's bytes as they stand there."""

    sha256: str
    record: msgspec.Raw


class Link(NamedTuple):
    """A record, as a later one names it."""

    place: int
    sha256: str


BEGINNING: Final = Link(NOWHERE, "")
_encoder: Final = msgspec.json.Encoder()
_stored: Final = msgspec.json.Decoder(Stored)
_record: Final = msgspec.json.Decoder(Record)


class Chain:
    """One writer's: `next` makes its next record, and `went` says where that one went."""

    def __init__(self, seen: Link, writer: str | None = None) -> None:
        self.writer = writer or os.urandom(8).hex()
        self._number = 0
        self._last = seen
        self._made = ""

    def next(self, entry: Entry) -> bytes:
        fields = {name: getattr(entry, name) for name in Entry.__struct_fields__}
        record = Record(
            **fields, writer=self.writer, number=self._number, after=self._last.place, hash=self._last.sha256
        )
        raw = _encoder.encode(record)
        self._made = sha256(raw)
        return _encoder.encode(Stored(self._made, msgspec.Raw(raw)))

    def went(self, place: int) -> bool:
        """False if that cannot be: where the record is, is then not known, and the chain is at its end."""
        if place <= self._last.place:
            return False
        self._number += 1
        self._last = Link(place, self._made)
        return True


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def link(place: int, value: bytes | None) -> Link:
    """How the record there is named. Whatever stands there has a name, even if it is no record."""
    stored = _decode(value)
    return Link(place, sha256(bytes(stored.record) if stored else value or b""))


def read(value: bytes | None) -> Record | None:
    """None for what is no record."""
    stored = _decode(value)
    return _read(stored) if stored else None


def _decode(value: bytes | None) -> Stored | None:
    try:
        return _stored.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _read(stored: Stored) -> Record | None:
    try:
        return _record.decode(stored.record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# --- is it all there, as it was written?


class Finding(msgspec.Struct, frozen=True):
    """What is off, and where. `place` is an offset of the topic."""

    place: int
    what: str


class TrailReport(msgspec.Struct, frozen=True):
    """`head` is the last record, as `--head` takes it. `trouble`: Kafka did not answer, nothing is proved."""

    records: int = 0
    writers: int = 0
    head: str = ""
    found: int = 0
    findings: tuple[Finding, ...] = ()
    """The first of them."""
    seconds: float = 0.0
    trouble: str | None = None


class _Head(NamedTuple):
    number: int
    link: Link


class Verifier:
    """Takes a topic's records in their order, from the first one that it has. `start` is that one's place."""

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self._digests = bytearray()
        """Of every record, 32 bytes each: what a chain's beginning may name."""
        self._heads: dict[str, _Head] = {}
        self.records = 0
        self.head = BEGINNING
        """The last record: who keeps it elsewhere can tell later that nothing before it was touched."""
        self.trimmed = Finding(0, f"the first {start} records are gone") if start > 0 else None

    @property
    def writers(self) -> int:
        return len(self._heads)

    def take(self, place: int, value: bytes | None) -> list[Finding]:
        """What is off with this record, or shows by it."""
        found = self._gap(place)
        mine = link(place, value)
        self._digests += bytes.fromhex(mine.sha256)
        self.records += 1
        self.head = mine
        stored = _decode(value)
        record = _read(stored) if stored else None
        if stored is None or record is None:
            return [*found, Finding(place, "it is no record of the audit log")]
        if stored.sha256 != mine.sha256 or _encoder.encode(stored) != value:
            found.append(Finding(place, "it was changed: its hash is another"))
        if what := self._off(place, record):
            found.append(Finding(place, what))
        self._heads[record.writer] = _Head(record.number, mine)
        return found

    def holds(self, expected: Link) -> bool:
        """Whether that record stands where it stood."""
        return self._digest(expected.place) == expected.sha256

    def _gap(self, place: int) -> list[Finding]:
        missing = place - self._start - len(self._digests) // 32
        if missing <= 0:
            return []
        # Kept as records that are like none, so that each place stays its own.
        self._digests += bytes(32 * missing)
        return [Finding(place - missing, f"{missing} records are gone from here on")]

    def _off(self, place: int, record: Record) -> str | None:
        head = self._heads.get(record.writer)
        whose = f"writer {record.writer}"
        if head is None and record.number > 0:
            if self._start > 0 and record.after < self._start:
                return None  # what it goes on from was trimmed, which is told once
            return f"{whose} begins with number {record.number}: what it wrote before is gone"
        if head is None:
            return self._beginning(place, record)
        if record.number <= head.number:
            return f"number {record.number} of {whose} comes after its number {head.number}"
        if record.number > head.number + 1:
            gone = record.number - head.number - 1
            return f"{gone} records of {whose} before its number {record.number} are gone"
        if record.hash != head.link.sha256:
            return f"it goes on from another record of {whose} than the one at {head.link.place}"
        if record.after != head.link.place:
            moved = f"the one before it was written at {record.after}, and is at {head.link.place}"
            return f"records were put in, taken out or moved: of {whose} {moved}"
        return None

    def _beginning(self, place: int, record: Record) -> str | None:
        if record.after < self._start:
            return None
        if record.after >= place:
            return f"it names a record at {record.after}, which comes after it"
        if self._digest(record.after) != record.hash:
            return f"the record at {record.after} is not the one that it names"
        return None

    def _digest(self, place: int) -> str | None:
        at = (place - self._start) * 32
        return bytes(self._digests[at : at + 32]).hex() if 0 <= at < len(self._digests) else None
