"""`python -m mayfly.healthcheck`: what a container's engine asks."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from mayfly import healthcheck


class Handler(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        body = f"{self.path} is {self.status}".encode()
        self.send_response(self.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAYFLY_ADDRESS_FILE", str(tmp_path / "address"))
    return tmp_path / "address"


@pytest.fixture
def service(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    monkeypatch.setattr(Handler, "status", 200)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        file.write_text(f"http://0.0.0.0:{server.server_port}\n")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Handler
        server.shutdown()
        thread.join()


def test_a_service_that_answers_is_healthy_whatever_address_it_listens_on(service, capsys):
    assert healthcheck.main() == 0
    assert capsys.readouterr().out == "/healthz is 200\n"


def test_one_that_says_it_does_no_work_is_not(service, monkeypatch, capsys):
    monkeypatch.setattr(service, "status", 503)
    assert healthcheck.main() == 1
    assert "503" in capsys.readouterr().out


def test_one_that_does_not_listen_yet_or_any_more_is_not(file, capsys):
    assert healthcheck.main() == 1
    assert "nobody answers: " in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as gone:
        file.write_text(f"http://127.0.0.1:{gone.getsockname()[1]}")
    assert healthcheck.main() == 1
    file.write_text("http://127.0.0.1:none")
    assert healthcheck.main() == 1


def test_without_the_variable_nothing_is_known(monkeypatch):
    monkeypatch.delenv("MAYFLY_ADDRESS_FILE", raising=False)
    assert healthcheck.main() == 1
