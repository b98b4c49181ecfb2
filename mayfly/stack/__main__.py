"""`python -m mayfly.stack parts|up|demo --dir DIR`."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from mayfly.errors import MayflyError, StackError
from mayfly.stack.stack import Stack


async def serve(stack: Stack) -> None:
    """The stack from start to stop: it ends when the process is told to, and orderly then."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def end() -> None:
        if task.cancelling():
            stack.hurry()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    try:
        await stack.start()
        await stack.supervise()
    except asyncio.CancelledError:
        stack.say("stopping")
    finally:
        await stack.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mayfly.stack", description=__doc__)
    parser.add_argument("what", choices=["parts", "up"])
    parser.add_argument("--dir", type=Path, default=Path(".mayfly"))
    parser.add_argument("--functions", type=Path, default=Path("functions"))
    parser.add_argument("--dispatchers", type=int, default=1)
    parser.add_argument("--free-ports", action="store_true")
    options = parser.parse_args()
    stack = Stack(
        options.dir,
        functions=options.functions,
        dispatchers=options.dispatchers,
        services=options.what == "up",
        usual_ports=not options.free_ports,
    )
    try:
        asyncio.run(serve(stack))
    except MayflyError as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, StackError) and error.mend:
            print(f"to mend it: {error.mend}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
