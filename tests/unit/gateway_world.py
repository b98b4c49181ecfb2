"""A gateway over parts in memory, for what the real parts cannot be made to do on command."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import msgspec
from counts_world import Counts, Shared

from gateway.app import Gateway, Parts
from gateway.completeness import Completeness
from mayfly.errors import BlobNotFound, BlobsUnavailable, LogUnavailable, ReadModelUnavailable
from mayfly.events import Event, decode_event
from mayfly.function import Function
from mayfly.identity import chain
from mayfly.identity.book import Book, place
from mayfly.placement import murmur2_partition
from mayfly.settings import Settings
from mayfly.task import BlobRef, Envelope, Lane, decode_envelope
from mayfly.view import QueuedTask, Reservation, tenant_of

NOW = 1_795_521_600_123
"""2026-11-24T12:00:00.123Z"""
PARTITIONS = 8
Heartbeats = list[dict[str, Any]]
Records = list[dict[str, str]]
Ids = list[str]
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


class Chunk(NamedTuple):
    id: str
    fence: int
    text: str


Chunks = list[Chunk]


class Told(NamedTuple):
    id: str
    fields: dict[str, str]


Entries = list[Told]


@dataclass
class Commands:
    """One log for all lanes: the offset is the place in it."""

    down: str = ""
    records: list[tuple[str, Lane, str, bytes]] = field(default_factory=list)
    partitions: list[int] = field(default_factory=list)
    events: list[tuple[str, int, str, Event | None]] = field(default_factory=list)
    purged: list[str] = field(default_factory=list)
    trimmed: bool = False
    served: set[str] = field(default_factory=set)
    """The queues that a dispatcher has told something of."""

    async def append(
        self, queue: str, lane: Lane, partition: int | None, task_id: str, value: bytes
    ) -> Appended:
        await self.ready()
        if partition is None:
            partition = murmur2_partition(task_id, PARTITIONS)
        self.records.append((queue, lane, task_id, value))
        self.partitions.append(partition)
        return Appended(partition, len(self.records) - 1, NOW)

    async def append_event(self, queue: str, partition: int, task_id: str, value: bytes) -> None:
        await self.ready()
        self.events.append((queue, partition, task_id, decode_event(value)))

    async def purge(self, task_id: str) -> None:
        await self.ready()
        self.purged.append(task_id)

    async def read(self, queue: str, lane: Lane, partition: int, offset: int) -> bytes | None:
        await self.ready()
        if self.trimmed or offset >= len(self.records):
            return None
        assert self.partitions[offset] == partition
        assert self.records[offset][:2] == (queue, lane)
        return self.records[offset][3]

    async def was_served(self, queue: str) -> bool:
        await self.ready()
        return queue in self.served

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
    reservations: dict[str, Reservation] = field(default_factory=dict)
    letters: dict[str, int] = field(default_factory=dict)
    chunks: dict[str, list[Chunk]] = field(default_factory=lambda: defaultdict(list))
    cancels: list[str] = field(default_factory=list)
    uses: list[dict[str, int]] = field(default_factory=list)
    told: "asyncio.Queue[tuple[str, str] | None]" = field(default_factory=asyncio.Queue)
    streams: dict[str, list[Told]] = field(default_factory=lambda: defaultdict(list))
    """Each tenant's changes; the id is counted over all of them."""
    tellings: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    gate: Callable[[], Awaitable[None]] = field(default_factory=lambda: _nothing)

    def _answer(self) -> None:
        if self.down:
            raise ReadModelUnavailable(self.down)

    async def _look_up(self) -> None:
        self._answer()
        await self.gate()

    async def marked(self, queues: Iterable[str]) -> dict[str, int]:
        self._answer()
        return {queue: self.marks.get(queue, 0) for queue in queues}

    async def unmark_all(self, queue: str) -> None:
        self._answer()
        self.marks.pop(queue, None)

    async def queued(self, *tasks: QueuedTask) -> None:
        self._answer()
        self.batches.append(len(tasks))
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        for task in tasks:
            self.hashes[task.task_id] = {**task.fields(), "status": task.status.value}

    async def get(self, task_id: str) -> dict[str, str] | None:
        await self._look_up()
        self.reads[task_id] += 1
        return self.hashes.get(task_id)

    async def list(self, **filters: Any) -> tuple[Records, str | None]:
        await self._look_up()
        self.asked.append(filters)
        if filters["cursor"] == "broken":
            raise ValueError
        tenant = filters["tenant"]
        return [one for one in self.hashes.values() if tenant_of(one) == tenant], self.next_cursor

    async def batch(self, tenant: str, batch: str) -> dict[str, str]:
        await self._look_up()
        return {
            task_id: one["status"]
            for task_id, one in self.hashes.items()
            if one.get("batch") == batch and tenant_of(one) == tenant
        }

    async def reservation(self, task_id: str) -> Reservation | None:
        await self._look_up()
        return self.reservations.get(task_id)

    async def reserve(self, task_id: str, reservation: Reservation) -> Reservation:
        await self._look_up()
        return self.reservations.setdefault(task_id, reservation)

    async def tell_cancel(self, task_id: str) -> None:
        self._answer()
        self.cancels.append(task_id)

    async def dead_letters(self, **filters: Any) -> tuple[Records, str | None]:
        await self._look_up()
        self.asked.append(filters)
        if filters["cursor"] == "broken":
            raise ValueError
        found = [self.hashes[task_id] for task_id in self.letters]
        return [one for one in found if tenant_of(one) == filters["tenant"]], self.next_cursor

    async def dead_letter_ids(
        self,
        *,
        tenant: str,
        task_type: str | None,
        error_type: str | None,
        since: int | None,
        until: int | None,
    ) -> Ids:
        await self._look_up()
        return [
            task_id
            for task_id, at in sorted(self.letters.items(), key=lambda item: item[1])
            if tenant_of(self.hashes[task_id]) == tenant
            and task_type in (None, self.hashes[task_id]["taskType"])
            and error_type in (None, self.hashes[task_id].get("errorType"))
            and (since is None or at >= since)
            and (until is None or at < until)
        ]

    async def has_dead_letter(self, task_id: str) -> bool:
        await self._look_up()
        return task_id in self.letters

    async def forget_dead_letter(self, task_id: str) -> None:
        self._answer()
        self.letters.pop(task_id, None)

    async def log_chunks(self, task_id: str, after: str, count: int) -> Chunks:
        self._answer()
        return [one for one in self.chunks[task_id] if not after or one.id > after][:count]

    def tell(self, tenant: str = "default", **fields: str) -> str:
        """A change, or what else stands in a tenant's stream; its id."""
        self.tellings += 1
        place = f"{NOW}-{self.tellings}"
        self.streams[tenant].append(Told(place, fields))
        self.told.put_nowait((fields.get("taskId", "-"), fields.get("status", "")))
        return place

    async def events_place(self, tenant: str) -> str:
        await self._look_up()
        return self.streams[tenant][-1].id if self.streams[tenant] else self.tell(tenant, begin="1")

    async def events(self, tenant: str, after: str, count: int) -> Entries | None:
        self._answer()
        ids = [one.id for one in self.streams[tenant]]
        if after not in ids:
            return None
        at = ids.index(after) + 1
        return self.streams[tenant][at : at + count]

    async def dispatchers(self) -> Heartbeats:
        self._answer()
        return self.heartbeats

    async def tell_keys_used(self, keys: Mapping[str, int]) -> None:
        self._answer()
        self.uses.append(dict(keys))

    async def keys_used(self, key_ids: Sequence[str]) -> dict[str, int]:
        self._answer()
        found: dict[str, int] = {}
        for told in self.uses:
            found |= {one: max(at, found.get(one, 0)) for one, at in told.items() if one in key_ids}
        return found

    async def changes(self) -> AsyncGenerator[tuple[str, str]]:
        yield "", ""
        while (change := await self.told.get()) is not None:
            yield change
        raise ReadModelUnavailable("the connection broke")

    async def ping(self) -> None:
        self._answer()


