"""The dispatcher's side of its keeper: starts it, hands it sandboxes, hears how they end."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import Final

from dispatcher.runtimes.base import Exit
from dispatcher.runtimes.keeper import REASON_CHARS, Folder, Told
from dispatcher.runtimes.program import Program
from mayfly.errors import SandboxLost

AT_ONCE: Final = 64
"""Starts that a keeper is given at once: each is some files in a socket's buffer."""
DEAD: Final = "the keeper of the sandboxes died"
END_SECONDS: Final = 30.0
MESSAGE_BYTES: Final = 4 * REASON_CHARS + 1000


class Container:
    """One container's process. `exit` is how it ended, or `SandboxLost`."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.exit: asyncio.Future[Exit] = loop.create_future()
        self._process = -1
        self._unwanted = False

    @property
    def ended(self) -> bool:
        return self.exit.done()

    def kill(self, number: int) -> None:
        if self._process >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, number)

    def discard(self) -> None:
        """Kill it, as soon as it is there to be killed."""
        self._unwanted = True
        self.kill(signal.SIGKILL)

    # --- called by the launcher

    def start(self, process: int | None) -> None:
        self._process = -1 if process is None else process
        if not self.started.done():
            self.started.set_result(None)
        if self._unwanted:
            self.kill(signal.SIGKILL)

    def fail(self, error: SandboxLost) -> None:
        for future in (self.started, self.exit):
            if not future.done():
                future.set_exception(error)
                # Told to whoever asks; nobody has to.
                future.exception()
        self._close()

    def end(self, exit: Exit) -> None:
        if not self.exit.done():
            self.exit.set_result(exit)
        self._close()

    def _close(self) -> None:
        if self._process >= 0:
            os.close(self._process)
            self._process = -1


class Launcher:
    """One keeper. All of it runs on the event loop."""

    def __init__(self, program: Program, folder: Folder, group: str) -> None:
        self._program = program
        self._folder = folder
        self._group = group
        self._containers: dict[str, Container] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._connection: socket.socket | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._connection is not None

    def start(self) -> None:
        """Raises `OSError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptor = theirs.fileno()
            command = [sys.executable, "-P", "-m", "dispatcher.runtimes.keeper", str(descriptor)]
            command += [
                self._folder.path,
                self._group,
                "hide" if self._program.hide else "",
                *self._program.command,
            ]
            try:
                self._keeper = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[descriptor], start_new_session=True
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._connection = ours
        asyncio.get_running_loop().add_reader(ours, self._hear)

    async def launch(
        self, name: str, config: bytes, pipes: tuple[int, int, int], container: Container
    ) -> None:
        """Start a container of this configuration. Raises `SandboxLost`; if cancelled, it is discarded."""
        try:
            async with self._room:
                if self._connection is None:
                    raise SandboxLost(DEAD)
                try:
                    # To memory, under /run: nothing there makes the event loop wait.
                    self._folder.write(name, config)
                    socket.send_fds(self._connection, [name.encode()], pipes)
                except OSError as error:
                    self._folder.forget(name)
                    raise SandboxLost(str(error)) from error
                self._containers[name] = container
                self._empty.clear()
                await asyncio.shield(container.started)
        except asyncio.CancelledError:
            container.discard()
            raise

    def discard_all(self) -> None:
        for container in self._containers.values():
            container.discard()

    async def empty(self) -> None:
        """Waits until all of its containers have ended."""
        await self._empty.wait()

    async def close(self) -> None:
        """Ends the keeper, and with it whatever it still keeps."""
        self._disconnect()
        if self._keeper is not None:
            try:
                await asyncio.to_thread(self._keeper.wait, END_SECONDS)
            except subprocess.TimeoutExpired:
                self._keeper.kill()
                await asyncio.to_thread(self._keeper.wait)
            self._keeper = None

    def _hear(self) -> None:
        while self._connection is not None:
            try:
                data, processes, _, _ = socket.recv_fds(self._connection, MESSAGE_BYTES, 1)
            except BlockingIOError:
                return
            except OSError:
                data, processes = b"", []
            if not data:
                self._disconnect()
                return
            self._told(Told.decode(data), processes[0] if processes else None)

    def _told(self, told: Told, process: int | None) -> None:
        container = self._containers[told.name]
        if told.code is not None:
            container.end(Exit(told.code, told.oom_killed))
        elif told.failure is not None:
            container.fail(SandboxLost(told.failure))
        else:
            container.start(process)
        if container.ended:
            del self._containers[told.name]
            if not self._containers:
                self._empty.set()

    def _disconnect(self) -> None:
        if self._connection is None:
            return
        asyncio.get_running_loop().remove_reader(self._connection)
        self._connection.close()
        self._connection = None
        for container in self._containers.values():
            container.fail(SandboxLost(DEAD))
        self._containers.clear()
        self._empty.set()
