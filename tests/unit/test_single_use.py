"""How a container that is used once is given up."""

import asyncio

import pytest
from sandbox_streams import stream

from dispatcher.frames import frame
from dispatcher.pools import single_use
from dispatcher.pools.single_use import Once
from dispatcher.runtimes.base import Exit
from dispatcher.runtimes.streams import Stream
from mayfly.errors import SandboxLost

MARK = b"\0mark\n"
ANSWER = frame("R", b"{}") + frame("B", b"1")


def ended(chunk: bytes) -> Stream:
    found = stream()
    found.put(chunk)
    found.end()
    return found


class Sandbox:
    """Notes what is asked of it. `end` is how its process ends; None: it does not."""

    name = "one"

    def __init__(self, out: bytes, err: bytes, end: Exit | SandboxLost | None) -> None:
        self.stdout, self.stderr = ended(out), ended(err)
        self.asked: list[str] = []
        self._end = end

    async def write(self, data: bytes) -> None: ...
    async def kill(self, signal: str = "SIGKILL") -> None: ...

    async def close_stdin(self) -> None:
        self.asked.append("close_stdin")

    async def wait(self) -> Exit:
        self.asked.append("wait")
        if self._end is None:
            await asyncio.Event().wait()
        if isinstance(self._end, SandboxLost):
            raise self._end
        return self._end or Exit(0, oom_killed=False)

    async def remove(self) -> None:
        self.asked.append("remove")


async def given_up(sandbox: Sandbox) -> list[str]:
    """What was asked of it, once what there is of its task has been read."""
    once = Once(sandbox, MARK)
    for out in (once.stdout, once.stderr):
        async for _ in out:
            pass
    async with asyncio.timeout(30):
        await once.remove()
    return sandbox.asked


@pytest.mark.parametrize("end", [Exit(0, oom_killed=False), SandboxLost("the engine went away")])
async def test_one_whose_task_is_over_is_let_end_before_it_is_removed(end):
    assert await given_up(Sandbox(ANSWER, b"log" + MARK, end)) == ["close_stdin", "wait", "remove"]


async def test_one_that_does_not_end_is_removed_nevertheless(monkeypatch):
    monkeypatch.setattr(single_use, "END_SECONDS", 0.01)
    assert await given_up(Sandbox(ANSWER, MARK, None)) == ["close_stdin", "wait", "remove"]


@pytest.mark.parametrize(("out", "err"), [(b"", b""), (ANSWER, b"log"), (frame("R", b"{}"), MARK)])
async def test_one_whose_task_is_not_over_is_removed_at_once(out, err):
    assert await given_up(Sandbox(out, err, None)) == ["remove"]