class StoredObject(NamedTuple):
    size: int
    content_type: str
    sha256: str


class Target(NamedTuple):
    url: str
    headers: dict[str, str]


@dataclass
class Blobs:
    down: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    about: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Content type and promised hash of what was uploaded."""

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef:
        await self.ping()
        self.objects[key] = data
        return BlobRef(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    async def open(self, key: str) -> tuple[int, AsyncIterator[bytes]]:
        await self.ping()
        if key not in self.objects:
            raise BlobNotFound(key)
        return len(self.objects[key]), self._chunks(self.objects[key])

    async def describe(self, key: str) -> StoredObject:
        await self.ping()
        if key not in self.objects:
            raise BlobNotFound(key)
        return StoredObject(len(self.objects[key]), *self.about.get(key, ("", "")))

    async def copy(self, key: str, to: str) -> None:
        await self.describe(key)
        self.objects[to] = self.objects[key]
        self.about[to] = self.about.get(key, ("", ""))

    async def put_url(
        self, key: str, *, size: int, content_type: str, sha256: str | None, seconds: int
    ) -> Target:
        return Target(f"http://store/{key}?for={seconds}&size={size}", {"content-type": content_type})

    async def get_url(self, key: str, *, content_type: str, disposition: str, seconds: int) -> str:
        return f"http://store/{key}?for={seconds}&type={content_type}&as={disposition}"

    def upload(self, tenant: str, upload_id: str, data: bytes, content_type: str, sha256: str = "") -> None:
        """What a client's PUT does."""
        self.objects[f"uploads/{tenant}/{upload_id}"] = data
        self.about[f"uploads/{tenant}/{upload_id}"] = content_type, sha256

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
    down: str = ""
    written: list[Function] = field(default_factory=list)

    def get(self, name: str) -> Function | None:
        return self.functions.get(name)

    def all(self) -> list[Function]:
        return [self.functions[name] for name in sorted(self.functions)]

    async def reach_end(self) -> None:
        if self.down:
            raise LogUnavailable(self.down)

    async def put(self, function: Function) -> None:
        await self.reach_end()
        self.written.append(function)
        self.deploy(function)

    def deploy(self, *functions: Function) -> None:
        self.functions |= {function.name: function for function in functions}
        self.revision += 1


