"""Clients that are slow, silent or too many, against a gateway as it runs, over raw sockets."""

import asyncio
import json
import select
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest
from gateway_process import PATIENCE, Process, StartGateway, finish, queue, until

from gateway.bodies import BODY_SECONDS
from gateway.connections import BODY_LATE_SECONDS, HEAD_BYTES, HEAD_SECONDS, WRITE_SECONDS
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.events import Claimed
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.task import Lane, new_task_id
from mayfly.view import claimed

GET = b"GET %s HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
POST = b"POST /tasks HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
DRIP_SECONDS = 1.0
MARGIN = 60.0
"""A slow machine may take its time; what is tested is that it ends at all."""


class Client:
    """A socket that holds little, so that what is not read stays with the gateway."""

    def __init__(self, process: Process) -> None:
        address = urlsplit(process.url)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect((address.hostname, address.port))
        self.socket.settimeout(PATIENCE)
        self._began = time.monotonic()

    def send(self, data: bytes) -> "Client":
        self.socket.sendall(data)
        return self

    def ended(self) -> float:
        """Seconds until the gateway cut the connection, without reading from it."""
        poll = select.poll()
        poll.register(self.socket, 0)
        assert poll.poll(1000 * (WRITE_SECONDS + MARGIN)), "it is still open"
        return time.monotonic() - self._began

    def read_to_end(self, drip: bytes = b"") -> tuple[float, bytes]:
        """Seconds until the connection was closed, and what came, while a byte is sent now and then."""
        data = b""
        self.socket.settimeout(DRIP_SECONDS)
        deadline = time.monotonic() + BODY_LATE_SECONDS + MARGIN
        with suppress(ConnectionError):
            while time.monotonic() < deadline:
                with suppress(TimeoutError):
                    more = self.socket.recv(65536)
                    data += more
                    if not more:
                        break
                if drip:
                    self.socket.sendall(drip)
        assert time.monotonic() < deadline, "it is still open"
        return time.monotonic() - self._began, data

    def close(self) -> None:
        self.socket.close()


@pytest.mark.timeout(300)
async def test_no_client_holds_a_connection_by_being_slow(
    start_gateway: StartGateway, settings: Settings, function: Function
) -> None:
    process = start_gateway()
    read_model = ReadModel(settings)
    async with process.client() as http:
        await until(http, "/readyz", 200)
        result = await a_large_result(read_model, settings)
        stream = await a_talkative_task(read_model, settings)
        clients = {
            "silent": Client(process),
            "a byte of a head now and then": Client(process).send(b"GET / HTTP/1.1\r\nx: "),
            "silent after an answer": Client(process).send(GET % b"/healthz"),
            "a slow body": Client(process).send(POST + b"content-length: 100\r\n\r\n"),
            "a body that nobody reads": Client(process).send(
                POST.replace(b"/tasks", b"/healthz") + b"content-length: 100\r\n\r\n"
            ),
            "a result that is not taken": Client(process).send(GET % result),
            "a stream that nobody reads": Client(process).send(GET % stream),
        }
        try:
            found = await asyncio.gather(
                *(asyncio.to_thread(watched, what, client) for what, client in clients.items()), serving(http)
            )
        finally:
            for client in clients.values():
                client.close()
        seconds = dict(zip(clients, (one[0] for one in found), strict=False))
        answers = dict(zip(clients, (one[1] for one in found), strict=False))
        assert seconds["silent"] >= HEAD_SECONDS - 1
        assert answers["silent after an answer"].startswith(b"HTTP/1.1 200")
        assert answers["a slow body"].startswith(b"HTTP/1.1 408")
        assert b'"code":"body_too_slow"' in answers["a slow body"]
        assert seconds["a slow body"] >= BODY_SECONDS - 1
        assert seconds["a result that is not taken"] >= WRITE_SECONDS - 1
        body = {"taskType": function.name, "payload": {}}
        assert (await http.post("/tasks", json=body)).status_code == 202
    await read_model.close()
    assert process.end() == 0


