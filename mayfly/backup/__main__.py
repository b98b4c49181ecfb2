"""`python -m mayfly.backup take FOLDER` and `restore FOLDER`: of the parts that the environment names.

The composition root of `mayfly backup` and `mayfly restore`. Prints the report as JSON. Exits with 0, or with
1 if there is no backup, or nothing was restored.
"""

import argparse
import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from mayfly import __version__
from mayfly.adapters.s3 import Blobs
from mayfly.backup import objects
from mayfly.backup.files import Folder, RecordFiles
from mayfly.backup.manifest import VERSION, Manifest, Report, report_of
from mayfly.backup.restore import restore
from mayfly.backup.source import Source
from mayfly.backup.take import Backup
from mayfly.errors import MayflyError
from mayfly.settings import Settings
from mayfly.stack.stack import Stack


async def take(settings: Settings, folder: Folder, *, with_objects: bool = True) -> Manifest:
    """Raises `BackupError`, and what the parts raise."""
    folder.make()
    began_at = _now()
    with RecordFiles(folder) as files:
        backup = await asyncio.to_thread(Backup, Source(settings), files)
        await asyncio.to_thread(backup.take)
    stored = await objects.save(Blobs(settings), folder) if with_objects else None
    manifest = Manifest(
        VERSION, began_at, _now(), __version__, backup.queues, backup.topics(), backup.checkpoints, stored
    )
    folder.finish(manifest)
    return manifest


async def restore_on(directory: Path, folder: Folder) -> Manifest:
    """Starts what the environment does not name, as `mayfly up` would, and stops it again. Raises as
    `restore`."""
    stack = Stack(directory, services=False, say=lambda line: print(line, file=sys.stderr))
    folder.manifest()
    await stack.start()
    try:
        return await restore(stack.settings(), folder)
    finally:
        await stack.stop()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mayfly.backup", description=__doc__)
    parser.add_argument("what", choices=["take", "restore"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without-objects", action="store_true", help="leave S3 out")
    parser.add_argument("--dir", type=Path, help="restore into the local stack of this directory")
    options = parser.parse_args()
    folder, began = Folder(options.folder), time.monotonic()
    try:
        if options.what == "take":
            work = take(Settings(), folder, with_objects=not options.without_objects)
        elif options.dir is not None:
            work = restore_on(options.dir, folder)
        else:
            work = restore(Settings(), folder)
        report = report_of(asyncio.run(work), str(folder.path), round(time.monotonic() - began, 3))
    except KeyboardInterrupt:
        return 130
    except MayflyError as error:
        report = Report(str(folder.path), trouble=str(error), mend=getattr(error, "mend", None))
    except OSError as error:
        report = Report(
            str(folder.path), trouble=f"{error.filename or folder.path}: {error.strerror or error}"
        )
    sys.stdout.buffer.write(msgspec.json.encode(report))
    return 1 if report.trouble else 0


if __name__ == "__main__":
    sys.exit(main())