class Placed(NamedTuple):
    offset: int
    value: bytes | None


class Bounds(NamedTuple):
    start: int
    end: int


@dataclass
class AuditTopic:
    """Every record is appended at `NOW` plus its place in milliseconds."""

    down: str = ""
    records: list[bytes] = field(default_factory=list)

    def _answer(self) -> None:
        if self.down:
            raise LogUnavailable(self.down)

    async def append(self, value: bytes) -> Appended:
        self._answer()
        await asyncio.sleep(0)
        self.records.append(value)
        return Appended(0, len(self.records) - 1, NOW)

    async def last(self) -> chain.Link:
        self._answer()
        return chain.link(len(self.records) - 1, self.records[-1]) if self.records else chain.BEGINNING

    async def bounds(self, since: int | None = None, until: int | None = None) -> Bounds:
        self._answer()
        start, end = (None if at is None else max(0, at - NOW) for at in (since, until))
        return Bounds(start or 0, min(len(self.records), len(self.records) if end is None else end))

    async def read(self, start: int, end: int) -> list[Placed]:
        self._answer()
        return [Placed(place, self.records[place]) for place in range(start, end)]

    @property
    def entries(self) -> list[chain.Record]:
        return [record for value in self.records if (record := chain.read(value)) is not None]


@dataclass
class Control:
    down: str = ""
    read: bool = True
    book: Book = field(default_factory=Book)

    async def put(self, kind: str, name: str, value: msgspec.Struct | None) -> None:
        if self.down:
            raise LogUnavailable(self.down)
        self.book.take(place(kind, name), None if value is None else msgspec.json.encode(value))


class World:
    """The parts, the gateway over them, and a client that sends what it is told to."""

    def __init__(self, shared: Shared | None = None, **settings: Any) -> None:
        self.shared = shared or Shared()
        self.counts = Counts(self.shared, id(self))
        self.commands = Commands()
        self.read_model = ReadModel()
        self.blobs = Blobs()
        self.catalog = Catalog()
        self.control = Control()
        self.audit = AuditTopic()
        self.catalog.deploy(
            Function("echo", "mayfly/echo:1", "1", deployed_at=NOW),
            Function("thumbnail", "mayfly/thumbnail:1", "1", schema=SCHEMA, accepts_bytes=False, queue="big"),
            Function("gone", "mayfly/gone:1", "1", retired=True),
            Function("broken", "mayfly/broken:1", "1", schema={"type": "nonsense"}),
        )
        self.clock = 0.0
        self.completeness = Completeness(
            self.read_model,
            partitions=PARTITIONS,
            queues=lambda: {"default", *(function.queue for function in self.catalog.all())},
            was_served=self.commands.was_served,
            clock=lambda: self.clock,
        )
        self.read_model.gate = self.completeness.require
        # As it is when all is well: every partition of every queue was told.
        self.read_model.marks = {"default": PARTITIONS, "big": PARTITIONS}
        parts = Parts(
            self.commands,
            self.read_model,
            self.blobs,
            self.catalog,
            lambda: self.catalog.read,
            self.completeness,
            self.control,
            lambda: self.control.read,
            self.audit,
            self.counts,
        )
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


def check_problem(answer: httpx.Response, status: int, code: str, field: str | None) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"], problem.get("field")) == (status, code, field), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == f"urn:mayfly:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    return problem


async def _nothing() -> None:
    return None
