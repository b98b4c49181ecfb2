"""`python -m gateway`: the process is in `gateway.server`."""

import gc
import sys

# To look for garbage among half a million objects that are imported takes a sixth of the time to start.
gc.disable()
# structlog would import rich, to show tracebacks in colours on a terminal: a sixth of that time as well.
sys.modules["rich"] = None  # type: ignore[assignment]

from gateway.server import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
