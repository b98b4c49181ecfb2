"""The first process of a container that forks its tasks: it carries their bytes to the dispatcher and back.

What forks is another process, `mayfly_parent.py`, so that no task is born with the bytes of others in its
memory. Each child has a line: three pipes here, one number in the frames on this process's stdin and stdout,
which no child has. A frame is a kind (one ASCII byte), the line (u32), the body's length (u32), the body.

    dispatcher  S  start a child             relay  U  up: this machine can do it
                I  bytes for its stdin              F  it cannot: why. Nothing follows
                C  credit for output, u32           R  ready: the import is over
                Z  close its stdin                  O  bytes of its stdout
                K  signal it, u32                   E  bytes of its stderr
                D  drop it                          C  credit for input, u32
                                                    X  exit: code, whether by lack of memory (a byte each)
                                                    L  lost: why

Nothing here waits for a child. Of each line, either side sends at most WINDOW bytes that the other has not
given back as credit; so a child that does not read, or is not read, stops itself alone.
"""

import _signal
import _socket
import os
import select
import struct

import mayfly_json
import mayfly_memory
from mayfly_line import WINDOW, Line, exit_code
from mayfly_packets import Packets

CHUNK = 64 * 1024
MAX_UNSENT = 512 * 1024
"""Bytes that wait for the dispatcher before the children are left unread."""
IMPORT_LOG = 64 * 1024
"""What is kept of what the import wrote: the first child's log begins with it."""

LAST_WORDS = 4096
"""Bytes of what the parent wrote when it failed."""

HEADER = struct.Struct("!cII")
PACKET = struct.Struct("!cI")
U32 = struct.Struct("!I")
TWO_U32 = struct.Struct("!II")
READ, WRITE = select.EPOLLIN, select.EPOLLOUT
KILLED = 9


def main(options: str) -> None:
    """Never returns."""
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    mine, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    log, log_end = os.pipe()
    about = mayfly_json.loads(options.encode())
    parent = os.fork()
    if parent == 0:
        import mayfly_layout

        mayfly_layout.share_code()
        mayfly_layout.fill_holes()
        import mayfly_parent

        mayfly_parent.main(about, theirs, log_end)
    theirs.close()
    os.close(log_end)
    Relay(mine, log, parent, about["memoryMiB"] << 20).run()


