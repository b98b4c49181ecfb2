"""`python -m mayfly.audit.trail`: whether the audit log is all there, as it was written.

The composition root of `mayfly audit-log verify`. Prints a report as JSON. Exits with 0 if nothing is off,
with 1 if something is, with 2 if Kafka does not answer.
"""

import argparse
import asyncio
import re
import sys
import time
from typing import Final

import msgspec

from mayfly.adapters.kafka_trail import TrailTopic
from mayfly.errors import MayflyError
from mayfly.identity.chain import Finding, Link, TrailReport, Verifier
from mayfly.settings import Settings

OFF, NO_ANSWER = 1, 2
PIECE: Final = 10_000
"""Records that are read at once."""
SHOWN: Final = 100
HEAD: Final = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


async def verify(settings: Settings, expected: Link | None = None) -> TrailReport:
    """Reads the topic to the end that it has. `expected` is a head of before: it is to stand there still."""
    topic = TrailTopic(settings)
    began = time.monotonic()
    try:
        bounds = await topic.bounds()
        verifier = Verifier(bounds.start)
        found = [verifier.trimmed] if verifier.trimmed else []
        for start in range(bounds.start, bounds.end, PIECE):
            for record in await topic.read(start, min(start + PIECE, bounds.end)):
                found += verifier.take(record.offset, record.value)
        if expected is not None and not verifier.holds(expected):
            found.append(Finding(expected.place, "it is not the record that --head names, or is gone"))
    except MayflyError as error:
        return TrailReport(trouble=str(error))
    finally:
        await topic.close()
    head = f"{verifier.head.place}:{verifier.head.sha256}" if verifier.records else ""
    seconds = time.monotonic() - began
    return TrailReport(verifier.records, verifier.writers, head, len(found), tuple(found[:SHOWN]), seconds)


def parse_head(text: str) -> Link:
    """Raises `ValueError`."""
    found = HEAD.fullmatch(text)
    if found is None:
        raise ValueError(
            "a head is a place, a colon and 64 hex digits, as `mayfly audit-log verify` prints it"
        )
    return Link(int(found[1]), found[2])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mayfly.audit.trail", description=__doc__)
    parser.add_argument("--head", type=parse_head, metavar="PLACE:SHA256")
    options = parser.parse_args()
    try:
        report = asyncio.run(verify(Settings(), options.head))
    except KeyboardInterrupt:
        return 130
    except MayflyError as error:
        report = TrailReport(trouble=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(report))
    return NO_ANSWER if report.trouble else OFF if report.found else 0


if __name__ == "__main__":
    sys.exit(main())
