"""The relay of a container that forks, between a dispatcher and children that a test plays."""

import array
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.pools.lines import CHUNK, U32, WINDOW, LineFrame, LineParser, line_frame
from mayfly.base_image import python_files

PATIENCE = 60.0
RELAY = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
import mayfly_memory, mayfly_relay
mayfly_memory.EVENTS = (sys.argv[4],)
control = socket.socket(fileno=int(sys.argv[2]))
parent = os.fork()
if parent == 0:
    os._exit(7)
mayfly_relay.Relay(control, int(sys.argv[3]), parent, 64 << 20).run()
"""
PACKET = struct.Struct("!cI")


class Child:
    def __init__(self, number: int, stdin: int, stdout: int, stderr: int) -> None:
        self.number = number
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr

    def close(self) -> None:
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor >= 0:
                os.close(descriptor)
        self.stdin = self.stdout = self.stderr = -1


class Stage:
    """The relay's process; the test is its dispatcher, its parent, and the parent's children."""

    def __init__(self, directory: Path) -> None:
        self._memory_events = directory / "memory.events"
        self.kernel_kills(0)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log, self.log = os.pipe()
        folder = Path(python_files()["mayfly_relay.py"]).parent
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-c",
                RELAY,
                str(folder),
                str(theirs.fileno()),
                str(log),
                str(self._memory_events),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(theirs.fileno(), log),
        )
        theirs.close()
        os.close(log)
        self.control.settimeout(PATIENCE)
        self._parser = LineParser()
        self._frames: list[LineFrame] = []
        self.children: list[Child] = []

    def say(self, kind: bytes, line: int, body: bytes = b"") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line_frame(kind, line, body))
        self.process.stdin.flush()

    def hear(self) -> LineFrame:
        assert self.process.stdout is not None
        while not self._frames:
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            assert data, "the relay ended"
            self._frames += self._parser.feed(data)
        return self._frames.pop(0)

    def tell(self, kind: bytes, line: int = 0, body: bytes = b"") -> None:
        self.control.send(PACKET.pack(kind, line) + body)

    def told(self) -> tuple[bytes, int, list[int]]:
        descriptors = array.array("i")
        packet, rights, _, _ = self.control.recvmsg(64, socket.CMSG_SPACE(12))
        for _, _, data in rights:
            descriptors.frombytes(data)
        return *PACKET.unpack_from(packet), list(descriptors)

    def ready(self) -> None:
        self.tell(b"U")
        self.tell(b"R")
        assert [self.hear().kind, self.hear().kind] == [b"U", b"R"]

    def child(self, number: int) -> Child:
        self.say(b"S", number)
        return self.born(number)

    def born(self, number: int) -> Child:
        kind, found, descriptors = self.told()
        assert (kind, found) == (b"S", number)
        child = Child(number, *descriptors)
        self.children.append(child)
        return child

    def exit(self, child: Child, status: int = 0, *, peak_mib: int = 1) -> None:
        child.close()
        self.tell(b"X", child.number, struct.pack("!II", status, peak_mib << 10))

    def kernel_kills(self, count: int) -> None:
        """So many processes of the container, so far, for its memory."""
        self._memory_events.write_text(f"oom 9\noom_kill {count}\noom_group_kill 9\n")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for child in self.children:
            child.close()
        self.control.close()
        os.close(self.log)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.close()


def read_exactly(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, size - len(data))
    return data


def test_bytes_reach_their_child_and_come_back_on_its_line(stage: Stage) -> None:
    stage.ready()
    one, two = stage.child(1), stage.child(2)
    stage.say(b"I", 2, b"for two")
    stage.say(b"I", 1, b"for one")
    assert read_exactly(one.stdin, 7) == b"for one"
    assert read_exactly(two.stdin, 7) == b"for two"
    os.write(two.stdout, b"from two")
    assert stage.hear() == (b"O", 2, b"from two")
    os.write(one.stderr, b"from one")
    assert stage.hear() == (b"E", 1, b"from one")
    stage.exit(one)
    assert stage.hear() == (b"X", 1, bytes((0, 0)))


def test_what_looks_like_frames_is_a_childs_bytes_on_its_own_line(stage: Stage) -> None:
    stage.ready()
    child = stage.child(1)
    forged = line_frame(b"X", 2, bytes((0, 0))) + line_frame(b"O", 2, b"forged") + b"\xff" * 100
    os.write(child.stdout, forged)
    assert stage.hear() == (b"O", 1, forged)


def test_a_child_that_does_not_read_holds_up_only_itself(stage: Stage) -> None:
    stage.ready()
    stage.child(1)
    other = stage.child(2)
    for _ in range(WINDOW // CHUNK):
        stage.say(b"I", 1, b"x" * CHUNK)
    stage.say(b"I", 2, b"hello")
    assert read_exactly(other.stdin, 5) == b"hello"
    os.write(other.stdout, b"done")
    assert stage.hear() == (b"O", 2, b"done")


def test_a_child_that_is_not_read_stops_at_its_window_and_holds_up_only_itself(stage: Stage) -> None:
    stage.ready()
    loud, other = stage.child(1), stage.child(2)
    os.set_blocking(loud.stdout, False)

    def shout() -> int:
        written = 0
        try:
            while True:
                written += os.write(loud.stdout, b"x" * CHUNK)
        except BlockingIOError:
            return written

    heard = written = 0
    while heard < WINDOW:
        written += shout()
        kind, number, body = stage.hear()
        assert (kind, number) == (b"O", 1)
        heard += len(body)
    assert heard == WINDOW
    written += shout()
    os.write(other.stdout, b"done")
    assert stage.hear() == (b"O", 2, b"done")
    stage.say(b"C", 1, U32.pack(CHUNK))
    assert len(stage.hear().body) == CHUNK


def test_an_exit_comes_after_all_that_was_written(stage: Stage) -> None:
    stage.ready()
    child = stage.child(1)
    os.write(child.stdout, b"x" * CHUNK)
    os.write(child.stderr, b"last words")
    stage.exit(child, status=9)  # SIGKILL
    heard = [stage.hear() for _ in range(3)]
    assert sorted(frame.kind for frame in heard[:2]) == [b"E", b"O"]
    assert heard[2] == (b"X", 1, bytes((137, 0)))


def test_the_input_of_a_child_that_closed_its_stdin_is_credited_and_dropped(stage: Stage) -> None:
    stage.ready()
    child = stage.child(1)
    os.close(child.stdin)
    child.stdin = -1
    for _ in range(WINDOW // CHUNK):
        stage.say(b"I", 1, b"x" * CHUNK)
    credit = 0
    while credit < WINDOW:
        kind, _, body = stage.hear()
        assert kind == b"C"
        credit += U32.unpack(body)[0]


def test_closing_stdin_comes_after_what_was_written_to_it(stage: Stage) -> None:
    stage.ready()
    child = stage.child(1)
    stage.say(b"I", 1, b"x" * CHUNK)
    stage.say(b"I", 1, b"y" * CHUNK)
    stage.say(b"Z", 1)
    assert read_exactly(child.stdin, 2 * CHUNK)[-1:] == b"y"
    assert os.read(child.stdin, 1) == b""


def test_a_dropped_child_is_killed_and_its_output_is_nobodys(stage: Stage) -> None:
    stage.ready()
    child = stage.child(1)
    stage.say(b"D", 1)
    assert stage.told()[:2] == (b"K", 1)
    with pytest.raises(BrokenPipeError):
        os.write(child.stdout, b"x")
    stage.exit(child, status=9)
    assert stage.hear() == (b"X", 1, bytes((137, 0)))


def test_children_wait_for_the_import_and_the_first_log_begins_with_what_it_wrote(stage: Stage) -> None:
    stage.tell(b"U")
    assert stage.hear().kind == b"U"
    stage.say(b"S", 1)
    stage.say(b"I", 1, b"task")
    stage.say(b"S", 2)
    stage.say(b"K", 2, U32.pack(15))
    assert stage.hear().line == 2  # the first was heard before
    os.write(stage.log, b"imported\n")
    stage.tell(b"R")
    child = stage.born(1)
    heard = [stage.hear(), stage.hear()]
    assert sorted(heard) == [(b"E", 1, b"imported\n"), (b"R", 0, b"")]
    assert read_exactly(child.stdin, 4) == b"task"


def test_a_child_that_is_killed_while_it_waits_for_the_import_has_ended(stage: Stage) -> None:
    stage.tell(b"U")
    assert stage.hear().kind == b"U"
    stage.say(b"S", 1)
    stage.say(b"K", 1, U32.pack(15))
    assert stage.hear() == (b"X", 1, bytes((143, 0)))


def test_an_import_that_ends_the_process_is_every_waiting_childs_exit(stage: Stage) -> None:
    stage.tell(b"U")
    assert stage.hear().kind == b"U"
    stage.say(b"S", 1)
    stage.say(b"S", 2)
    stage.say(b"S", 3)
    stage.say(b"K", 3, U32.pack(15))
    assert stage.hear().line == 3  # the first two were heard before
    os.write(stage.log, b"boom\n")
    stage.control.close()
    frames = [stage.hear() for _ in range(3)]
    assert frames == [(b"E", 1, b"boom\n"), (b"X", 1, bytes((7, 0))), (b"X", 2, bytes((7, 0)))]
    assert stage.process.wait(PATIENCE) == 7


def test_each_of_those_that_the_kernel_killed_for_memory_is_told_so(stage: Stage) -> None:
    stage.ready()
    large, small = stage.child(1), stage.child(2)
    stage.kernel_kills(2)
    stage.exit(large, 9, peak_mib=60)
    stage.exit(small, 9, peak_mib=2)
    ends = stage.hear(), stage.hear()
    assert [(end.kind, end.line) for end in ends] == [(b"X", 1), (b"L", 2)]
    assert ends[0].body == bytes((137, 1))


def test_what_the_kernel_killed_before_a_child_was_started_is_not_its_end(stage: Stage) -> None:
    stage.ready()
    before = stage.child(1)
    stage.kernel_kills(1)
    stage.exit(before, 1 << 8)
    assert stage.hear().body == bytes((1, 0)), "its own child was killed, and it told of that"
    stage.exit(stage.child(2), 9, peak_mib=60)
    assert stage.hear().body == bytes((137, 0)), "it has killed itself"


def test_it_ends_when_the_dispatcher_hangs_up(stage: Stage) -> None:
    stage.ready()
    assert stage.process.stdin is not None
    stage.process.stdin.close()
    assert stage.process.wait(PATIENCE) == 0
