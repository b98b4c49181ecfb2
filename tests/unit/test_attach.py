import asyncio
import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.runtimes.attach import STDERR, STDOUT, Attachment, Demultiplexer
from dispatcher.runtimes.streams import BUFFERED

messages = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=300)))


def multiplexed(sent: list[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes([number, 0, 0, 0]) + len(body).to_bytes(4, "big") + body for number, body in sent)


@given(messages, st.lists(st.integers(min_value=0)))
def test_however_the_bytes_are_cut_the_streams_are_the_same(sent, at):
    data = multiplexed(sent)
    places = sorted({place % (len(data) + 1) for place in at})
    demultiplexer = Demultiplexer()
    streams = {STDOUT: b"", STDERR: b""}
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        for number, chunk in demultiplexer.feed(data[start:end]):
            streams[number] += chunk
    for number, stream in streams.items():
        assert stream == b"".join(body for to, body in sent if to == number)


@given(st.binary(max_size=500))
def test_garbage_raises_nothing_but_value_error(data):
    with contextlib.suppress(ValueError):
        Demultiplexer().feed(data)


async def attached() -> tuple[Attachment, socket.socket]:
    ours, engine = socket.socketpair()
    ours.setblocking(False)
    engine.setblocking(False)
    _, attachment = await asyncio.get_running_loop().create_unix_connection(Attachment, sock=ours)
    return attachment, engine


async def test_what_is_not_read_stays_with_the_engine():
    attachment, engine = await attached()
    data = memoryview(multiplexed([(STDOUT, b"x" * 65536)] * 512))
    sent = 0
    # The engine's end takes no more, though the event loop has had every chance to read.
    for _ in range(2000):
        try:
            sent += engine.send(data[sent : sent + 65536])
        except BlockingIOError:
            await asyncio.sleep(0)
    assert sent < 8 * BUFFERED
    attachment.close()
    engine.close()


async def test_both_streams_end_with_the_connection():
    attachment, engine = await attached()
    engine.send(multiplexed([(STDOUT, b"out"), (STDERR, b"err")]))
    engine.close()
    async with asyncio.timeout(30):
        await attachment.ended()
        assert [chunk async for chunk in attachment.stdout] == [b"out"]
        assert [chunk async for chunk in attachment.stderr] == [b"err"]
    assert attachment.error is None
    attachment.close()


async def test_a_connection_that_is_no_docker_stream_is_broken():
    attachment, engine = await attached()
    engine.send(b"HTTP/1.1 500 Oops\r\n\r\n")
    async with asyncio.timeout(30):
        await attachment.ended()
    assert isinstance(attachment.error, ValueError)
    engine.close()


async def test_writing_to_a_process_that_is_gone_is_no_error():
    attachment, engine = await attached()
    engine.close()
    async with asyncio.timeout(30):
        await attachment.write(b"x" * 10_000_000)
        attachment.write_eof()
        await attachment.ended()
        await attachment.write(b"more")
    attachment.write_eof()
    attachment.close()


async def test_writing_waits_while_nobody_reads():
    attachment, engine = await attached()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(attachment.write(b"x" * 10_000_000), 0.1)
    attachment.close()
    engine.close()


async def test_a_half_closed_connection_still_carries_output():
    attachment, engine = await attached()
    await attachment.write(b"input")
    attachment.write_eof()
    engine.setblocking(True)
    received = await asyncio.to_thread(lambda: (engine.recv(100), engine.recv(100)))
    assert received == (b"input", b"")
    engine.send(multiplexed([(STDOUT, b"output")]))
    assert await asyncio.wait_for(anext(attachment.stdout), 30) == b"output"
    attachment.close()
    engine.close()
