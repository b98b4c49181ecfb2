"""The health of a stack that another process keeps."""

import asyncio
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from mayfly.stack.engine import Engine
from mayfly.stack.home import Home
from mayfly.stack.kafka import Kafka
from mayfly.stack.part import Part, PartState
from mayfly.stack.record import environment, running
from mayfly.stack.redis import Redis
from mayfly.stack.s3 import S3
from mayfly.stack.services import Dispatcher, Gateway, Service
from mayfly.stack.stack import settings_of


async def states(directory: Path) -> list[PartState]:
    """The parts of the stack that is up in the directory, each asked just now; none if there is no stack."""
    found = running(directory)
    if found is None:
        return []
    environ = environment(directory)
    settings = settings_of(environ)
    parts = [_part(Home(directory), state, environ) for state in found.parts]
    health = await asyncio.gather(*(part.health(settings) for part in parts))
    return [replace(state, health=now) for state, now in zip(found.parts, health, strict=True)]


def _part(home: Home, state: PartState, environ: dict[str, str]) -> Part:
    """The part as one that is somebody else's: it is only asked."""
    match state.name:
        case "kafka":
            return Kafka(home, _quiet, environ["MAYFLY_KAFKA"])
        case "redis":
            return Redis(home, _quiet, environ["MAYFLY_REDIS"])
        case "s3":
            return S3(home, _quiet, environ["MAYFLY_S3_ENDPOINT"])
        case "docker":
            return Engine(home, _quiet, environ)
        case name:
            address = urlsplit(state.address)
            kind: type[Service] = Gateway if name == "gateway" else Dispatcher
            return kind(home, _quiet, lambda: {}, address.hostname or "", address.port or 0)


def _quiet(line: str) -> None:
    """Whoever only asks has nothing to say."""
