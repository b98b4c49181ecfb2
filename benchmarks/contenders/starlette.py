"""Bare Starlette: the gateway's server and settings, one process, a handler that reads the POST and answers
202 with the same body as the gateway. Nothing is checked, nothing is kept."""

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.contenders.base import Contender, Measured, Unavailable

if TYPE_CHECKING:
    from benchmarks.arena import Arena

BODY: Final = '{"taskType":"bench-parked","payload":{"n":1}}'
ANSWER: Final = b'{"taskId":"01a20da0-db56-7441-b1cd-87cf5d7b79f9","status":"QUEUED"}'


async def accept(request: Request) -> Response:
    await request.body()
    return Response(ANSWER, 202, media_type="application/json")


app = Starlette(routes=[Route("/tasks", accept, methods=["POST"])])


class BarePost(Contender):
    name = "bare_post"
    at_once = 1

    def __init__(self, arena: "Arena") -> None:
        self._arena = arena

    def run(self, seconds: float) -> Measured:
        port = self._arena.port("bare")
        command = [sys.executable, "-m", "benchmarks.contenders.starlette", str(port)]
        with self._arena.program("bare-post", command, listens=port):
            measured, _ = load(f"http://127.0.0.1:{port}", seconds)
        return measured


def load(url: str, seconds: float) -> tuple[Measured, int]:
    """POSTs as fast as they are answered, by a process of its own, and how many it made in all."""
    command = [sys.executable, "-m", "benchmarks.posting", url, BODY, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(done.stderr.strip().rpartition("\n")[2])
    seen = json.loads(done.stdout)
    measured = Measured(seen["accepted"], seen["seconds"], client_cpu=seen["cpu"])
    return measured, seen["accepted"] + seen["warmUp"]


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", ws="none", access_log=False,
        log_level="warning", server_header=False, proxy_headers=False,
    )  # fmt: skip
