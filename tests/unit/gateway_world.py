"""A gateway over parts in memory, for what the real parts cannot be made to do on command."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from gateway.app import Gateway, Parts
from mayfly.errors import BlobNotFound, BlobsUnavailable, LogUnavailable, ReadModelUnavailable
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.task import BlobRef, Envelope, Lane, decode_envelope
from mayfly.view import QueuedTask

NOW = 1_795_521_600_123
"""2026-11-24T12:00:00.123Z"""
Heartbeats = list[dict[str, Any]]
SCHEMA = {
    "type": "object",
    "properties": {
        "width": {"type": "integer", "minimum": 1},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
    },
    "required": ["width"],
    "additionalProperties": False,
    "$defs": {"item": {"type": "object", "required": ["name"]}},
}


class Appended(NamedTuple):
    partition: int
    offset: int
    timestamp: int


@dataclass
class Commands:
    down: str = ""
    records: list[tuple[str, Lane, str, bytes]] = field(default_factory=list)

    async def append(self, queue: str, lane: Lane, task_id: str, value: bytes) -> Appended:
        if self.down:
            raise LogUnavailable(self.down)
        self.records.append((queue, lane, task_id, value))
        return Appended(3, len(self.records) - 1, NOW)

    async def ready(self) -> None:
        if self.down:
            raise LogUnavailable(self.down)

    @property
    def envelopes(self) -> list[Envelope]:
        return [decode_envelope(record[3], topic="t", partition=0, offset=0) for record in self.records]


@dataclass
class ReadModel:
    down: str = ""
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    heartbeats: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    next_cursor: str | None = None
    batches: list[int] = field(default_factory=list)
    hangs: bool = False
    reads: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    told: "asyncio.Queue[tuple[str, str] | None]" = field(default_factory=asyncio.Queue)

    def _answer(self) -> None:
        if self.down:
            raise ReadModelUnavailable(self.down)

    async def queued(self, *tasks: QueuedTask) -> None:
        self._answer()
        self.batches.append(len(tasks))
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        for task in tasks:
            self.hashes[task.task_id] = {**task.fields(), "status": "QUEUED"}

    async def get(self, task_id: str) -> dict[str, str] | None:
        self._answer()
        self.reads[task_id] += 1
        return self.hashes.get(task_id)

    async def list(self, **filters: Any) -> tuple[list[dict[str, str]], str | None]:
        self._answer()
        self.asked.append(filters)
        if filters["cursor"] == "broken":
            raise ValueError
        return list(self.hashes.values()), self.next_cursor

    async def dispatchers(self) -> Heartbeats:
        self._answer()
        return self.heartbeats

    async def changes(self) -> AsyncIterator[tuple[str, str]]:
        yield "", ""
        while (change := await self.told.get()) is not None:
            yield change
        raise ReadModelUnavailable("the connection broke")

    async def ping(self) -> None:
        self._answer()


@dataclass
class Blobs:
    down: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef:
        await self.ping()
        self.objects[key] = data
        return BlobRef(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    async def open(self, key: str) -> tuple[int, AsyncIterator[bytes]]:
        await self.ping()
        if key not in self.objects:
            raise BlobNotFound(key)
        return len(self.objects[key]), self._chunks(self.objects[key])

    async def _chunks(self, data: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]

    async def ping(self) -> None:
        if self.down:
            raise BlobsUnavailable(self.down)


@dataclass
class Catalog:
    functions: dict[str, Function] = field(default_factory=dict)
    revision: int = 0
    read: bool = True

    def get(self, name: str) -> Function | None:
        return self.functions.get(name)

    def all(self) -> list[Function]:
        return [self.functions[name] for name in sorted(self.functions)]

    def deploy(self, *functions: Function) -> None:
        self.functions |= {function.name: function for function in functions}
        self.revision += 1


class World:
    """The parts, the gateway over them, and a client that sends what it is told to."""

    def __init__(self, **settings: Any) -> None:
        self.commands = Commands()
        self.read_model = ReadModel()
        self.blobs = Blobs()
        self.catalog = Catalog()
        self.catalog.deploy(
            Function("echo", "mayfly/echo:1", "1", deployed_at=NOW),
            Function("thumbnail", "mayfly/thumbnail:1", "1", schema=SCHEMA, accepts_bytes=False, queue="big"),
            Function("gone", "mayfly/gone:1", "1", retired=True),
            Function("broken", "mayfly/broken:1", "1", schema={"type": "nonsense"}),
        )
        parts = Parts(self.commands, self.read_model, self.blobs, self.catalog, lambda: self.catalog.read)
        self.gateway = Gateway(Settings(**settings), parts)
        self.app = self.gateway.app(_nothing, _nothing)
        transport = httpx.ASGITransport(self.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")

    async def post(self, **body: Any) -> httpx.Response:
        return await self.http.post("/tasks", json={"taskType": "echo", "payload": None, **body})

    def task(self, task_id: str, **fields: str) -> None:
        """Put a task's hash there, as the projector would."""
        self.read_model.hashes[task_id] = {
            "taskId": task_id,
            "taskType": "echo",
            "queue": "default",
            "priority": "normal",
            "status": "QUEUED",
            "tags": "[]",
            "createdAt": "2026-11-24T12:00:00.123Z",
            **fields,
        }


async def _nothing() -> None:
    return None
