"""From a thread to the event loop and back."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[..., T], *arguments: Any) -> T:
    """Runs it on the event loop, and waits for it: for any other thread. Raises what it raises."""
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            answer.set_result(call(*arguments))
        except BaseException as error:  # noqa: BLE001 - it is raised on the thread that asked
            answer.set_exception(error)

    loop.call_soon_threadsafe(run)
    return answer.result()
