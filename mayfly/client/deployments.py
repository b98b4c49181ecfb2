"""Deployments and traffic: what the client asks and how it reads the answers. Without any I/O."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from mayfly.client.wire import Call, Request, decode, post, send
from mayfly.function import Function


class Catalog(msgspec.Struct, frozen=True):
    """Every function with all of its versions; `repository` is the one of the registry that carries their
    images to dispatchers, if there is."""

    functions: tuple[Function, ...]
    repository: str | None = None


class VersionShare(msgspec.Struct, frozen=True, rename="camel"):
    """A version of a function: `v2`, and how many of a hundred tasks run on it. `hash` says what its image
    is built from."""

    version: str
    hash: str
    image: str
    share: int
    deployed_at: datetime


class Traffic(msgspec.Struct, frozen=True):
    """A function's versions, newest first."""

    name: str
    versions: tuple[VersionShare, ...]


class Deployed(msgspec.Struct, frozen=True):
    """The same once it was deployed; `changed` says whether that made a version, or brought back what was
    retired."""

    name: str
    versions: tuple[VersionShare, ...]
    changed: bool


def catalog() -> Call[Catalog]:
    answer = yield from send(Request("GET", "/catalog"))
    return decode(answer.body, Catalog)


def deploy(function: Function, *, traffic: bool = True) -> Call[Deployed]:
    body: dict[str, Any] = {"function": msgspec.to_builtins(function), "traffic": traffic}
    # The same again changes nothing.
    answer = yield from send(post(_path(function.name), body, method="PUT"), again=True)
    return decode(answer.body, Deployed)


def retire(name: str) -> Call[Traffic]:
    answer = yield from send(Request("DELETE", _path(name)), again=True)
    return decode(answer.body, Traffic)


def traffic(name: str) -> Call[Traffic]:
    answer = yield from send(Request("GET", f"{_path(name)}/traffic"))
    return decode(answer.body, Traffic)


def set_traffic(name: str, shares: Mapping[str, int]) -> Call[Traffic]:
    request = post(f"{_path(name)}/traffic", {"shares": dict(shares)}, method="PUT")
    answer = yield from send(request, again=True)
    return decode(answer.body, Traffic)


def _path(name: str) -> str:
    return f"/functions/{quote(name, safe='')}"
