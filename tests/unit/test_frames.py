from hypothesis import given
from hypothesis import strategies as st

from dispatcher.frames import Frame, FrameParser, Violation, frame

CAPS = {"A": 16, "R": 64, "B": 1024}
frames = st.lists(
    st.sampled_from(sorted(CAPS)).flatmap(
        lambda kind: st.builds(Frame, st.just(kind), st.binary(max_size=CAPS[kind]))
    )
)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({place % (len(data) + 1) for place in at})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def parse(pieces: list[bytes]) -> list[Frame | Violation]:
    parser = FrameParser(CAPS)
    return [found for piece in pieces for found in parser.feed(piece)]


@given(frames, st.lists(st.integers(min_value=0)))
def test_however_the_bytes_are_cut_the_frames_are_the_same(sent, at):
    data = b"".join(frame(kind, body) for kind, body in sent)
    assert parse(cut(data, at)) == sent


@given(st.binary(max_size=4096), st.lists(st.integers(min_value=0)))
def test_garbage_is_a_violation_at_worst_and_the_cut_changes_nothing(data, at):
    whole = parse([data])
    assert parse(cut(data, at)) == whole
    assert not any(isinstance(found, Violation) for found in whole[:-1])


@given(frames, st.binary(max_size=100))
def test_nothing_after_a_violation_is_read(sent, rest):
    data = b"".join(frame(kind, body) for kind, body in sent)
    found = parse([data + b"?\0\0\0\0" + rest, frame("A", b"")])
    assert found == [*sent, Violation("?", 0, None)]


def test_a_body_over_its_cap_is_refused_at_its_header():
    parser = FrameParser(CAPS)
    assert parser.feed(b"B\0\0\4\0") == []
    parser = FrameParser(CAPS)
    assert parser.feed(b"B\0\0\4\1") == [Violation("B", 1025, 1024)]


def test_an_empty_body_is_a_frame():
    assert parse([frame("A", b"")]) == [Frame("A", b"")]


def test_an_incomplete_frame_is_none_yet():
    assert parse([frame("B", b"abc")[:-1]]) == []
