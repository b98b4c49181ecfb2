"""A backup's folder: a file of records for each partition, a tar of the objects, and the manifest.

backup.json                      what it is; written last
topics/<topic>/<partition>.gz    records, in their order: each a length (4 bytes) and MessagePack
objects.tar                      each object under its key, its content type and hash in its header
"""

import gzip
import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, NamedTuple, Self

import msgspec

from mayfly.backup.manifest import VERSION, Manifest
from mayfly.errors import MayflyError

MANIFEST: Final = "backup.json"
OBJECTS: Final = "objects.tar"
CONTENT_TYPE: Final = "MAYFLY.content-type"
SHA256: Final = "MAYFLY.sha256"
_LENGTH: Final = 4


class BackupError(MayflyError):
    """A backup that cannot be taken, or cannot be restored. `mend` is what to do."""

    def __init__(self, message: str, *, mend: str | None = None) -> None:
        super().__init__(message)
        self.mend = mend


class Record(NamedTuple):
    """As it stood in its partition. `timestamp` is its append time, milliseconds since 1970, or less than 0
    where the topic told none."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Record)


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Raises `BackupError` where there is something already."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.path.iterdir()):
            raise BackupError(f"{self.path} is not empty", mend="name a folder that is new")

    def finish(self, manifest: Manifest) -> None:
        """Once this returns, the backup is whole and on the disk."""
        for path in self.path.rglob("*"):
            if path.is_file():
                _sync(path)
        fresh = self.path / f".{MANIFEST}"
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        _sync(fresh)
        fresh.replace(self.path / MANIFEST)
        _sync(self.path)

    def manifest(self) -> Manifest:
        """Raises `BackupError`."""
        try:
            data = (self.path / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise BackupError(f"{self.path} holds no backup, or one that did not come to its end") from None
        try:
            found = msgspec.json.decode(data, type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BackupError(f"{self.path / MANIFEST} is damaged: {error}") from error
        if found.version != VERSION:
            raise BackupError(f"{self.path} is a backup of format {found.version}, and this reads {VERSION}")
        return found

    def records_file(self, topic: str, partition: int) -> Path:
        return self.path / "topics" / topic / f"{partition}.gz"

    def records(self, topic: str, partition: int) -> Iterator[Record]:
        """Raises `BackupError`."""
        path = self.records_file(topic, partition)
        try:
            with gzip.open(path) as file:
                while length := file.read(_LENGTH):
                    yield _decoder.decode(file.read(int.from_bytes(length, "big")))
        except (OSError, EOFError, msgspec.DecodeError) as error:
            raise BackupError(f"{path} is damaged: {error}") from error

    @property
    def objects_file(self) -> Path:
        return self.path / OBJECTS

    def objects(self) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
        """Raises `BackupError`."""
        try:
            with tarfile.open(self.objects_file, "r|") as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield member, file
        except (OSError, tarfile.TarError) as error:
            raise BackupError(f"{self.objects_file} is damaged: {error}") from error


class RecordFiles:
    """The files of records, to write to. Use it as a context manager."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._open = ExitStack()
        self._files: dict[tuple[str, int], gzip.GzipFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, topic: str, partition: int) -> None:
        """A partition, which may come to hold no record."""
        path = self._folder.records_file(topic, partition)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = gzip.GzipFile(path, "wb", compresslevel=1)
        self._files[topic, partition] = self._open.enter_context(file)

    def write(self, topic: str, partition: int, record: Record) -> None:
        data = _encoder.encode(record)
        self._files[topic, partition].write(len(data).to_bytes(_LENGTH, "big") + data)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