class Relay:
    def __init__(self, control: _socket.socket, log: int, parent: int, memory: int) -> None:
        self._memory = memory
        """Bytes that one task may have."""
        self._control = control
        self._control.setblocking(False)
        self._log = log
        self._parent = parent
        self._ready = False
        self._import_log = bytearray()
        self._last_words = b""
        self._unheard = bytearray()
        self._unsent = bytearray()
        self._lines: dict[int, Line] = {}
        self._by_descriptor: dict[int, Line] = {}
        self._memory_events = mayfly_memory.open_events()
        self._oom_kills = self._count_oom_kills()
        """Before the import."""
        self._epoll = select.epoll()
        # Within the other one, so that all children can be left unread at once.
        self._outputs = select.epoll()
        self._congested = False
        self._waits_to_send = False
        for descriptor in (0, 1, log):
            os.set_blocking(descriptor, False)
        for descriptor in (0, control.fileno(), log, self._outputs.fileno()):
            self._epoll.register(descriptor, READ)
        self._packets = Packets(control, self._epoll, self._unsendable)

    def run(self) -> None:
        control, outputs = self._control.fileno(), self._outputs.fileno()
        while True:
            for descriptor, events in self._epoll.poll():
                if descriptor == outputs:
                    for output, _ in self._outputs.poll(0):
                        self._read_child(output)
                elif descriptor == 0:
                    self._hear()
                elif descriptor == control:
                    if events & ~WRITE:
                        self._hear_parent()
                    self._packets.flush()
                elif descriptor == self._log:
                    self._read_log()
                elif descriptor in self._by_descriptor:
                    self._feed(self._by_descriptor[descriptor])
            if self._unsent:
                self._send()

    # --- the dispatcher

    def _say(self, kind: bytes, number: int, body: bytes = b"") -> None:
        self._unsent += HEADER.pack(kind, number, len(body))
        self._unsent += body

    def _send(self) -> None:
        try:
            del self._unsent[: os.write(1, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            os._exit(0)
        waits, congested = bool(self._unsent), len(self._unsent) > MAX_UNSENT
        if waits != self._waits_to_send:
            self._waits_to_send = waits
            if waits:
                self._epoll.register(1, WRITE)
            else:
                self._epoll.unregister(1)
        if congested != self._congested:
            self._congested = congested
            self._epoll.modify(self._outputs.fileno(), 0 if congested else READ)

    def _hear(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except BlockingIOError:
            return
        if not data:
            os._exit(0)  # the dispatcher has hung up; the container ends, and all that is in it
        self._unheard += data
        at, size = 0, len(self._unheard)
        while size - at >= HEADER.size:
            kind, number, length = HEADER.unpack_from(self._unheard, at)
            if size - at - HEADER.size < length:
                break
            at += HEADER.size
            self._obey(kind, number, bytes(self._unheard[at : at + length]))
            at += length
        del self._unheard[:at]

    def _obey(self, kind: bytes, number: int, body: bytes) -> None:
        if kind == b"S":
            self._lines[number] = line = Line(number)
            if self._ready:
                self._start(line)
            return
        line = self._lines.get(number)
        if line is None:
            return  # it has ended, which the dispatcher does not know yet
        if kind == b"I":
            line.unsent += body
            self._feed(line)
        elif kind == b"C":
            line.credit += U32.unpack(body)[0]
            self._set_reading(line, line.credit > 0)
        elif kind == b"Z":
            line.closing = True
            self._feed(line)
        elif kind == b"K":
            self._kill(line, U32.unpack(body)[0])
        elif kind == b"D":
            self._close_outputs(line)
            self._kill(line, KILLED)
            self._end_if_over(line)

    # --- a child's life

    def _start(self, line: Line) -> None:
        self._tell_import_log(line)
        pipes: list[int] = []
        try:
            for _ in range(3):
                pipes += os.pipe()
        except OSError as error:
            self._lose(line, error, pipes)
            return
        theirs_in, line.stdin, line.stdout, theirs_out, line.stderr, theirs_err = pipes
        for descriptor in (line.stdin, line.stdout, line.stderr):
            os.set_blocking(descriptor, False)
            self._by_descriptor[descriptor] = line
        line.started = True
        line.oom_kills = self._count_oom_kills()
        self._set_reading(line, True)
        self._packets.send(PACKET.pack(b"S", line.number), (theirs_in, theirs_out, theirs_err))
        self._feed(line)

    def _lose(self, line: Line, error: OSError, pipes: list[int]) -> None:
        for descriptor in pipes:
            os.close(descriptor)
        del self._lines[line.number]
        self._say(b"L", line.number, f"it could not be started: {error.strerror}".encode())

    def _kill(self, line: Line, signal: int) -> None:
        line.killed = line.killed or signal == KILLED
        if line.started:
            self._packets.send(PACKET.pack(b"K", line.number) + U32.pack(signal))
        else:
            # It waits for the import. Whatever the signal, there is nothing that it could interrupt.
            del self._lines[line.number]
            self._say(b"X", line.number, bytes((128 + signal, 0)))

    def _feed(self, line: Line) -> None:
        """Give a child what it takes of its input."""
        if not line.started:
            return
        if line.stdin < 0:
            line.taken += len(line.unsent)
            line.unsent.clear()
        elif line.unsent:
            try:
                size = os.write(line.stdin, line.unsent)
            except BlockingIOError:
                size = 0
            except OSError:  # it has closed its stdin: the rest is nobody's
                size = len(line.unsent)
            del line.unsent[:size]
            line.taken += size
        if line.taken >= WINDOW // 2:
            self._say(b"C", line.number, U32.pack(line.taken))
            line.taken = 0
        if line.stdin < 0:
            return
        self._wait_for_stdin(line, bool(line.unsent))
        if line.closing and not line.unsent:
            self._close_stdin(line)

    def _wait_for_stdin(self, line: Line, yes: bool) -> None:
        if yes != line.full:
            line.full = yes
            if yes:
                self._epoll.register(line.stdin, WRITE)
            else:
                self._epoll.unregister(line.stdin)

    def _read_child(self, descriptor: int) -> None:
        line = self._by_descriptor.get(descriptor)
        if line is None or not line.reading:
            return
        try:
            data = os.read(descriptor, min(CHUNK, line.credit))
        except BlockingIOError:
            return
        if data:
            self._say(b"O" if descriptor == line.stdout else b"E", line.number, data)
            line.credit -= len(data)
            if line.credit == 0:
                self._set_reading(line, False)
        else:
            self._close_output(line, descriptor)
            self._end_if_over(line)

    def _set_reading(self, line: Line, yes: bool) -> None:
        if yes == line.reading:
            return
        line.reading = yes
        for descriptor in (line.stdout, line.stderr):
            if descriptor >= 0:
                if yes:
                    self._outputs.register(descriptor, READ)
                else:
                    self._outputs.unregister(descriptor)

    def _close_stdin(self, line: Line) -> None:
        if line.stdin >= 0:
            self._wait_for_stdin(line, False)
            del self._by_descriptor[line.stdin]
            os.close(line.stdin)
            line.stdin = -1

    def _close_output(self, line: Line, descriptor: int) -> None:
        if line.reading:
            self._outputs.unregister(descriptor)
        del self._by_descriptor[descriptor]
        os.close(descriptor)
        if descriptor == line.stdout:
            line.stdout = -1
        else:
            line.stderr = -1

    def _close_outputs(self, line: Line) -> None:
        for descriptor in (line.stdout, line.stderr):
            if descriptor >= 0:
                self._close_output(line, descriptor)

    def _end_if_over(self, line: Line) -> None:
        """Only once all that it wrote has been passed on: the dispatcher forgets the line with its exit."""
        if line.status is None or line.stdout >= 0 or line.stderr >= 0:
            return
        self._close_stdin(line)
        del self._lines[line.number]
        code = exit_code(line.status)
        if code != 128 + KILLED or line.killed or self._count_oom_kills() == line.oom_kills:
            self._say(b"X", line.number, bytes((code, 0)))
        elif line.peak >= self._memory // 2:
            self._say(b"X", line.number, bytes((code, 1)))
        else:
            self._say(b"L", line.number, b"it was killed for the memory that its siblings took")

    def _count_oom_kills(self) -> int:
        return mayfly_memory.oom_kills_in(self._memory_events)

    # --- the parent

    def _unsendable(self, packet: bytes, error: OSError) -> None:
        """The parent is gone, of which its end of the socket tells; or too many descriptors are on their way
        in sockets of this user."""
        kind, number = PACKET.unpack_from(packet)
        line = self._lines.pop(number, None)
        if kind == b"S" and line is not None:
            self._close_outputs(line)
            self._close_stdin(line)
            self._say(b"L", number, f"it could not be started: {error.strerror}".encode())

    def _hear_parent(self) -> None:
        while True:
            try:
                packet = self._control.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._parent_ended()
            kind, number = PACKET.unpack_from(packet)
            self._heard_parent(kind, number, packet[PACKET.size :])

    def _heard_parent(self, kind: bytes, number: int, body: bytes) -> None:
        if kind in (b"U", b"F"):
            self._say(kind, 0, body)
        elif kind == b"R":
            self._read_log()
            self._ready = True
            self._say(b"R", 0)
            for line in list(self._lines.values()):
                self._start(line)
        elif kind == b"X" and (line := self._lines.get(number)) is not None:
            line.status, line.peak = TWO_U32.unpack(body)
            line.peak *= 1024
            # Its pipes have ended with it. What is in them may have to wait for credit.
            self._end_if_over(line)
        elif kind == b"L" and (line := self._lines.pop(number, None)) is not None:
            self._close_outputs(line)
            self._close_stdin(line)
            self._say(b"L", number, body)

    def _parent_ended(self) -> None:
        """With the parent all children have died. Before its import was over that is the function's doing."""
        code = exit_code(os.waitpid(self._parent, 0)[1])
        if not self._ready:
            self._read_log()
            os.write(2, self._import_log[-LAST_WORDS:])  # for children that are asked for only now
            out_of_memory = code == 128 + KILLED and self._count_oom_kills() > self._oom_kills
            for line in self._lines.values():
                self._tell_import_log(line)
                self._say(b"X", line.number, bytes((code, out_of_memory)))
        else:
            self._read_log()
            os.write(2, self._last_words)
        os.set_blocking(1, True)
        while self._unsent:
            self._send()
        os._exit(code)

    def _read_log(self) -> None:
        try:
            data = os.read(self._log, CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._epoll.unregister(self._log)
        elif not self._ready:
            self._import_log += data[: IMPORT_LOG - len(self._import_log)]
        else:
            self._last_words = data[-LAST_WORDS:]

    def _tell_import_log(self, line: Line) -> None:
        if self._import_log:
            self._say(b"E", line.number, bytes(self._import_log))
            line.credit -= len(self._import_log)
            self._import_log.clear()
