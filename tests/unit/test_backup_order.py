"""What of a log that goes on a backup takes, and where its records come to stand again."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from mayfly.adapters.kafka import FILLER
from mayfly.backup.files import BackupError, Folder, Record, RecordFiles
from mayfly.backup.manifest import Committed, Span
from mayfly.backup.source import Slot, Take
from mayfly.backup.take import Backup
from mayfly.backup.target import filled
from mayfly.task import Envelope, encode

LANE, EVENTS, DEFERRED = "mayfly.q.normal", "mayfly.q.events", "mayfly.q.deferred"
TOPICS = ("mayfly.q.high", LANE, "mayfly.q.low", EVENTS, DEFERRED, "mayfly.q.webhooks")


class Log:
    """A queue of one partition. `meanwhile` happens whenever the checkpoint was asked for."""

    def __init__(self) -> None:
        self.records: dict[str, list[Record]] = {topic: [] for topic in TOPICS}
        self.meanwhile: list[tuple[str, str]] = []
        self.checkpoint = "first"

    def append(self, topic: str, value: bytes = b"{}") -> int:
        offset = len(self.records[topic])
        self.records[topic].append(Record(offset, 1000 + offset, b"key", value, []))
        return offset

    def queues(self) -> dict[str, int]:
        return {"q": 1}

    def slots(self, topics: Iterable[str]) -> list[Slot]:
        return [(topic, 0) for topic in topics if topic in self.records]

    def starts(self, slots: Iterable[Slot]) -> dict[Slot, int]:
        return dict.fromkeys(slots, 0)

    def ends(self, slots: Iterable[Slot]) -> dict[Slot, int]:
        return {slot: len(self.records[slot[0]]) for slot in slots}

    def checkpoints(self, _queue: str) -> tuple[Committed | None, ...]:
        found = Committed(self.checkpoint, 0, (0, 0, 0))
        if self.meanwhile:
            topic, self.checkpoint = self.meanwhile.pop(0)
            self.append(topic)
        return (found,)

    def read(self, starts: dict[Slot, int], ends: dict[Slot, int], take: Take) -> None:
        for slot, end in ends.items():
            for record in self.records[slot[0]][starts[slot] : end]:
                take(slot, record)


def taken(log: Log, path: Path) -> tuple[Backup, Folder]:
    folder = Folder(path / "backup")
    folder.make()
    with RecordFiles(folder) as files:
        backup = Backup(log, files)  # type: ignore[arg-type]
        backup.take()
    return backup, folder


def offsets(folder: Folder, topic: str) -> list[int]:
    return [record.offset for record in folder.records(topic, 0)]


def release(fence: int) -> bytes:
    return encode(Envelope(task_type="echo", task_id="1", releases=fence))


def test_records_are_read_back_as_they_were(tmp_path: Path) -> None:
    log = Log()
    log.append(LANE, b"\x00\xff")
    log.records[LANE].append(Record(1, -1, None, None, [("name", b"value")]))
    _, folder = taken(log, tmp_path)
    assert list(folder.records(LANE, 0)) == log.records[LANE]


def test_a_lane_ends_before_what_follows_from_an_event_that_is_not_in_the_backup(tmp_path: Path) -> None:
    log = Log()
    fence = log.append(EVENTS)
    for value in (b"{}", release(fence), release(fence + 1), b"{}"):
        log.append(LANE, value)
    backup, folder = taken(log, tmp_path)
    assert offsets(folder, LANE) == [0, 1]
    assert backup.topics()[LANE] == (Span(0, 2, 2),)


def test_records_are_read_on_until_the_checkpoint_to_them_stays_as_it_is(tmp_path: Path) -> None:
    log = Log()
    log.append(DEFERRED)
    log.meanwhile = [(DEFERRED, "second"), (DEFERRED, "third")]
    backup, folder = taken(log, tmp_path)
    assert backup.checkpoints["q"] == (Committed("third", 0, (0, 0, 0)),)
    assert offsets(folder, DEFERRED) == [0, 1, 2]


def test_a_damaged_file_is_said_to_be(tmp_path: Path) -> None:
    log = Log()
    log.append(LANE, b"x" * 10_000)
    _, folder = taken(log, tmp_path)
    path = folder.records_file(LANE, 0)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BackupError, match="damaged"):
        list(folder.records(LANE, 0))
    with pytest.raises(BackupError, match="did not come to its end"):
        folder.manifest()


def test_gaps_are_filled_so_that_each_record_has_its_offset() -> None:
    there = [Record(2, 1, b"a", b"1", []), Record(5, 1, b"b", b"2", [])]
    found = list(filled(DEFERRED, 0, Span(0, 7, 2), there))
    assert [record.offset for record in found] == list(range(7))
    assert [record for record in found if record.key != FILLER] == there
    assert all(record.value is None for record in found if record.key == FILLER)


def test_a_gap_in_a_lane_is_a_copy_of_the_command_before_it_which_is_the_same_task() -> None:
    named = Record(
        0, 1, b"a", encode(Envelope(task_type="echo", task_id="3b2e9b1a-7c1d-7e2f-8a3b-4c5d6e7f8091")), []
    )
    nameless = Record(2, 1, None, b'{"taskType": "echo"}', [])
    found = list(filled(LANE, 4, Span(0, 4, 2), [named, nameless]))
    assert [record.offset for record in found] == [0, 1, 2, 3]
    assert b"taskId" in (found[3].value or b"")
    assert found[1].value == named.value
