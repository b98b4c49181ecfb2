"""The requests to an engine, against one that is scripted."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dispatcher.runtimes.attach import STDOUT
from dispatcher.runtimes.base import Exit
from dispatcher.runtimes.containers import Containers, Gone, ImageMissing
from dispatcher.runtimes.engine_http import EngineHttp
from mayfly.errors import SandboxesUnavailable, SandboxLost

PATIENCE = 30.0
NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"

Script = Callable[["Call"], Awaitable[None]]


class Call:
    """A request that came, and the connection that it came on: the `number`th."""

    def __init__(self, number: int, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.number, self.head, self.body = number, head, body
        self.writer = writer

    def answer(self, status: int, body: str) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body.encode())


class Engine:
    """Does with each request what its script says. `left` is set once the client has closed a connection."""

    def __init__(self, path: Path, script: Script) -> None:
        self.path, self._script = path, script
        self.calls: list[Call] = []
        self.connections = 0
        self.came, self.left = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.partition("Content-Length: ")[2].split("\r\n")[0])
                call = Call(number, head, await reader.readexactly(length), writer)
                self.calls.append(call)
                self.came.set()
                await self._script(call)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def engine(path: Path, script: Script) -> AsyncIterator[Engine]:
    made = Engine(path / "engine.sock", script)
    server = await asyncio.start_unix_server(made.serve, made.path)
    yield made
    server.close()


def client(made: Engine, seconds: float = PATIENCE) -> EngineHttp:
    return EngineHttp(str(made.path), "1.41", seconds)


async def nothing(call: Call) -> None:
    call.writer.write(NOTHING)


async def silence(_: Call) -> None: ...


async def test_a_request_says_what_it_is_and_the_next_one_has_its_connection(tmp_path):
    async with engine(tmp_path, nothing) as made:
        http = client(made)
        await Containers(http).create("one", {"Image": "of"})
        await Containers(http).kill("one", "SIGTERM")
        http.close()
    first, second = made.calls
    assert first.head.startswith("POST /v1.41/containers/create?name=one HTTP/1.1\r\nHost: localhost\r\n")
    assert first.body == b'{"Image":"of"}'
    assert second.head.startswith("POST /v1.41/containers/one/kill?signal=SIGTERM HTTP/1.1\r\n")
    assert made.connections == 1


async def test_requests_at_once_have_connections_of_their_own(tmp_path):
    both = asyncio.Event()

    async def script(call: Call) -> None:
        if call.number == 2:
            both.set()
        await both.wait()
        call.writer.write(NOTHING)

    async with engine(tmp_path, script) as made, asyncio.timeout(PATIENCE):
        http = client(made)
        await asyncio.gather(http.ask("POST", "/a"), http.ask("POST", "/b"))
        http.close()


@pytest.mark.parametrize("asked", [False, True], ids=["while it was idle", "as the next request came"])
async def test_a_connection_that_the_engine_closed_is_another_one_next_time(tmp_path, asked):
    async def script(call: Call) -> None:
        if call.number == 1 and len(made.calls) == 2:
            call.writer.close()
            return
        call.writer.write(NOTHING)
        if call.number == 1 and not asked:
            call.writer.close()

    async with engine(tmp_path, script) as made, asyncio.timeout(PATIENCE):
        http = client(made)
        for _ in range(2):
            assert (await http.ask("POST", "/x")).status == 204
        http.close()
    assert made.connections == 2


async def test_an_engine_that_asks_for_it_gets_a_new_connection_each_time(tmp_path):
    async def script(call: Call) -> None:
        call.writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    async with engine(tmp_path, script) as made:
        http = client(made)
        for _ in range(2):
            await http.ask("POST", "/x")
    assert made.connections == 2


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
async def test_an_answer_that_is_cut_is_a_sandbox_lost(tmp_path, said):
    async def script(call: Call) -> None:
        call.writer.write(said)
        call.writer.close()

    async with engine(tmp_path, script) as made, asyncio.timeout(PATIENCE):
        with pytest.raises(SandboxLost, match="the engine ended the connection"):
            await Containers(client(made)).start("one")


async def test_what_is_no_answer_is_a_sandbox_lost(tmp_path):
    async def script(call: Call) -> None:
        call.writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    async with engine(tmp_path, script) as made, asyncio.timeout(PATIENCE):
        with pytest.raises(SandboxLost, match="no HTTP"):
            await Containers(client(made)).start("one")
        await made.left.wait()


async def test_an_engine_that_does_not_answer_is_given_up_in_time(tmp_path):
    async with engine(tmp_path, silence) as made, asyncio.timeout(PATIENCE):
        with pytest.raises(SandboxLost, match=r"the engine has not answered within 0\.05 s"):
            await Containers(client(made, 0.05)).start("one")
        await made.left.wait()


async def test_no_engine_is_a_sandbox_lost(tmp_path):
    with pytest.raises(SandboxLost, match="No such file"):
        await Containers(EngineHttp(str(tmp_path / "none.sock"), "1.41", PATIENCE)).start("one")


async def test_a_request_that_is_cancelled_gives_its_connection_up(tmp_path):
    async with engine(tmp_path, silence) as made, asyncio.timeout(PATIENCE):
        http = client(made)
        asking = asyncio.create_task(http.ask("POST", "/x"))
        await made.came.wait()
        asking.cancel()
        await made.left.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_containers_streams_are_handed_over_with_what_has_come_of_them(tmp_path):
    async def script(call: Call) -> None:
        if "/attach?" in call.head:
            assert "Upgrade: tcp\r\n" in call.head
            call.writer.write(UPGRADED + bytes([STDOUT, 0, 0, 0, 0, 0, 0, 5]) + b"hello")

    async with engine(tmp_path, script) as made, asyncio.timeout(PATIENCE):
        http = client(made)
        attachment = await Containers(http).attach("one")
        assert await anext(attachment.stdout) == b"hello"
        attachment.close()
        await made.left.wait()
        http.close()


async def test_an_engine_that_keeps_a_containers_streams_is_a_sandbox_lost(tmp_path):
    async with engine(tmp_path, nothing) as made:
        http = client(made)
        with pytest.raises(SandboxLost, match="did not hand the container's streams over"):
            await Containers(http).attach("one")
        http.close()


async def test_a_connection_that_nobody_asked_for_is_refused(tmp_path):
    async def script(call: Call) -> None:
        call.writer.write(UPGRADED)

    async with engine(tmp_path, script) as made, asyncio.timeout(PATIENCE):
        with pytest.raises(ValueError, match="nobody asked for"):
            await client(made).ask("POST", "/x")
        await made.left.wait()


@pytest.mark.parametrize(
    ("status", "said", "meant"),
    [
        (404, '{"message": "No such image: mayfly/fn-x:1"}', ImageMissing),
        (404, '{"message": "network mayfly-egress not found"}', Gone),
        (409, '{"message": "container one is not running"}', Gone),
        (500, '{"message": "mkdir: No space left on device"}', SandboxesUnavailable),
        (400, '{"message": "Minimum memory limit allowed is 6MB"}', SandboxLost),
        (502, "<html>a proxy's</html>", SandboxLost),
        (503, "", SandboxLost),
    ],
)
async def test_what_an_engine_refuses_is_told_in_its_own_words(tmp_path, status, said, meant):
    async def script(call: Call) -> None:
        call.answer(status, said)

    async with engine(tmp_path, script) as made:
        http = client(made)
        with pytest.raises(SandboxLost) as caught:
            await Containers(http).create("one", {})
        http.close()
    assert type(caught.value) is meant or (meant is Gone and isinstance(caught.value, Gone))
    words = said.removeprefix('{"message": "').removesuffix('"}') or "the engine answered 503"
    assert words in str(caught.value)


async def test_what_is_gone_already_is_removed_and_what_is_being_removed_is_asked_for_again(tmp_path):
    async def script(call: Call) -> None:
        call.answer(404 if "gone" in call.head else 409, '{"message": "removal is in progress"}')

    async with engine(tmp_path, script) as made:
        http = client(made)
        await Containers(http).remove("gone")
        with pytest.raises(Gone):
            await Containers(http).remove("going")
        http.close()


async def test_an_exit_code_that_is_none_is_a_sandbox_lost(tmp_path):
    async def script(call: Call) -> None:
        call.answer(200, "{}")

    async with engine(tmp_path, script) as made:
        http = client(made)
        with pytest.raises(SandboxLost, match="StatusCode"):
            await Containers(http).exit("one")
        http.close()


@pytest.mark.parametrize("status", ["removing", "dead"])
async def test_a_container_that_somebody_removes_has_no_exit_code(tmp_path, status):
    async def script(call: Call) -> None:
        state = json.dumps({"State": {"Status": status, "OOMKilled": False}})
        call.answer(200, '{"StatusCode": 137}' if "/wait " in call.head else state)

    async with engine(tmp_path, script) as made:
        http = client(made)
        with pytest.raises(SandboxLost, match="removed from outside"):
            await Containers(http).exit("one")
        http.close()


async def test_an_exit_code_is_asked_for_on_a_connection_that_is_new(tmp_path):
    """An engine that is being stopped has no new one, and its exit codes say nothing of a function."""

    async def script(call: Call) -> None:
        if "/start " in call.head:
            call.writer.write(NOTHING)
        elif "/wait " in call.head:
            call.answer(200, '{"StatusCode": 3}')
        else:
            call.answer(200, '{"State": {"Status": "exited", "OOMKilled": true}}')

    async with engine(tmp_path, script) as made:
        http = client(made)
        await Containers(http).start("one")
        assert await Containers(http).exit("one") == Exit(3, oom_killed=True)
        http.close()
    assert [call.number for call in made.calls] == [1, 2, 2]
