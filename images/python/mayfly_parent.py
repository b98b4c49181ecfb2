"""The process that has imported the handler and forks a sandbox for each task (`isolation = "fork"`).

It sees no task's bytes: those pass through the relay, a process of its own, so that no child's memory holds
what was another's. It lives in a user namespace, where alone its capabilities count, and in a pid namespace
of that, for only in one of its own can it choose the namespace of its next child, and come back.

A child is the second process of its pid namespace. The first one only pauses, so that signals and exit codes
are for the handler what they are anywhere (the kernel shields a first process from its own signals), and is
killed when the handler's process has ended: with it goes all that is left. It has the parent's memory, so all
signals that a task could send it are blocked: only the parent's SIGKILL ends it.

To and from the relay go packets: a kind, the child's number, and what the kind says.

    S  fork, with its stdin, stdout, stderr     U  up: children can be confined here
    K  signal it, u32                           F  they cannot: why
                                                R  ready: the handler is imported, or failed to be
                                                X  ended: its wait status, its peak in KiB (u32 each);
                                                   nothing of it is left
                                                L  lost: why
"""

import _signal
import _socket
import _thread
import errno
import gc
import os
import resource
import select
import struct
import sys

import bootstrap
import mayfly_confinement
import mayfly_kernel as kernel
from mayfly_line import exit_code

UNCONFINED = 16
"""The signal by which a child says that it could not be confined: SIGSTKFLT, which nothing else sends."""
PACKET = struct.Struct("!cI")
INT = struct.Struct("i")
ANCILLARY = _socket.CMSG_SPACE(3 * INT.size)
"""Bytes for three descriptors."""
IN_A_ROW = 16
"""At most so many packets are read one after another, lest children that have ended wait behind them all."""
PASSING = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""What says nothing about the machine: another parent may have more luck."""
REHEARSALS = 20
"""As often as an interpreter must see a function before it makes it faster."""
TASK = (
    b'{"taskId":"","taskType":"","attempt":1,"deadline":0,"contentType":"application/json","version":"",'
    b'"memoryMiB":1,"env":{}}'
)
"""One to rehearse with."""
FORK, WAIT, KILL = os.fork, os.waitpid, os.kill
"""Held here: what a function makes of these modules (gevent does) is not for us."""


def main(options: dict, control: _socket.socket, log: int) -> None:
    """Never returns. `log` is where the import's output goes."""
    null = os.open("/dev/null", os.O_RDWR)
    for number, descriptor in enumerate((null, log, log)):
        os.dup2(descriptor, number)
    control = _keep_only(control)
    # Its name is a function's.
    del sys.modules["bootstrap"]
    bootstrap.print_in_turn()
    try:
        _enter()
        inside = FORK()
        if inside:
            control.close()
            os._exit(exit_code(WAIT(inside, 0)[1]))
        os.setsid()
        parent = Parent(control, options)
    except (OSError, Unconfined) as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in PASSING:
            os.write(2, str(error).encode())
        else:
            control.send(PACKET.pack(b"F", 0) + str(error).encode())
        os._exit(1)
    parent.load()
    parent.run()


class Unconfined(Exception):
    pass


