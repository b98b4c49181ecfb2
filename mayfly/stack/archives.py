"""Archives of the Java parts' classes: with one, a part starts at half the price.

When a part of ours ends, its JVM writes down the classes that it has loaded, read and checked already, and
the next one maps them (JEP 350). It is all a matter of speed: without an archive, or with one that is not of
its own making, a JVM reads the jars.
"""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from mayfly.stack.process import birth

ENDED: Final = 128 + 15
"""The exit code of a JVM that was told to end, and has: with any other, the archive may be half of one."""
QUIET: Final = "-Xlog:cds*=off,class+path=off"
"""What a JVM thinks of a class that it cannot archive, or of an archive of no use, is nobody's news."""


def using(jars: Path, java: str) -> list[str]:
    """The options by which a JVM starts from the archive of these jars, if there is one."""
    archive = _archive(jars, java)
    if archive is None or not archive.is_file():
        return []
    return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", QUIET]


def using_or_making(jars: Path, java: str) -> list[str]:
    """The same; else those by which it makes one when it ends. `keep` is what puts that in place."""
    if options := using(jars, java):
        return options
    archive = _archive(jars, java)
    if archive is None or not os.access(archive.parent, os.W_OK):
        return []
    for left in archive.parent.glob(f".{jars.name}.*.jsa"):
        # Of a stack that was killed.
        if (pid := left.name.split(".")[-2]).isdecimal() and birth(int(pid)) is None:
            with suppress(OSError):
                left.unlink()
    return [f"-XX:ArchiveClassesAtExit={_fresh(archive)}", QUIET]


def keep(jars: Path, java: str, exit_code: int | None) -> None:
    """Puts the archive in place that a JVM has made which has ended, and takes away what it replaces."""
    if (archive := _archive(jars, java)) is None:
        return
    with suppress(OSError):
        if exit_code != ENDED:
            _fresh(archive).unlink(missing_ok=True)
            return
        _fresh(archive).replace(archive)
        for older in archive.parent.glob(f"{jars.name}.*.jsa"):
            if older != archive:
                older.unlink(missing_ok=True)


def _archive(jars: Path, java: str) -> Path | None:
    """Beside the jars, for them and this JVM alone: another one could not use it, and would keep it."""
    program = Path(java).resolve()
    try:
        made = [(path.stat().st_mtime_ns, path.stat().st_size) for path in (program, jars)]
    except OSError:
        return None
    mark = sha256(repr((program, made)).encode()).hexdigest()[:12]
    return jars.with_name(f"{jars.name}.{mark}.jsa")


def _fresh(archive: Path) -> Path:
    return archive.with_name(f".{archive.stem}.{os.getpid()}.jsa")
