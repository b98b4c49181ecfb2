"""The local stack in the foreground: `parts` is Kafka, Redis and S3 alone, `up` is everything. `deploy`
starts nothing: it deploys the functions once, to the log and the engine that the environment names. `image`
builds Mayfly's own image with that engine, and pulls nothing that cannot be pulled."""

import argparse
import asyncio
import gc
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

# To look for garbage among half a million objects that are imported takes a sixth of the time to start.
gc.disable()
# httpx would import its own command, with rich and click: a tenth of that time.
sys.modules["httpx._main"] = None  # type: ignore[assignment]

from mayfly import collector  # noqa: E402
from mayfly.errors import MayflyError, StackError  # noqa: E402
from mayfly.settings import Settings  # noqa: E402
from mayfly.stack.demo import run_examples  # noqa: E402
from mayfly.stack.deploy import deploy  # noqa: E402
from mayfly.stack.serve import serve  # noqa: E402
from mayfly.stack.stack import Stack  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mayfly.stack", description=__doc__)
    parser.add_argument("what", choices=["parts", "up", "demo", "deploy", "image"])
    parser.add_argument("--dir", type=Path, default=Path(".mayfly"))
    parser.add_argument("--functions", type=Path, default=Path("functions"))
    parser.add_argument("--tag", help="the image's name, for `image`")
    parser.add_argument("--dispatchers", type=int, default=1)
    parser.add_argument("--free-ports", action="store_true", help="keep clear of the usual ports")
    parser.add_argument("--mail", action="store_true", help="a mail server for the email example")
    parser.add_argument("--examples", action="store_true", help="run the examples when everything is up")
    options = parser.parse_args()
    if options.what == "deploy":
        return _told(_deploy(options.dir, options.functions))
    if options.what == "image":
        return _told(_image(options.tag))
    demo = options.what == "demo"
    stack = Stack(
        options.dir,
        functions=options.functions,
        dispatchers=options.dispatchers,
        services=options.what != "parts",
        mail=options.mail or options.examples or demo,
        usual_ports=not options.free_ports,
    )
    passed = False

    async def ready() -> bool:
        nonlocal passed
        if demo or options.examples:
            passed = await run_examples(stack)
        if stack.gateway and not demo:
            stack.say(f"\nserving at {stack.gateway}, see {stack.gateway}/docs; Ctrl-C stops everything")
        return not demo

    async def serving() -> bool:
        await serve(stack, ready)
        return passed or not demo

    collector.spare()
    return _told(serving())


async def _deploy(directory: Path, functions: Path) -> bool:
    return await deploy(directory, functions, Settings())


async def _image(tag: str | None) -> bool:
    # Its libraries are of no use to the others.
    from mayfly.stack.image import build_here

    return await asyncio.to_thread(build_here, tag)


def _told(work: Coroutine[Any, Any, bool]) -> int:
    """Runs it: the exit code, 1 for what went wrong, which is told."""
    try:
        return 0 if asyncio.run(work) else 1
    except MayflyError as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, StackError) and error.mend:
            print(f"to mend it: {error.mend}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
