"""The dispatcher's end of a relay's lines: frames as they come, windows, and what a broken relay says."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.pools.lines import CHUNK, U32, WINDOW, BrokenRelay, Line, LineFrame, LineParser, line_frame
from dispatcher.runtimes.base import Exit
from mayfly.errors import SandboxLost


class Said(list[tuple[bytes, int, bytes]]):
    def __call__(self, kind: bytes, number: int, body: bytes) -> None:
        self.append((kind, number, body))

    def bytes_of(self, kind: bytes) -> int:
        return sum(len(body) for said, _, body in self if said == kind)


@given(
    frames=st.lists(
        st.builds(
            LineFrame,
            st.sampled_from([b"O", b"E", b"X", b"U"]),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=40),
        ),
        max_size=10,
    ),
    size=st.integers(1, 60),
)
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames, size):
    data = b"".join(line_frame(*frame) for frame in frames)
    parser = LineParser()
    assert [f for at in range(0, len(data), size) for f in parser.feed(data[at : at + size])] == frames


@given(st.binary(min_size=9, max_size=200))
def test_garbage_is_refused_or_is_frames_and_nothing_else_happens(data):
    try:
        for kind, _, body in LineParser().feed(data):
            assert kind in (b"U", b"F", b"R", b"O", b"E", b"C", b"X", b"L")
            assert len(body) <= CHUNK
    except BrokenRelay:
        pass


def test_a_body_over_the_cap_is_refused_at_its_header():
    with pytest.raises(BrokenRelay):
        LineParser().feed(line_frame(b"O", 1)[:5] + U32.pack(CHUNK + 1))


@pytest.mark.parametrize(("kind", "body"), [(b"C", b"1"), (b"X", b""), (b"X", b"123"), (b"U", b"")])
async def test_a_frame_that_makes_no_sense_on_a_line_is_refused(kind, body):
    with pytest.raises(BrokenRelay):
        Line(1, Said()).hear(kind, body)


async def test_no_more_is_written_than_the_other_side_gave_credit_for():
    said = Said()
    line = Line(1, said)
    writing = asyncio.create_task(line.write(b"x" * (3 * WINDOW)))
    await asyncio.sleep(0)
    assert said.bytes_of(b"I") == WINDOW
    line.hear(b"C", U32.pack(WINDOW))
    await asyncio.sleep(0)
    assert said.bytes_of(b"I") == 2 * WINDOW
    assert not writing.done()
    line.hear(b"X", bytes((0, 0)))
    await writing  # what an ended process has not read is no error
    assert said.bytes_of(b"I") == 2 * WINDOW


async def test_what_is_read_becomes_credit_and_what_is_not_does_not():
    said = Said()
    line = Line(1, said)
    for _ in range(WINDOW // CHUNK):
        line.hear(b"O", b"x" * CHUNK)
    stdout = aiter(line.stdout)
    await anext(stdout)
    assert said.bytes_of(b"C") == 0
    await anext(stdout)
    assert said == [(b"C", 1, U32.pack(2 * CHUNK))]


async def test_both_streams_end_with_the_process_and_its_exit_is_told():
    line = Line(1, Said())
    line.hear(b"O", b"out")
    line.hear(b"E", b"err")
    waiting = asyncio.create_task(line.wait())
    line.hear(b"X", bytes((137, 1)))
    assert [chunk async for chunk in line.stdout] == [b"out"]
    assert [chunk async for chunk in line.stderr] == [b"err"]
    assert await waiting == Exit(137, oom_killed=True)


async def test_a_lost_child_says_why_and_is_asked_for_nothing_more():
    said = Said()
    line = Line(1, said)
    line.hear(b"L", b"its parent was killed")
    with pytest.raises(SandboxLost, match="its parent was killed"):
        await line.wait()
    await line.kill()
    await line.write(b"x")
    await line.remove()
    assert said == []
