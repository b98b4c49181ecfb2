import asyncio
import os
import threading
from pathlib import Path

import pytest
import uvloop

from dispatcher.runtimes.pipes import Pipes
from dispatcher.runtimes.streams import BUFFERED


@pytest.fixture
async def pipes():
    """Connected, with the sandbox's ends still open here."""
    pipes = Pipes()
    await pipes.connect()
    for descriptor in pipes.theirs:
        os.set_blocking(descriptor, False)
    yield pipes
    pipes.close()
    await asyncio.sleep(0)


async def test_both_streams_end_when_the_sandbox_has(pipes):
    _, stdout, stderr = pipes.theirs
    os.write(stdout, b"out")
    os.write(stderr, b"err")
    pipes.given()
    async with asyncio.timeout(30):
        assert [chunk async for chunk in pipes.stdout] == [b"out"]
        assert [chunk async for chunk in pipes.stderr] == [b"err"]


async def test_what_is_not_read_stays_with_the_sandbox(pipes):
    sent = 0
    for _ in range(2000):
        try:
            sent += os.write(pipes.theirs[1], bytes(65536))
        except BlockingIOError:
            await asyncio.sleep(0)
    assert BUFFERED < sent < 4 * BUFFERED
    pipes.given()
    async with asyncio.timeout(30):
        assert sum([len(chunk) async for chunk in pipes.stdout]) == sent


async def test_writing_waits_while_nobody_reads_and_is_no_error_when_nobody_can(pipes):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pipes.write(bytes(10_000_000)), 0.1)
    pipes.given()
    async with asyncio.timeout(30):
        await pipes.write(b"more")
        await pipes.write(b"and more")
    pipes.write_eof()


async def test_a_closed_stdin_is_an_end_of_file_behind_what_was_written(pipes):
    stdin = os.dup(pipes.theirs[0])
    os.set_blocking(stdin, True)
    await pipes.write(b"input")
    pipes.write_eof()
    with os.fdopen(stdin, "rb") as file:
        assert await asyncio.to_thread(file.read) == b"input"


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_closing_gives_every_descriptor_back_and_may_be_repeated():
    before = descriptors()
    pipes = Pipes()
    await pipes.connect()
    pipes.close()
    pipes.close()
    await asyncio.sleep(0)
    assert [chunk async for chunk in pipes.stdout] == []
    assert descriptors() == before


# --- on the dispatcher's loop, and on the one that tests have


LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


async def open_and_close(times):
    for _ in range(times):
        pipes = Pipes()
        pipes.given()
        await pipes.connect()
        pipes.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@LOOPS
def test_no_descriptor_is_left(loop):
    async def counted():
        await open_and_close(1)
        before = descriptors()
        await open_and_close(50)
        assert descriptors() == before

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(counted())


@LOOPS
def test_what_another_thread_opens_meanwhile_is_not_closed(loop):
    stop, lost = threading.Event(), []

    def others():
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
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(open_and_close(1000))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert lost == []
