"""`python -m mayfly.healthcheck`: whether the service of this container lives. Exit code 0 or 1, and why.

It asks where the service has left its address (`MAYFLY_ADDRESS_FILE`), so that gateways and dispatchers have
one check, on whatever host and port they listen.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

SECONDS: Final = 4.0
"""Less than a container's engine waits for this."""
SHOWN: Final = 500
"""Bytes of an answer that are printed."""


def main() -> int:
    # Not by `Settings`: to import what reads them takes longer than all the rest, every few seconds.
    file = Path(os.environ.get("MAYFLY_ADDRESS_FILE", ""))
    try:
        status, answer = ask(file.read_text().strip())
    except (OSError, HTTPException, ValueError) as error:
        print(f"nobody answers: {error}")
        return 1
    print(answer)
    return 0 if status == 200 else 1


def ask(url: str) -> tuple[int, str]:
    """The status and the beginning of the answer of its /healthz."""
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=SECONDS)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        return response.status, response.read(SHOWN).decode(errors="replace")
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