class Parent:
    def __init__(self, control: _socket.socket, options: dict) -> None:
        self._control = control
        self._home = os.open("/proc/self/ns/pid", os.O_RDONLY)
        kernel.mount(b"proc", b"/proc", b"proc", kernel.NO_SUID | kernel.NO_DEV | kernel.NO_EXEC)
        mayfly_confinement.hide_queues()
        self._failures, self._failure = os.pipe()
        os.set_blocking(self._failures, False)
        self._confinement = mayfly_confinement.Confinement(options, self._failure)
        limit = options["openFiles"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        # Else the first processes, which share our memory, would show it to whoever is beside them.
        kernel.make(kernel.setting_dumpable(False))
        self._children: dict[int, Child] = {}
        self._by_descriptor: dict[int, Child] = {}
        self._epoll = select.epoll()
        self._epoll.register(control, select.EPOLLIN)
        self._function = None
        self._error: BaseException | None = None
        self._on_child = None
        self._try()
        self._tell(b"U")

    def load(self) -> None:
        """Import the handler. How that fails is each child's to tell."""
        # Not what only a failure needs: a child has a copy of the table of all that is here.
        import mayfly_progress  # noqa: F401
        import mayfly_results  # noqa: F401

        # Before the import, which may leave no descriptor free, or change what the rehearsal would run on.
        self._rehearse()
        try:
            self._function = bootstrap.load_function()
        except BaseException as error:  # noqa: BLE001 - so is whatever ends the process
            self._error = error
        # Ignored, or handled by waiting for any child, ends that are waited for here would be taken.
        on_child = _signal.getsignal(_signal.SIGCHLD)
        if on_child not in (None, _signal.SIG_DFL):
            self._on_child = _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        gc.collect()
        # After all that may still have printed: what waits here would be each child's to print.
        bootstrap.flush()
        gc.freeze()
        # From here on there are tasks. A child has them as the import left them, once it is confined.
        kernel.block_signals()
        self._tell(b"R")

    def run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._control.fileno():
                    self._hear()
                else:
                    self._by_descriptor[descriptor].ended(self)

    def _try(self) -> None:
        """One child that does nothing, so that a machine which forbids this says so now."""
        null = os.open("/dev/null", os.O_RDWR)
        child = self._start(0, [os.dup(null), os.dup(null), null], None)
        status = WAIT(child.pid, 0)[1]
        KILL(child.first, _signal.SIGKILL)
        WAIT(child.first, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == _signal.SIGKILL:
            raise OSError(errno.ENOMEM, "a first child was killed")
        if status:
            raise Unconfined(self._why())

    def _rehearse(self) -> None:
        """Go through a child's life here, so that the interpreter finds its way, and writes it down, once: in
        a child, every page that is written to is copied first."""
        self._function = lambda event, context: event, None
        for _ in range(REHEARSALS):
            task, result = os.pipe(), os.pipe()
            os.write(task[1], bootstrap.frame(b"T", TASK) + bootstrap.frame(b"P", b"{}"))
            self._confinement.rehearse(self._be_born, [], (task[0], result[1]), lambda code: None)
            for descriptor in (*task, *result, bootstrap.TASK_FD, bootstrap.RESULT_FD):
                os.close(descriptor)
        self._function = None
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)

    # --- the relay

    def _hear(self) -> None:
        """Some packets, and only then see to the children that were forked: what is written to between two
        forks is copied once more, for the child has it too."""
        born = []
        for _ in range(IN_A_ROW):
            try:
                packet, ancillary, _, _ = self._control.recvmsg(64, ANCILLARY, _socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not packet:
                os._exit(0)
            kind, number = PACKET.unpack_from(packet)
            if kind == b"S":
                descriptors = [at for _, _, data in ancillary for (at,) in INT.iter_unpack(data)]
                if child := self._spawn(number, descriptors):
                    born.append(child)
            elif kind == b"K" and number in self._children:
                self._children[number].signal(int.from_bytes(packet[PACKET.size :], "big"))
        for child in born:
            self._watch(child, child.pid)

    def _tell(self, kind: bytes, number: int = 0, body: bytes = b"") -> None:
        try:
            self._control.send(PACKET.pack(kind, number) + body)
        except OSError:  # the relay is gone, and the container with it
            os._exit(1)

    def _why(self) -> str:
        try:
            return os.read(self._failures, 4096).decode(errors="replace")
        except BlockingIOError:
            return "it was killed"

    # --- children

    def _spawn(self, number: int, descriptors: list[int]) -> "Child | None":
        try:
            child = self._start(number, descriptors, (0, 1))
        except OSError as error:
            self._tell(b"L", number, f"it could not be forked: {error.strerror}".encode())
            return None
        self._children[number] = child
        return child

    def _start(self, number: int, descriptors: list[int], channel: tuple[int, int] | None) -> "Child":
        if _thread._count():  # else there is no thread of the import's that could have printed
            bootstrap.flush()
        try:
            kernel.unshare(kernel.NEW_PID)
            first = kernel.start_pause()
            try:
                pid = FORK()
            except OSError:
                KILL(first, _signal.SIGKILL)
                WAIT(first, 0)
                raise
            if pid == 0:
                self._be_born(descriptors, channel)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            kernel.setns(self._home, kernel.NEW_PID)
        return Child(number, pid, first)

    def _be_born(self, descriptors: list[int], channel: tuple[int, int] | None, end=kernel.end) -> None:
        """In the child: never returns. `channel` is where its task comes from and its result goes to; None
        where there is no task."""
        code = 1
        try:
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            try:
                self._confinement.put_on()
            except OSError as error:
                os.write(self._failure, f"{self._confinement.step}: {error.strerror}".encode())
                # Blocked as all signals are, and perhaps handled by what was imported.
                _signal.signal(UNCONFINED, _signal.SIG_DFL)
                _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (UNCONFINED,))
                KILL(os.getpid(), UNCONFINED)
                return  # whatever becomes of that: nothing runs here that is not confined
            if channel is not None:
                self._live(*channel)
            code = 0
        except SystemExit as error:
            code = _code(error)
        except BaseException:  # noqa: BLE001 - as an interpreter ends
            sys.excepthook(*sys.exc_info())
        finally:
            bootstrap.flush()
            end(code)

    def _live(self, tasks: int, results: int) -> None:
        channel = bootstrap.Channel(tasks, results)
        _signal.signal(_signal.SIGTERM, bootstrap.terminate)
        if self._on_child is not None:
            _signal.signal(_signal.SIGCHLD, self._on_child)
        if self._function is not None:
            channel.send(b"A", b"{}")
            bootstrap.answer(channel, *self._function)
        elif isinstance(self._error, SystemExit):
            raise self._error
        else:
            bootstrap.report_failure(channel, self._error)

    def _watch(self, child: "Child", pid: int) -> None:
        child.descriptor = os.pidfd_open(pid)
        self._by_descriptor[child.descriptor] = child
        self._epoll.register(child.descriptor, select.EPOLLIN)

    def _unwatch(self, child: "Child") -> None:
        # Closing alone would not do: first processes have copies of what was open when they were started.
        self._epoll.unregister(child.descriptor)
        del self._by_descriptor[child.descriptor]
        os.close(child.descriptor)


class Child:
    def __init__(self, number: int, pid: int, first: int) -> None:
        self.number = number
        self.pid = pid
        self.first = first
        """Of its pid namespace."""
        self.descriptor = -1
        self._status: int | None = None
        self._peak = 0

    def signal(self, number: int) -> None:
        if self._status is None:  # else it is no more, and its pid may be another's
            KILL(self.pid, number)

    def ended(self, parent: Parent) -> None:
        """The handler's process has ended, and then the first one, after all others."""
        parent._unwatch(self)
        if self._status is None:
            self._status, self._peak = kernel.wait(self.pid)
            KILL(self.first, _signal.SIGKILL)
            parent._watch(self, self.first)
            return
        WAIT(self.first, 0)
        del parent._children[self.number]
        if os.WIFSIGNALED(self._status) and os.WTERMSIG(self._status) == UNCONFINED:
            parent._tell(b"L", self.number, parent._why().encode())
        else:
            parent._tell(b"X", self.number, struct.pack("!II", self._status, self._peak))


def _enter() -> None:
    """Into the namespaces of the parent."""
    step = "making a user namespace"
    try:
        kernel.unshare(kernel.NEW_USER | kernel.NEW_MOUNTS | kernel.NEW_PID)
        kernel.map_user()
        step = "mounting"
        kernel.mount(b"none", b"/", None, kernel.RECURSIVE | kernel.PRIVATE)
    except OSError as error:
        raise Unconfined(f"{step}: {error.strerror}") from error


def _keep_only(control: _socket.socket) -> _socket.socket:
    """The one descriptor beside 0, 1 and 2, and out of the way."""
    os.dup2(control.fileno(), 3)
    control.detach()
    os.closerange(4, mayfly_confinement.MAX_DESCRIPTORS)
    return _socket.socket(fileno=3)


def _code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1
