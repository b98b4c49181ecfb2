"""Where a task's output ends in streams that go on."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.frames import frame
from dispatcher.pools.marks import AnswerEnd, LogEnd, new_mark

MARK = b"\0mark\n"


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [part for part in [*parts, data] if part]


@given(
    before=st.lists(st.sampled_from([frame("A", b"{}"), frame("G", b"BE"), frame("R", b"")]), max_size=4),
    last=st.sampled_from([frame("B", b""), frame("B", b"E" * 300), frame("E", b"B")]),
    after=st.binary(max_size=20),
    sizes=st.lists(st.integers(1, 50), max_size=20),
)
def test_an_answer_ends_with_its_last_frame_however_the_bytes_come(before, last, after, sizes):
    answer = b"".join(before) + last
    end = AnswerEnd()
    seen = 0
    for part in cut(answer + after, sizes):
        size = end.feed(part)
        if size is not None:
            assert seen + size == len(answer)
            assert end.found
            return
        seen += len(part)
    raise AssertionError("no end was found")


@given(
    log=st.lists(st.sampled_from([b"\0", b"\0mar", b"\0mark", b"text", b"\n"]), max_size=8),
    after=st.binary(max_size=20),
    sizes=st.lists(st.integers(1, 8), max_size=60),
)
def test_a_log_ends_at_its_mark_and_nowhere_else(log, after, sizes):
    text = b"".join(log)
    whole = text + MARK + after
    first = whole.index(MARK)
    end = LogEnd(MARK)
    parts = cut(whole, sizes)
    given_out = b""
    while not end.found:
        given_out += end.feed(parts.pop(0))
    assert given_out == whole[:first]
    assert end.rest + b"".join(parts) == whole[first + len(MARK) :]


@given(text=st.lists(st.sampled_from([b"\0", b"\0mark", b"x"]), max_size=8).map(b"".join))
def test_a_log_without_a_mark_comes_out_whole(text):
    end = LogEnd(MARK)
    out = b"".join(end.feed(bytes([byte])) for byte in text)
    assert out + end.end() == text
    assert not end.found


def test_marks_are_never_the_same():
    assert len({new_mark() for _ in range(1000)}) == 1000
