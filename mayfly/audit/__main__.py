"""`python -m mayfly.audit`: one audit of the parts that the environment names.

The composition root of `mayfly audit`. Prints the report as JSON. Exits with 0 if nothing is off, with 1 if
something is, with 2 if a part does not answer.
"""

import argparse
import asyncio
import sys

import msgspec

from mayfly.audit.audit import Audit
from mayfly.audit.log import LogReader
from mayfly.audit.report import Report
from mayfly.audit.stores import Hashes, Objects
from mayfly.errors import MayflyError
from mayfly.retention import Retention
from mayfly.settings import Settings

OFF, NO_ANSWER = 1, 2


async def audit(settings: Settings, *, only: str | None = None, settle: float = 0.0) -> Report:
    """A report in any case: one that says which part did not answer, where one did not."""
    retention = Retention(settings.retention_days, settings.dead_letter_retention_days)
    hashes = Hashes(settings)
    try:
        return await Audit(
            LogReader(settings, only), hashes, Objects(settings), only=only, retention=retention
        ).run(settle)
    except MayflyError as error:
        return Report(trouble=str(error))
    finally:
        await hashes.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mayfly.audit", description=__doc__)
    parser.add_argument("--queue", help="only this one")
    parser.add_argument("--settle", type=float, default=10.0, metavar="SECONDS")
    options = parser.parse_args()
    try:
        report = asyncio.run(audit(Settings(), only=options.queue, settle=options.settle))
    except KeyboardInterrupt:
        return 130
    except MayflyError as error:
        report = Report(trouble=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(report))
    return NO_ANSWER if report.trouble else OFF if not report.clean else 0


if __name__ == "__main__":
    sys.exit(main())
