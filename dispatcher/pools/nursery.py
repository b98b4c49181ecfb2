"""One container that forks a sandbox for each task, from its launch to its last child's end."""

import asyncio
import contextlib
import time
from typing import Final

import structlog

from dispatcher.output import DRAIN_SECONDS, cancel
from dispatcher.pools.lines import HEADER, BrokenRelay, Line, LineParser
from dispatcher.runtimes.base import Exit, Sandbox
from mayfly.errors import IsolationRefused, SandboxLost

log = structlog.get_logger(__name__)

UP_SECONDS: Final = 30.0
"""How long a container may take from its start until it says whether it can confine a child."""
IMPORT_SECONDS: Final = 30.0
"""A parent whose import takes longer gets no further children: it may hang."""
REASON_BYTES: Final = 4096


class Nursery:
    """The parent's container."""

    def __init__(self, sandbox: Sandbox, function: str) -> None:
        self.lines: dict[int, Line] = {}
        self.made = 0
        self.born = time.monotonic()
        self.retired = False
        """Gets no more children, and goes with its last one."""
        self.ended = False
        self._function = function
        self._sandbox = sandbox
        self._ready = False
        self._exit: Exit | None = None
        self._why = ""
        self._up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unsent = bytearray()
        self._to_send = asyncio.Event()
        self._said = bytearray()
        self._errors = asyncio.create_task(self._read_errors())
        self._speaking = asyncio.create_task(self._speak())
        self._tasks = [asyncio.create_task(self._listen()), self._speaking, self._errors]

    async def up(self) -> None:
        """Waits until children can be had. Raises `IsolationRefused` where this machine forbids them, and
        `SandboxLost`."""
        try:
            async with asyncio.timeout(UP_SECONDS):
                await asyncio.shield(self._up)
        except TimeoutError as error:
            raise SandboxLost(f"the parent of {self._function} does not start") from error

    @property
    def hangs(self) -> bool:
        return not self._ready and time.monotonic() - self.born > IMPORT_SECONDS

    def make(self) -> Line:
        """A child. Of a parent that has ended, it is one that has ended as well."""
        self.made += 1
        line = Line(self.made, self._say, f"{self._sandbox.name}/{self.made}")
        if self.ended:
            self._end_line(line)
        else:
            self.lines[self.made] = line
            self._say(b"S", self.made, b"")
        return line

    async def retire(self) -> None:
        """No more children. The container goes now, or with the last of those that it has."""
        self.retired = True
        if not self.lines:
            await self.remove()

    async def remove(self) -> None:
        """The container, with all children that it still has: they are lost."""
        self.retired = True
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                await cancel(task)
        self._end("its parent was removed", None)
        await self._sandbox.remove()

    # --- the relay

    def _say(self, kind: bytes, number: int, body: bytes) -> None:
        self._unsent += HEADER.pack(kind, number, len(body))
        self._unsent += body
        self._to_send.set()

    async def _speak(self) -> None:
        """One write for all that was said since the last one."""
        with contextlib.suppress(SandboxLost):  # of which the other direction tells
            while True:
                await self._to_send.wait()
                self._to_send.clear()
                data, self._unsent = bytes(self._unsent), bytearray()
                await self._sandbox.write(data)

    async def _listen(self) -> None:
        parser = LineParser()
        why, exit = "its parent was removed", None
        try:
            async for chunk in self._sandbox.stdout:
                for kind, number, body in parser.feed(chunk):
                    self._hear(kind, number, body)
                if self.retired and not self.lines:
                    break
            else:
                exit = await self._sandbox.wait()
                await asyncio.wait({self._errors}, timeout=DRAIN_SECONDS)
                why = f"its parent ended (exit code {exit.code}{', out of memory' * exit.oom_killed})"
        except SandboxLost as error:
            why = str(error)
        except BrokenRelay as error:
            why = f"its parent sent what makes no sense: {error}"
        if self._ready and self._said and not self.retired:
            log.warning("a parent of forks failed", function=self._function, why=why, said=self._text())
        self._end(why, exit)
        await cancel(self._speaking)
        await self._sandbox.remove()

    def _hear(self, kind: bytes, number: int, body: bytes) -> None:
        if kind == b"U":
            if not self._up.done():
                self._up.set_result(None)
        elif kind == b"R":
            self._ready = True
        elif kind == b"F":
            self._refuse(body.decode(errors="replace"))
        elif (line := self.lines.get(number)) is not None:
            line.hear(kind, body)
            if line.over:
                del self.lines[number]

    def _refuse(self, why: str) -> None:
        if not self._up.done():
            self._up.set_exception(IsolationRefused(refusal(why)))
            self._up.exception()  # whoever waited may be gone

    def _end(self, why: str, exit: Exit | None) -> None:
        if self.ended:
            return
        self.ended = True
        self._why = why
        # Before its import was over, that a process ends is the function's doing.
        if self._up.done() and not self._ready:
            self._exit = exit
        if not self._up.done():
            self._up.set_exception(SandboxLost(f"no sandbox for {self._function}: {why}; {self._text()}"))
            self._up.exception()
        for line in self.lines.values():
            self._end_line(line)
        self.lines.clear()

    def _end_line(self, line: Line) -> None:
        if self._exit is None:
            line.lose(self._why)
            return
        if self._said:
            line.stderr.put(bytes(self._said))
        line.end(self._exit)

    async def _read_errors(self) -> None:
        """What the relay itself says on stderr, which is nothing unless it fails."""
        async for chunk in self._sandbox.stderr:
            self._said += chunk[: REASON_BYTES - len(self._said)]

    def _text(self) -> str:
        return self._said.decode(errors="replace").strip()


def refusal(why: str) -> str:
    """What an operator is told where a container cannot fork sandboxes."""
    return (
        f'isolation = "fork" is not possible on this machine ({why}): it needs user namespaces and mounts '
        "inside a container, which AppArmor's docker-default profile or the kernel's limits (the sysctls "
        "user.max_user_namespaces, kernel.unprivileged_userns_clone and "
        "kernel.apparmor_restrict_unprivileged_userns) may forbid; "
        "set isolation to container or warm, or see docs/isolation.md"
    )
