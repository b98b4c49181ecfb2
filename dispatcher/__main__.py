"""`python -m dispatcher`: one dispatcher, told everything by its environment."""

import argparse
import gc
import os
import sys

# To look for garbage among half a million objects that are imported takes a sixth of the time to start.
gc.disable()
# structlog would import rich, to show tracebacks in colours on a terminal: a sixth of that time as well.
sys.modules["rich"] = None  # type: ignore[assignment]

import uvloop  # noqa: E402

from dispatcher.app import serve  # noqa: E402
from mayfly.errors import MayflyError  # noqa: E402
from mayfly.faultpoints import arm  # noqa: E402
from mayfly.settings import Settings  # noqa: E402
from mayfly.telemetry import configure  # noqa: E402


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
