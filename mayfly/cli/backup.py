"""The commands `backup` and `restore`: a copy of all that the stack knows, made by a process of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mayfly.cli.audit import report_of, reported
from mayfly.cli.folders import HOME
from mayfly.cli.options import Json
from mayfly.cli.output import FAILED, fail, say, show_json, size, spinner
from mayfly.cli.stack import Directory

if TYPE_CHECKING:
    from mayfly.backup.manifest import Report


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that is new, or empty.")],
    without_objects: Annotated[
        bool, typer.Option("--without-objects", help="Leave S3 out, where it has copies of its own.")
    ] = False,
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Copy the log and the objects in S3 to a folder, while everything runs.

    What was accepted before it began is in it, with what had become of it. The key of secrets is not.
    """
    from mayfly.backup.manifest import Report

    options = ["take", str(folder), *(["--without-objects"] if without_objects else [])]
    with spinner("copying"):
        report = report_of("the backup's process", "mayfly.backup", options, directory, Report)
    _told(report, json)
    gone = f", {report.gone} were removed meanwhile" if report.gone else ""
    say(f"{_what(report)} in {report.folder}{gone}; the key of secrets is not in it: keep that elsewhere")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `mayfly backup` made.")],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="The stack's directory; nothing may be up in it.")
    ] = Path(HOME),
    json: Json = False,
) -> None:
    """Restore a backup into a stack that is empty and not up; then start it with `mayfly up`.

    Kafka, Redis and S3 are taken from the environment, else started in the directory for as long as it takes.
    """
    from mayfly.backup.manifest import Report

    options = ["restore", str(folder), "--dir", str(directory)]
    with spinner("restoring"):
        # Of no stack that is up: it goes into one that is not.
        report = reported("the restore's process", "mayfly.backup", options, {}, Report)
    _told(report, json)
    say(
        f"{_what(report)} restored, as of {report.began_at}; `mayfly up --dir {directory}` goes on from there"
    )


def _told(report: "Report", json: bool) -> None:
    if json:
        show_json(report)
    if report.trouble:
        fail(report.trouble, hint=f"to mend it: {report.mend}" if report.mend else None, code=FAILED)


def _what(report: "Report") -> str:
    return f"{report.records} records and {report.objects} objects of {size(report.object_bytes)}"
