"""The command `mayfly`."""

import gc
import sys


def main() -> None:
    # Most of a command's time goes into what it imports, a third of that into these two: to look for garbage
    # after every 700 objects, and httpx's own command, which httpx imports where rich and click are.
    gc.set_threshold(50_000)
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    from mayfly.cli.app import app

    app(prog_name="mayfly")
