"""Files in place of bytes: a payload that is read as it comes, and a result that is sent as it is read."""
# ruff: noqa: PTH123 - pathlib is slow to import

import errno
import io
import mimetypes
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import Any

CHUNK = 1 << 20
"""Bytes that are in memory of either."""
LARGEST = (1 << 32) - 1
"""What a frame can hold, in bytes."""


class NoRoom(OSError):
    """The payload does not fit into /tmp."""


class Stream(io.RawIOBase):
    """A payload of so many bytes that come on a descriptor, once."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view:
            part = view[: self.left]
            if not part:
                return 0
            size = os.readv(self._descriptor, [part])
        if not size:
            raise SystemExit(0)  # the dispatcher has hung up
        self.left -= size
        return size


def saved(stream: Stream, content_type: str) -> Any:
    """The `Path` of a file in /tmp with the whole of the stream. Raises `NoRoom`."""
    from pathlib import Path

    folder = tempfile.gettempdir()
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if stream.left > free:
        raise NoRoom(errno.ENOSPC, _no_room(stream.left, free, folder))
    suffix = mimetypes.guess_extension(content_type.partition(";")[0].strip()) or ""
    descriptor, path = tempfile.mkstemp(suffix, "payload-")
    with open(descriptor, "wb", buffering=0) as file:
        buffer = memoryview(bytearray(min(CHUNK, max(1, stream.left))))
        while size := stream.readinto(buffer):
            written = 0
            while written < size:
                written += file.write(buffer[written:size])
    return Path(path)


def _no_room(size: int, free: int, folder: str) -> str:
    return (
        f"the payload has {size} bytes, and there is room for {free} in {folder}: raise `tmp` in "
        "function.toml, and `memory` with it, or take the payload as a stream (`event: typing.BinaryIO`)"
    )


class File:
    """A result that is a file, from its first byte to its last."""

    def __init__(self, descriptor: int, size: int, owner: Any) -> None:
        self._descriptor = descriptor
        self._owner = owner
        """Closes the descriptor when it is collected."""
        self.size = size

    def chunks(self) -> Iterator[bytes]:
        at = 0
        while at < self.size:
            chunk = os.pread(self._descriptor, min(CHUNK, self.size - at), at)
            if not chunk:
                raise RuntimeError("the file of the result became shorter while it was sent")
            at += len(chunk)
            yield chunk


class Unreadable(Exception):
    """What was returned is no file with bytes. The message says why."""


def content(value: Any) -> bytes | File:
    """What is in a file that was returned as a path, or open. Raises `Unreadable`."""
    if not hasattr(value, "__fspath__"):
        return _of_open(value)
    try:
        file = open(value, "rb", buffering=0)  # noqa: SIM115 - its `File` keeps it open
    except OSError as error:
        raise Unreadable(f"{os.fspath(value)!r} cannot be read: {error.strerror}") from error
    return _of_open(file)


def _of_open(value: Any) -> bytes | File:
    if getattr(value, "closed", False):
        raise Unreadable("it is a file that is closed: return its path, or bytes")
    if hasattr(value, "encoding"):
        raise Unreadable("it is a file of text: open it with mode 'rb', or return its path")
    try:
        if hasattr(value, "flush"):
            value.flush()
        descriptor = value.fileno()
        about = os.fstat(descriptor)
        regular = stat.S_ISREG(about.st_mode)
    except (OSError, ValueError):  # it has no descriptor: it is in memory
        regular = False
    if regular and about.st_size > LARGEST:
        raise Unreadable(f"it has {about.st_size} bytes, which is more than any result may have")
    if regular:
        return File(descriptor, about.st_size, value)
    if value.seekable():
        value.seek(0)
    return bytes(value.read())


def content_type(value: Any) -> str | None:
    """By the file's name; None where that tells nothing."""
    name = os.fspath(value) if hasattr(value, "__fspath__") else getattr(value, "name", None)
    return mimetypes.guess_type(name)[0] if isinstance(name, str) else None
