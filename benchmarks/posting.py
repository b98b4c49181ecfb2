"""HTTP as cheap as Python has it: requests that were made before, over connections that are kept.

One request at a time on each connection. As a program, it is the load of `post_per_s` and `bare_post_per_s`:
a process of its own, which says how much of a core it used itself.
"""

import argparse
import json
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Final
from urllib.parse import urlsplit

CONNECTIONS: Final = 256
"""So many requests are under way. With a quarter of them the gateway's core is idle for a fifth of the
time, in which all of them wait for Kafka or for Redis; Starlette alone waits for nobody."""
LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ACCEPTED: Final = 202
WARM_UP: Final = 0.5
"""Seconds before the clock starts."""
REST: Final = 2.0
"""Seconds without use after which a connection is opened anew: uvicorn closes it after five."""


def request(url: str, method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection:
    """Opened when it is used, and opened again after a rest: servers close what nobody uses."""

    def __init__(self, url: str) -> None:
        self.url = url
        address = urlsplit(url)
        self._address = (address.hostname or "", address.port or 80)
        self._socket: socket.socket | None = None
        self._used = 0.0

    def open(self) -> int:
        """Sees that it can be used: its file descriptor."""
        if self._socket is None or time.monotonic() - self._used > REST:
            self.close()
            self._socket = socket.create_connection(self._address, timeout=90)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used = time.monotonic()
        return self._socket.fileno()

    def send(self, sent: bytes) -> None:
        """Once it is open."""
        assert self._socket is not None
        self._socket.sendall(sent)

    def receive(self) -> tuple[int, bytes]:
        """The answer's status and body. Raises `ConnectionError` where it breaks off."""
        data = self._more()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        found = LENGTH.search(data, 0, end)
        size = int(found[1]) if found else 0
        while len(data) < end + 4 + size:
            data += self._more()
        return int(data[9:12]), data[end + 4 :]

    def exchange(self, sent: bytes) -> tuple[int, bytes]:
        self.open()
        self.send(sent)
        return self.receive()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _more(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data


def post_for(connections: Sequence[Connection], requests: Iterator[bytes], seconds: float) -> int:
    """Posts for so long, each connection its next as soon as it has its answer: how many were accepted.
    Raises `RuntimeError` for one that was not."""
    end = time.monotonic() + seconds
    by_number = {connection.open(): connection for connection in connections}
    sent = answered = 0
    with select.epoll() as poll:
        for number, connection in by_number.items():
            poll.register(number, select.EPOLLIN)
            connection.send(next(requests))
            sent += 1
        while answered < sent:
            for number, _ in poll.poll():
                status, body = by_number[number].receive()
                if status != ACCEPTED:
                    raise RuntimeError(f"a POST was answered {status}: {body[:300].decode(errors='replace')}")
                answered += 1
                if time.monotonic() < end:
                    by_number[number].send(next(requests))
                    sent += 1
    return answered


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.posting", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("body", help="what each POST to /tasks holds")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help=f"({CONNECTIONS})")
    options = parser.parse_args()
    connections = [Connection(options.url) for _ in range(options.connections)]
    requests = cycle([request(options.url, "POST", "/tasks", options.body.encode())])
    warm_up = post_for(connections, requests, WARM_UP)
    began, used = time.monotonic(), time.process_time()
    accepted = post_for(connections, requests, options.seconds)
    seconds = time.monotonic() - began
    cpu = (time.process_time() - used) / seconds
    print(json.dumps({"warmUp": warm_up, "accepted": accepted, "seconds": seconds, "cpu": cpu}))


if __name__ == "__main__":
    main()
