"""Restores a backup into parts that are empty, and in which nothing of Mayfly runs."""

import asyncio
from typing import Any

from mayfly.adapters.redis_connection import answering, connect
from mayfly.adapters.s3 import Blobs
from mayfly.backup import objects
from mayfly.backup.files import BackupError, Folder
from mayfly.backup.manifest import Manifest
from mayfly.backup.target import Target
from mayfly.settings import Settings


async def restore(settings: Settings, folder: Folder) -> Manifest:
    """Raises `BackupError`, and what the parts raise. What failed half-way is of no use: it begins anew with
    parts that are empty."""
    manifest = folder.manifest()
    await _require_empty(settings)
    target = Target(settings)
    await target.make_topics(manifest)
    blobs = Blobs(settings)
    await blobs.ensure_bucket()
    if manifest.objects is not None:
        # Before the log: what it names is there.
        restored = await objects.restore(blobs, folder)
        if restored.count != manifest.objects.count:
            lacks = manifest.objects.count - restored.count
            raise BackupError(f"{folder.objects_file} is damaged: it lacks {lacks} objects")
    await asyncio.to_thread(_write, target, folder, manifest)
    return manifest


def _write(target: Target, folder: Folder, manifest: Manifest) -> None:
    for topic, spans in manifest.topics.items():
        for partition, span in enumerate(spans):
            target.write(topic, partition, span, folder.records(topic, partition))
    target.hand_over(manifest)
    # Last of all: with them, and only with them, dispatchers start where they were.
    for queue, checkpoints in manifest.checkpoints.items():
        target.commit(queue, checkpoints)


async def _require_empty(settings: Settings) -> None:
    """Redis would show tasks that the log does not have, or a dispatcher runs. Raises `BackupError`."""
    redis: Any = connect(settings, socket_connect_timeout=5, socket_timeout=20)
    try:
        async with answering():
            async for _ in redis.scan_iter(match="mayfly:*", count=1000):
                raise BackupError(
                    "Redis has keys of Mayfly's: it is to be empty, and no gateway and no dispatcher may run",
                    mend="stop them, and flush it: all that is in it is written again from the log",
                )
    finally:
        await redis.aclose()
