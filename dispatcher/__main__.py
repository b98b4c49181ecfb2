"""`python -m dispatcher`: one dispatcher, told everything by its environment."""

import argparse
import os
import sys

import uvloop

from dispatcher.app import serve
from mayfly.errors import MayflyError
from mayfly.faultpoints import arm
from mayfly.settings import Settings
from mayfly.telemetry import configure


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dispatcher", description=__doc__)
    parser.add_argument("--queue", help="the queue to serve (MAYFLY_QUEUE)")
    arguments = parser.parse_args()
    try:
        settings = Settings(**({"queue": arguments.queue} if arguments.queue else {}))
        configure("dispatcher", settings.log_level)
        arm(settings.fault_point)
        uvloop.run(serve(settings))
    except MayflyError as error:
        print(f"dispatcher: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # A consumer's thread that hangs on a dead broker must not hold the process.
    status = main()
    sys.stderr.flush()
    os._exit(status)
