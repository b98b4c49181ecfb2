"""A small HTTP server that gives the answers a test wrote down, and keeps the requests that it got."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

import pytest
from typer.testing import CliRunner, Result

from mayfly.cli.app import app

LOST = 0
"""In place of a status: there is no answer."""
TASK_ID = "01939c1a-0000-7000-8000-000000000001"


class Got(NamedTuple):
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Mayfly = Callable[..., Result]


def command(gateway: "ScriptedGateway", folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mayfly:
    """The command in an empty folder, with the scripted gateway in MAYFLY_URL."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MAYFLY_URL", gateway.url)
    monkeypatch.setenv("MAYFLY_CONFIG", str(folder / "config.toml"))
    for name in ("MAYFLY_API_KEY", "MAYFLY_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, args, input=input, catch_exceptions=False, prog_name="mayfly")

    return run


@dataclass
class ScriptedGateway:
    """Answers `METHOD path` with what `answer` queued for it; the last of them is given again and again."""

    requests: list[Got] = field(default_factory=list)
    _answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def answer(self, call: str, body: Any = b"", status: int = 200, **headers: str) -> None:
        """`body` is bytes, or what is sent as JSON. Underscores in a header's name stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if not isinstance(body, bytes):
            body, named = json.dumps(body).encode(), {"content-type": "application/json"} | named
        self._answers[call].append((status, named, body))

    def stream(self, call: str, *events: tuple[str, Any], cut: bool = False) -> None:
        """Server-sent events: each a name and its data, with ids from 1. `cut` breaks the connection after
        them, in the middle of the answer; else the answer ends in order."""
        body = "".join(
            f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
            for number, (name, data) in enumerate(events, start=1)
        )
        headers = {"content_type": "text/event-stream"} | ({"content_length": "1000000"} if cut else {})
        self.answer(call, body.encode(), **headers)

    def lose(self, call: str) -> None:
        """Takes the request, and breaks the connection without an answer."""
        self._answers[call].append((LOST, {}, b""))

    def refuse(self, call: str, status: int, code: str, detail: str, **rest: Any) -> None:
        """A problem document; `retry_after` becomes the header."""
        headers = {"content_type": "application/problem+json"}
        if "retry_after" in rest:
            headers["retry_after"] = rest.pop("retry_after")
        problem = {"type": f"https://mayfly.invalid/{code}", "status": status, "code": code, "detail": detail}
        self.answer(call, problem | rest, status, **headers)

    def task(self, status: str, **rest: Any) -> dict[str, Any]:
        return {"taskId": TASK_ID, "taskType": "echo", "status": status, **rest}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                script.requests.append(Got(self.command, url.path, parse_qsl(url.query), headers, body))
                answers = script._answers[f"{self.command} {url.path}"]
                status, named, content = (
                    (answers.pop(0) if len(answers) > 1 else answers[0])
                    if answers
                    else (599, {}, b"no script")
                )
                if status == LOST:
                    self.close_connection = True
                    return
                self.send_response(status)
                length = str(len(content))
                for name, value in ({"content-length": length} | named).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = named.get("content-length", length) != length

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
