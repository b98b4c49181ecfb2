"""A stack in the foreground, and its end from another process."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mayfly.stack.home import Home
from mayfly.stack.process import sweep
from mayfly.stack.record import clear, supervisor

if TYPE_CHECKING:
    from mayfly.stack.stack import Stack

DOWN_SECONDS: Final = 90.0
"""More than every part's grace together."""


async def serve(stack: "Stack", then: Callable[[], Awaitable[bool]] | None = None) -> None:
    """Starts the stack and keeps it until this process is told to end; then it ends in order.

    A second signal ends it at once. `then` runs when everything is up; the stack stays only if it says so.
    Raises `StackError`.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def end() -> None:
        if task.cancelling():
            stack.hurry()
        else:
            task.cancel()

    # While a broker starts, its clients warn of what passes; what does not pass is the part's own error.
    logging.getLogger("mayfly.kafka").setLevel(logging.ERROR)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, end)
    try:
        await stack.start()
        if then is None or await then():
            await stack.supervise()
    except asyncio.CancelledError:
        stack.say("stopping")
    finally:
        await stack.stop()
        for number in numbers:
            loop.remove_signal_handler(number)


async def down(directory: Path) -> bool:
    """Ends the stack that is up in the directory, and what a killed one left; whether there was any."""
    home = Home(directory)
    if not home.path.is_dir():
        return False
    up = supervisor(home)
    if up is not None:
        await up.end(DOWN_SECONDS)
    lock = home.hold()
    try:
        return bool(await sweep(home)) or up is not None
    finally:
        clear(home)
        os.close(lock)
