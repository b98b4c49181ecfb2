"""The command `audit`: whether the log, Redis and S3 agree. It runs in a process of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mayfly.cli.folders import nearest_home
from mayfly.cli.options import Json
from mayfly.cli.output import FAILED, fail, say, show, show_json, show_table, size, spinner
from mayfly.cli.stack import Directory

if TYPE_CHECKING:
    from mayfly.audit.report import QueueCounts, Report

R = TypeVar("R")

NO_ANSWER = 2
COLUMNS = ("QUEUE", "ACCEPTED", "WAITING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "ATTEMPTS", "VOID")


def audit(
    settle: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Look again for so long at what may only lag behind."),
    ] = 10.0,
    queue: Annotated[str | None, typer.Option(metavar="NAME", help="Only this queue.")] = None,
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Prove that no task is lost: hold Redis and S3 against the whole log.

    Exits with 1 if anything is off, with 2 if Kafka, Redis or S3 does not answer.
    """
    with spinner("reading the log"):
        report = _run(settle, queue, directory)
    if json:
        show_json(report)
    if report.trouble:
        fail(report.trouble, hint="nothing is proved: is the stack up? `mayfly status`", code=NO_ANSWER)
    if not json:
        _show(report)
    if not report.clean:
        raise typer.Exit(FAILED)


def _run(settle: float, queue: str | None, directory: Path | None) -> "Report":
    from mayfly.audit.report import Report

    options = ["--settle", str(settle)]
    if queue is not None:
        options += ["--queue", queue]
    return report_of("the audit's process", "mayfly.audit", options, directory, Report)


def report_of(called: str, module: str, options: Sequence[str], directory: Path | None, kind: type[R]) -> R:
    """What a process that reads the parts of this folder's stack reports on stdout."""
    from mayfly.stack import environment

    home = directory or nearest_home()
    return reported(called, module, options, environment(home) if home else {}, kind)


def reported(
    called: str, module: str, options: Sequence[str], settings: Mapping[str, str], kind: type[R]
) -> R:
    """The same of a process that is given these settings, where the environment has no others."""
    import os
    import subprocess
    import sys

    import msgspec

    env = {**settings, **os.environ}
    # -P: a module in the current folder must not stand in for one of ours.
    command = [sys.executable, "-P", "-m", module, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=env, check=False)
    try:
        return msgspec.json.decode(done.stdout, type=kind)
    except msgspec.DecodeError:
        fail(f"{called} ended with {done.returncode} and no report", code=FAILED)


def _show(report: "Report") -> None:
    from mayfly.audit.report import Kind

    show_table(COLUMNS, map(_row, report.queues))
    show("")
    kept = f"{report.results} results of {size(report.result_bytes)} in S3"
    show(f"read in {report.seconds:.1f} s: {report.hashes} tasks in Redis, {kept}")
    show(f"{report.dead_letters} dead letters")
    for note in report.notes:
        say(note)
    if report.clean:
        show("nothing is off: accepted = waiting + running + terminal, one outcome each")
        return
    show("")
    show_table(
        ("WHAT IS OFF", "TASK", "QUEUE", "DETAIL"),
        ((o.kind.value, o.task_id, o.queue, o.detail) for o in report.findings),
    )
    show("")
    rows = ((kind, str(count), Kind(kind).meaning) for kind, count in report.found.items())
    show_table(("WHAT IS OFF", "TASKS", "MEANS"), rows)


def _row(counts: "QueueCounts") -> tuple[str, ...]:
    numbers = (
        counts.accepted,
        counts.waiting,
        counts.running,
        counts.completed,
        counts.failed,
        counts.cancelled,
        counts.attempts,
        counts.void,
    )
    return (counts.queue, *map(str, numbers))
