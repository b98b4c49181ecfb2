"""Deployments: what the catalog has, whole; functions deployed, retired, and shared among their versions."""

import asyncio
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway import audit
from gateway.bodies import media_type, read_body
from gateway.errors import Problem
from gateway.functions import Functions
from gateway.models_functions import Deployment, FunctionVersion, Shares
from gateway.parameters import parameters
from gateway.ports import Catalog
from gateway.responses import json_response
from gateway.submissions import checked, json_body, parse
from gateway.times import now
from mayfly import fargate, versions
from mayfly.function import Function
from mayfly.payload import InvalidSchema, compile_schema
from mayfly.task import JSON
from mayfly.view import timestamp

FUNCTION_BYTES: Final = 256 * 1024
"""Of the body that deploys one: an entry holds more than one version."""
_FIELDS: Final = {"warm_pool": "warmPool", "memory": "limits"}
"""How a function's entry calls what its folder calls otherwise."""
MAX_DEPTH: Final = 64
"""Of that body: a schema is deeper than what it describes."""


class Deployments:
    """The handlers. `repository` is where dispatchers get images from that their engines lack.

    Writers of one gateway take turns, each upon what the log has; of two gateways that write one function in
    the same moment, the later one's entry stands.
    """

    def __init__(self, catalog: Catalog, functions: Functions, repository: str | None) -> None:
        self._catalog = catalog
        self._functions = functions
        self._repository = repository
        self._turn = asyncio.Lock()

    async def list(self, request: Request) -> Response:
        parameters(request)
        self._functions.require_catalog()
        entries = [msgspec.to_builtins(entry) for entry in self._catalog.all()]
        return json_response({"repository": self._repository, "functions": entries})

    async def put(self, request: Request) -> Response:
        parameters(request)
        wanted = checked(Deployment, await _body(request), "invalid_body")
        function = _function(wanted.function, request.path_params["name"])
        self._functions.require_catalog()
        async with self._turn:
            await self._catalog.reach_end()
            before = self._catalog.get(function.name)
            entry = versions.deployed(before, function, now(), traffic=wanted.traffic)
            if entry is not None:
                await audit.record(request, "function.deploy", f"{function.name}@{function.version}")
                await self._catalog.put(entry)
        there = entry or before
        assert there is not None
        return json_response(_traffic(there) | {"changed": entry is not None})

    async def retire(self, request: Request) -> Response:
        parameters(request)
        self._functions.require_catalog()
        async with self._turn:
            await self._catalog.reach_end()
            entry = self._functions.known(request.path_params["name"])
            await audit.record(request, "function.retire", f"{entry.name}@{entry.version}")
            await self._catalog.put(versions.retired(entry))
        return json_response(_traffic(entry))

    async def traffic(self, request: Request) -> Response:
        parameters(request)
        return json_response(_traffic(self._functions.known(request.path_params["name"])))

    async def share(self, request: Request) -> Response:
        """Writes nothing where it is so already."""
        parameters(request)
        wanted = checked(Shares, await json_body(request, needed=True), "invalid_body")
        self._functions.require_catalog()
        async with self._turn:
            await self._catalog.reach_end()
            before = self._functions.known(request.path_params["name"])
            try:
                entry = versions.shared(before, wanted.shares)
            except ValueError as error:
                raise Problem("invalid_body", f"shares: {error}.", field="shares") from None
            if entry != before:
                target = " ".join(f"{versions.name_of(one)}={one.share}" for one in versions.serving(entry))
                await audit.record(request, "function.traffic", f"{entry.name} {target}")
                await self._catalog.put(entry)
        return json_response(_traffic(entry))


def _traffic(entry: Function) -> dict[str, Any]:
    shown = [
        {
            "version": versions.name_of(one),
            "hash": one.version,
            "image": one.image,
            "share": one.share,
            "deployedAt": timestamp(one.deployed_at),
        }
        for one in versions.versions(entry)
    ]
    return {"name": entry.name, "versions": shown}


async def _body(request: Request) -> Any:
    body = await read_body(request, FUNCTION_BYTES)
    essence, _ = media_type(request)
    if essence != JSON:
        detail = f"{essence} is refused: this path takes application/json."
        raise Problem("unsupported_media_type", detail, field="Content-Type")
    return await parse(body, max_depth=MAX_DEPTH)


def _function(given: FunctionVersion, name: str) -> Function:
    """Raises `Problem` for what no folder could have said."""
    fields = given.model_dump(by_alias=True)
    function = msgspec.convert(fields, Function)
    for field, wrong in _faults(function, name):
        raise Problem("invalid_body", f"function.{field}: {wrong}.", field=f"function.{field}")
    return function


def _faults(function: Function, name: str) -> list[tuple[str, str]]:
    faults = []
    if function.name != name:
        faults.append(("name", f"it is {function.name}, and the path says {name[:64]}"))
    if function.image != f"mayfly/fn-{function.name}:{function.version}":
        faults.append(("image", f"must be mayfly/fn-{function.name}:{function.version}"))
    if function.contract == "unix" and (function.isolation != "container" or function.warm_pool):
        faults.append(("isolation", "fork, warm and warmPool are for the contract python"))
    if function.runtime is not None:
        faults += _remote_faults(function)
    if both := sorted(set(function.secrets) & set(function.env)):
        faults.append(("secrets", f"{both[0]} is in env as well"))
    if len(set(function.secrets)) < len(function.secrets):
        faults.append(("secrets", "a name is there twice"))
    if function.schema is not None:
        try:
            compile_schema(function.schema)
        except InvalidSchema as error:
            faults.append(("schema", f"it is no JSON Schema: {error}"))
    return faults


def _remote_faults(function: Function) -> list[tuple[str, str]]:
    """What a task on ECS cannot be, as a folder is told it."""
    if function.contract != "python":
        return [("runtime", "ecs is for the contract python")]
    limits = function.limits
    found = fargate.refusals(
        isolation=function.isolation,
        warm_pool=function.warm_pool,
        network=function.network,
        cpu=limits.cpu,
        memory=limits.memory_mib,
    )
    return [(_FIELDS.get(key, key), fault) for key, fault in found]