def watched(what: str, client: Client) -> tuple[float, bytes]:
    try:
        if "taken" in what or "stream" in what:
            return client.ended(), b""
        return client.read_to_end(b"" if "silent" in what else b"x")
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error


async def serving(http: httpx.AsyncClient) -> tuple[float, bytes]:
    """Meanwhile others are served."""
    worst = 0.0
    for _ in range(30):
        began = time.monotonic()
        assert (await http.get("/healthz")).status_code == 200
        worst = max(worst, time.monotonic() - began)
        await asyncio.sleep(0.5)
    return worst, b""


async def a_large_result(read_model: ReadModel, settings: Settings) -> bytes:
    task_id, data = new_task_id(), b"x" * 32_000_000
    await Blobs(settings).put(f"results/{task_id}/1-5", data, "image/png")
    await finish(read_model, settings, task_id, size=len(data))
    return f"/tasks/{task_id}/result".encode()


async def a_talkative_task(read_model: ReadModel, settings: Settings) -> bytes:
    task_id = new_task_id()
    await queue(read_model, settings, task_id)
    event = Claimed(task_id, Lane.NORMAL, 0, 1, "d", "n")
    await read_model.project([], [claimed(event, partition=0, offset=5, at=int(time.time() * 1000))])
    for _ in range(200):
        await read_model.append_log(task_id, 5, "y" * 100_000)
    return f"/tasks/{task_id}/events".encode()


async def test_a_large_head_is_refused_and_the_next_request_served(start_gateway: StartGateway) -> None:
    process = start_gateway()
    async with process.client() as http:
        await until(http, "/healthz", 200)
        for head in (b"x: " + b"y" * HEAD_BYTES, b"x: y\r\n" * HEAD_BYTES):
            client = Client(process).send(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n")
            with suppress(ConnectionError):
                client.send(head + b"\r\n\r\n")
            _, answer = await asyncio.to_thread(client.read_to_end)
            # Who is still sending may find the connection closed before the answer is read.
            assert answer == b"" or answer.startswith(b"HTTP/1.1 431"), answer[:200]
            client.close()
        assert (await http.get("/healthz")).status_code == 200


async def test_beyond_its_connections_it_answers_for_its_health(
    start_gateway: StartGateway, settings: Settings, function: Function
) -> None:
    process = start_gateway(MAYFLY_MAX_CONNECTIONS="20")
    read_model = ReadModel(settings)
    async with process.client() as http:
        await until(http, "/readyz", 200)
        stream = await a_talkative_task(read_model, settings)
    # Many that say nothing: those that come later make room for themselves.
    silent = [Client(process) for _ in range(60)]
    assert asked(process, b"/healthz").startswith(b"HTTP/1.1 200")
    # As many as may be, and all at work.
    busy = []
    for _ in range(20):
        client = Client(process).send(GET % stream)
        assert client.socket.recv(1000).startswith(b"HTTP/1.1 200")
        busy.append(client)
    for path in (b"/healthz", b"/readyz"):
        assert asked(process, path).startswith(b"HTTP/1.1 200")
    refused = asked(process, b"/tasks")
    assert refused.startswith(b"HTTP/1.1 503")
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["code"] == "overloaded"
    for client in (*silent, *busy):
        client.close()
    async with process.client() as http:
        await until(http, "/tasks", 200)
    await read_model.close()


def asked(process: Process, path: bytes) -> bytes:
    """The answer, which is an object in JSON."""
    client, data = Client(process).send(GET % path), b""
    while not data.endswith(b"}"):
        more = client.socket.recv(65536)
        assert more, data
        data += more
    client.close()
    return data


async def test_the_global_ceiling_is_one_for_all_who_post(
    start_gateway: StartGateway, function: Function
) -> None:
    async with start_gateway(MAYFLY_MAX_WAITING_TASKS="1").client() as http:
        await until(http, "/readyz", 200)
        body = {"taskType": function.name, "payload": {}}
        deadline = time.monotonic() + PATIENCE
        while (answer := await http.post("/tasks", json=body)).status_code == 202:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        assert (await http.get("/readyz")).status_code == 200
