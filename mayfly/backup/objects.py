"""The objects in the store, to a backup's tar and back."""

import asyncio
import hashlib
import tarfile
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from typing import IO, Final, NamedTuple

from mayfly.adapters.s3 import Blobs
from mayfly.backup.files import CONTENT_TYPE, SHA256, BackupError, Folder
from mayfly.backup.manifest import Objects
from mayfly.errors import BlobNotFound
from mayfly.settings import MIB
from mayfly.uploads import UPLOADS

AT_ONCE: Final = 16
IN_MEMORY: Final = 4 * MIB
"""Of one object; what is larger is on the disk meanwhile."""
CHUNK: Final = MIB


class _Fetched(NamedTuple):
    key: str
    content_type: str
    sha256: str
    size: int
    file: IO[bytes]


async def save(blobs: Blobs, folder: Folder) -> Objects:
    """All but uploads: a task has a copy of what it was given. Raises `BlobsUnavailable`."""
    count = size = gone = 0
    with tarfile.open(folder.objects_file, "w", format=tarfile.PAX_FORMAT) as tar:
        async for one in _fetched(blobs):
            if one is None:
                gone += 1
                continue
            with one.file:
                member = tarfile.TarInfo(one.key)
                member.size = one.size
                member.pax_headers = {CONTENT_TYPE: one.content_type, SHA256: one.sha256}
                tar.addfile(member, one.file)
            count, size = count + 1, size + one.size
    return Objects(count, size, gone)


async def _fetched(blobs: Blobs) -> AsyncIterator[_Fetched | None]:
    under_way: deque[asyncio.Task[_Fetched | None]] = deque()
    try:
        async for key in blobs.keys():
            if key.startswith(UPLOADS):
                continue
            under_way.append(asyncio.create_task(_fetch(blobs, key)))
            if len(under_way) >= AT_ONCE:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _fetch(blobs: Blobs, key: str) -> _Fetched | None:
    file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - whoever writes it to the tar closes it
    digest = hashlib.sha256()
    try:
        described = await blobs.describe(key)
        async for chunk in await blobs.stream(key, 0):
            digest.update(chunk)
            file.write(chunk)
    except BlobNotFound:
        file.close()
        return None
    size = file.tell()
    file.seek(0)
    return _Fetched(key, described.content_type, digest.hexdigest(), size, file)


async def restore(blobs: Blobs, folder: Folder) -> Objects:
    """Raises `BlobsUnavailable`, and `BackupError`."""
    count = size = 0
    for member, file in folder.objects():
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as copy:
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                copy.write(chunk)
            if digest.hexdigest() != member.pax_headers.get(SHA256):
                raise BackupError(f"{folder.objects_file} is damaged: {member.name} has other bytes")
            copy.seek(0)
            await blobs.put_file(member.name, copy, member.pax_headers.get(CONTENT_TYPE, ""))
        count, size = count + 1, size + member.size
    return Objects(count, size)
