"""A container's life, as requests to the Docker Engine: API reference, "Containers".

Whatever goes wrong is a `SandboxLost` with the engine's own words.
"""

import contextlib
import time
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from dispatcher.runtimes.attach import Attachment
from dispatcher.runtimes.base import Exit, is_full
from dispatcher.runtimes.engine_http import Answer, EngineHttp
from mayfly.errors import SandboxesUnavailable, SandboxLost

T = TypeVar("T")

ATTACH: Final = "attach?stream=1&stdin=1&stdout=1&stderr=1"
IMAGE_MISSING: Final = ("no such image", "was found but does not match the specified platform")
"""What an engine says of an image that it lacks: a network that it lacks has the same status."""
KILLED: Final = 137
"""The code of a process that SIGKILL has ended."""
OOM_SECONDS: Final = 1.0
"""How much later than its end an engine may hear of what a container was killed for, on a busy machine."""


class Gone(SandboxLost):
    """The container no longer runs, or is being removed."""


class Missing(Gone):
    """The engine has no such container."""


class ImageMissing(Missing):
    """The engine has no such image."""


class _Ended(msgspec.Struct):
    StatusCode: int


class _State(msgspec.Struct):
    Status: str
    OOMKilled: bool


class _Inspected(msgspec.Struct):
    State: _State


class _Said(msgspec.Struct):
    message: str


class Containers:
    def __init__(self, http: EngineHttp) -> None:
        self._http = http

    async def create(self, name: str, config: dict[str, Any]) -> None:
        """`config` is the body of ContainerCreate. Raises `ImageMissing`."""
        await _good(self._http.ask("POST", f"/containers/create?name={name}", msgspec.json.encode(config)))

    async def attach(self, name: str) -> Attachment:
        """The container's streams. To be had before its start, so that nothing has been read ahead of us."""
        attachment = Attachment()
        answer = await _good(self._http.ask("POST", f"/containers/{name}/{ATTACH}", heir=attachment))
        if answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
            raise SandboxLost(f"the engine did not hand the container's streams over: {answer.status}")
        return attachment

    async def start(self, name: str) -> None:
        await _good(self._http.ask("POST", f"/containers/{name}/start"))

    async def kill(self, name: str, signal: str) -> None:
        """Raises `Gone` where there is no process."""
        await _good(self._http.ask("POST", f"/containers/{name}/kill?signal={quote(signal)}"))

    async def exit(self, name: str) -> Exit:
        """Waits for the end of its process. Raises `Gone`."""
        # An engine that is being stopped takes no new connection, and then ends its containers: how those
        # ended says nothing of the function.
        ended = _read(_Ended, await _good(self._http.ask("POST", f"/containers/{name}/wait", anew=True)))
        state = _read(_Inspected, await _good(self._http.ask("GET", f"/containers/{name}/json"))).State
        # One that is dead is as good as removed: it is so from the middle of its removal on.
        if state.Status != "exited":
            raise SandboxLost(f"the container was removed from outside: it is {state.Status}")
        ran_out = state.OOMKilled or (ended.StatusCode == KILLED and await self.ran_out_of_memory(name))
        return Exit(ended.StatusCode, oom_killed=ran_out)

    async def ran_out_of_memory(self, name: str) -> bool:
        """Whether the kernel killed a process of the container for its memory, by the engine's events. Takes
        a while: an engine may hear of that after it has heard of the end, and then its state never says so.
        """
        until = time.time() + OOM_SECONDS
        wanted = quote(msgspec.json.encode({"container": [name], "event": ["oom"]}))
        path = f"/events?since=1&until={until:.6f}&filters={wanted}"
        return bool((await _good(self._http.ask("GET", path))).body.strip())

    async def remove(self, name: str) -> None:
        """With its volumes, whether it runs or not; none there is no error."""
        with contextlib.suppress(Missing):
            await _good(self._http.ask("DELETE", f"/containers/{name}?v=1&force=1"))

    def close(self) -> None:
        self._http.close()


async def _good(asking: Awaitable[Answer]) -> Answer:
    """The answer, unless it is a refusal."""
    try:
        answer = await asking
    except (OSError, ValueError) as error:
        raise SandboxLost(str(error)) from error
    if answer.status < HTTPStatus.BAD_REQUEST:
        return answer
    raise refusal(answer.status, _message(answer))


def refusal(status: int, reason: str) -> SandboxLost:
    """What the engine's answer with an error's status means for a sandbox."""
    if status == HTTPStatus.NOT_FOUND:
        lacks_image = any(said in reason.lower() for said in IMAGE_MISSING)
        return ImageMissing(reason) if lacks_image else Missing(reason)
    if is_full(reason):
        return SandboxesUnavailable(f"the engine's disk is full: {reason}")
    # 409 also answers a signal to a container that has exited.
    return Gone(reason) if status == HTTPStatus.CONFLICT else SandboxLost(reason)


def _read(kind: type[T], answer: Answer) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise SandboxLost(f"the engine's answer is not what its API says: {error}") from error


def _message(answer: Answer) -> str:
    try:
        return msgspec.json.decode(answer.body, type=_Said).message
    except (msgspec.MsgspecError, ValueError):
        return answer.body.decode(errors="replace").strip() or f"the engine answered {answer.status}"
