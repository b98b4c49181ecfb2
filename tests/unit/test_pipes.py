"""A sandbox's pipes: each descriptor is closed, and once."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dispatcher.runtimes.pipes import Pipes

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
Loop = Callable[[], asyncio.AbstractEventLoop]


def run(loop: Loop, work: Any) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work)


async def open_and_close(times: int) -> None:
    for _ in range(times):
        pipes = Pipes()
        pipes.given()
        await pipes.connect()
        pipes.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@LOOPS
def test_no_descriptor_is_left(loop: Loop) -> None:
    async def counted() -> None:
        await open_and_close(1)
        before = len(list(Path("/proc/self/fd").iterdir()))
        await open_and_close(50)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    run(loop, counted())


@LOOPS
def test_what_another_thread_opens_meanwhile_is_not_closed(loop: Loop) -> None:
    stop, lost = threading.Event(), []

    def others() -> None:
        while not stop.is_set():
            descriptor = os.open("/dev/null", os.O_RDONLY)
            try:
                os.close(descriptor)
            except OSError as error:
                lost.append(error)

    threads = [threading.Thread(target=others) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        run(loop, open_and_close(1000))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert lost == []
