"""The client that makes the load of `make bench`."""

import socket
import threading
from collections.abc import Iterator
from itertools import repeat

import pytest

from benchmarks.posting import Connection, post_for, request

ANSWER = b'HTTP/1.1 202 Accepted\r\nContent-Length: 13\r\ncontent-type: application/json\r\n\r\n{"taskId":"1"'


class Server:
    """Answers each request with the same bytes, in pieces."""

    def __init__(self, answer: bytes) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                self.requests.append(data)
                for at in range(0, len(self._answer), 30):
                    connection.sendall(self._answer[at : at + 30])

    def close(self) -> None:
        # What waits in accept is only let go by this.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[type[Server]]:
    servers: list[Server] = []

    class Started(Server):
        def __init__(self, answer: bytes) -> None:
            super().__init__(answer)
            servers.append(self)

    yield Started
    for server in servers:
        server.close()


def test_an_answer_is_read_whole_however_it_was_cut(serve: type[Server]) -> None:
    server = serve(ANSWER)
    connection = Connection(server.url)
    assert connection.exchange(request(server.url, "GET", "/x")) == (202, b'{"taskId":"1"')
    connection.close()


def test_each_connection_posts_until_the_time_is_over(serve: type[Server]) -> None:
    server = serve(ANSWER)
    connections = [Connection(server.url) for _ in range(3)]
    sent = request(server.url, "POST", "/tasks", b"{}")
    assert post_for(connections, repeat(sent), 0) == 3
    assert server.requests == [sent] * 3
    posted = post_for(connections, repeat(sent), 0.1)
    assert posted > 3
    assert server.requests == [sent] * (3 + posted)
    for connection in connections:
        connection.close()


def test_a_post_that_was_refused_is_told_with_what_was_answered(serve: type[Server]) -> None:
    server = serve(b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nlater")
    connection = Connection(server.url)
    with pytest.raises(RuntimeError, match="503: late"):
        post_for([connection], repeat(b"POST"), 0)
    connection.close()
