"""Commands on the audit log: ls, and verify, which reads the whole of it in a process of its own."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mayfly.cli.audit import NO_ANSWER, report_of
from mayfly.cli.options import Json, Url
from mayfly.cli.output import FAILED, fail, say, show, show_json, show_table, spinner
from mayfly.cli.stack import Directory
from mayfly.cli.times import past, shown

if TYPE_CHECKING:
    from mayfly.client import AuditRecord
    from mayfly.identity.chain import TrailReport

COLUMNS: Final = ("AT", "BY", "TENANT", "ACTION", "TARGET", "OUTCOME", "FROM", "COUNT")

app: Final = typer.Typer(
    name="audit-log",
    help="Who did what: keys, users, secrets, logins, cancels, deployments. Read it, prove that it is whole.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def ls(
    since: Annotated[
        datetime | None, typer.Option("--since", parser=past, metavar="1h|TIME", help="Only done since then.")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--until", parser=past, metavar="1h|TIME", help="Only done before then."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--by", metavar="SUBJECT", help="Only by this one, such as user:ana.")
    ] = None,
    action: Annotated[
        str | None,
        typer.Option("--action", metavar="ACTION", help="Only this, such as key.create, or all of key."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 20,
    json: Json = False,
    url: Url = None,
) -> None:
    """List what was done, newest first."""
    from itertools import islice

    from mayfly.cli.gateway import connect

    with connect(url) as client:
        found = client.audit_log(
            since=since, until=until, subject=subject, action=action, limit=min(limit, 200)
        )
        records = list(islice(found, limit))
    if json:
        show_json({"records": records})
    else:
        show_table(COLUMNS, map(_row, records))


@app.command()
def verify(
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="PLACE:SHA256", help="What it printed before: is that record there still?"
        ),
    ] = None,
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Prove that nothing was removed, changed, put in or moved: read all of it, and check its hashes.

    Exits with 1 if anything is off, with 2 if Kafka does not answer.
    """
    with spinner("reading the audit log"):
        report = _run(head, directory)
    if json:
        show_json(report)
    if report.trouble:
        fail(report.trouble, hint="nothing is proved: is the stack up? `mayfly status`", code=NO_ANSWER)
    if not json:
        _show(report)
    if report.found:
        raise typer.Exit(FAILED)


def _run(head: str | None, directory: Path | None) -> "TrailReport":
    from mayfly.identity.chain import TrailReport

    options = [] if head is None else ["--head", head]
    return report_of("the process that reads it", "mayfly.audit.trail", options, directory, TrailReport)


def _show(report: "TrailReport") -> None:
    show(f"{report.records} records of {report.writers} writers, read in {report.seconds:.1f} s")
    if report.head:
        show(f"head {report.head}")
    if not report.found:
        show("nothing is off: every record holds on to one before it")
        return
    show_table(("PLACE", "WHAT IS OFF"), ((str(one.place), one.what) for one in report.findings))
    if report.found > len(report.findings):
        say(f"and {report.found - len(report.findings)} more")


def _row(record: "AuditRecord") -> tuple[str, ...]:
    target = record.target or ", ".join(record.targets[:3]) + (" ..." if len(record.targets) > 3 else "")
    return (
        shown(record.at),
        record.subject,
        record.tenant,
        record.action,
        target,
        f"{record.outcome}: {record.reason}" if record.reason else record.outcome,
        record.address,
        str(record.count),
    )
