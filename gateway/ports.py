"""What the gateway needs of the world. `app.py` plugs the adapters in; tests plug in what they like."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from mayfly.function import Function
from mayfly.identity.keys import Allowance, ApiKey
from mayfly.identity.users import User
from mayfly.identity.vault import Sealed
from mayfly.task import BlobRef, Lane
from mayfly.view import QueuedTask, Reservation
from mayfly.webhooks.signing import WebhookSecret

Records = list[dict[str, str]]
Heartbeats = list[dict[str, Any]]
Ids = list[str]


class Appended(Protocol):
    """Where a command landed. `timestamp` is the broker's append time, milliseconds since 1970, UTC."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...


class Commands(Protocol):
    """The log: the command topics, the events, the dead letters."""

    async def append(
        self, queue: str, lane: Lane, partition: int | None, task_id: str, value: bytes
    ) -> Appended:
        """Returns when every in-sync replica has it; without a partition it is in that of its key, the task's
        id. Raises `LogUnavailable`: it may be there even so."""

    async def append_event(self, queue: str, partition: int, task_id: str, value: bytes) -> None:
        """The same, in the queue's events."""

    async def purge(self, task_id: str) -> None:
        """Take the task's dead letter away. Raises `LogUnavailable`."""

    async def read(self, queue: str, lane: Lane, partition: int, offset: int) -> bytes | None:
        """The command's value, or None where the log does not have it any more. Raises `LogUnavailable`."""

    async def ready(self) -> None:
        """Raises `LogUnavailable`."""


class LogChunk(Protocol):
    """A piece of what an attempt has logged so far; `id` is its place, and `fence` says whose it is."""

    @property
    def id(self) -> str: ...
    @property
    def fence(self) -> int: ...
    @property
    def text(self) -> str: ...


Chunks = Sequence[LogChunk]


class Told(Protocol):
    """An entry of a tenant's stream of changes: `taskId`, `taskType`, `status`, `tags` (JSON), `attempt` and
    `errorType` of a change; `reset` where some may be missing; anything else is to be passed over."""

    @property
    def id(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, str]: ...


Entries = Sequence[Told]


class ReadModel(Protocol):
    """What is known of tasks and dispatchers. Every method raises `ReadModelUnavailable`."""

    async def queued(self, *tasks: QueuedTask) -> None: ...
    async def get(self, task_id: str) -> dict[str, str] | None: ...
    async def list(
        self,
        *,
        tenant: str,
        status: str | None,
        task_type: str | None,
        tag: str | None,
        cursor: str | None,
        limit: int,
    ) -> tuple[Records, str | None]:
        """Newest first, with the next page's cursor. Raises `ValueError` for a cursor that is none."""

    async def batch(self, tenant: str, batch: str) -> dict[str, str]:
        """The status of each of the batch's tasks, by id; empty where the tenant has no such batch."""

    async def reservation(self, task_id: str) -> Reservation | None:
        """What a task's id is reserved for."""

    async def reserve(self, task_id: str, reservation: Reservation) -> Reservation:
        """Reserve it, unless it is; returns what it is reserved for now."""

    async def tell_cancel(self, task_id: str) -> None:
        """Tell who holds the task that its end was asked for. Who does not hear it reads it in the log."""

    async def dead_letters(
        self,
        *,
        tenant: str,
        task_type: str | None,
        error_type: str | None,
        since: int | None,
        until: int | None,
        cursor: str | None,
        limit: int,
    ) -> tuple[Records, str | None]:
        """As `list`, by when they failed: from `since` on and before `until`, ms since 1970."""

    async def dead_letter_ids(
        self,
        *,
        tenant: str,
        task_type: str | None,
        error_type: str | None,
        since: int | None,
        until: int | None,
    ) -> Ids:
        """All of them, the oldest first."""

    async def has_dead_letter(self, task_id: str) -> bool: ...
    async def forget_dead_letter(self, task_id: str) -> None: ...
    async def log_chunks(self, task_id: str, after: str, count: int) -> Chunks:
        """What was logged after that place ("" is the beginning), in order, at most so many pieces."""

    async def events_place(self, tenant: str) -> str:
        """The last entry of the tenant's stream of changes, from which whoever reads on misses nothing."""

    async def events(self, tenant: str, after: str, count: int) -> Entries | None:
        """What came behind that entry, in order, at most so many; None if it is there no more."""

    async def dispatchers(self) -> Heartbeats: ...
    async def tell_keys_used(self, keys: Mapping[str, int]) -> None:
        """When API keys were used last, milliseconds since 1970."""

    async def keys_used(self, key_ids: Sequence[str]) -> dict[str, int]:
        """The same, as far as any gateway has told it."""

    def changes(self) -> AsyncGenerator[tuple[str, str]]:
        """(task id, status) as they change; a pair of empty strings when the subscription stands."""

    async def ping(self) -> None: ...


class StoredObject(Protocol):
    """What the store says of an object: bytes, content type, and the SHA-256 in hex that whoever put it there
    promised, or nothing."""

    @property
    def size(self) -> int: ...
    @property
    def content_type(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class Target(Protocol):
    """Where something can be put, with these headers."""

    @property
    def url(self) -> str: ...
    @property
    def headers(self) -> dict[str, str]: ...


class Blobs(Protocol):
    """Objects by key. Every method raises `BlobsUnavailable`."""

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef: ...
    async def open(self, key: str) -> tuple[int, AsyncIterator[bytes]]:
        """Size in bytes, and the chunks. Raises `BlobNotFound`."""

    async def describe(self, key: str) -> StoredObject:
        """Raises `BlobNotFound`."""

    async def copy(self, key: str, to: str) -> None:
        """Raises `BlobNotFound`."""

    async def put_url(
        self, key: str, *, size: int, content_type: str, sha256: str | None, seconds: int
    ) -> Target:
        """Where anybody can put these bytes there, and no others, for so long."""

    async def get_url(self, key: str, *, content_type: str, disposition: str, seconds: int) -> str:
        """Where anybody can get the object, for so long, with these headers."""

    async def ping(self) -> None: ...


class Book(Protocol):
    """Keys, users, tenants, secrets and what webhooks are signed with, as they were read."""

    @property
    def keys(self) -> Mapping[str, ApiKey]: ...
    @property
    def users(self) -> Mapping[str, User]: ...
    @property
    def tenants(self) -> Mapping[str, Allowance]: ...
    @property
    def secrets(self) -> Mapping[str, Sealed]: ...
    @property
    def webhooks(self) -> Mapping[str, WebhookSecret]: ...


class Control(Protocol):
    """What gateways have to know of who asks."""

    @property
    def book(self) -> Book: ...
    async def put(self, kind: str, name: str, value: msgspec.Struct | None) -> None:
        """Write it, or take it away; it stands in the book then. Raises `LogUnavailable`."""


class Catalog(Protocol):
    """The functions that are deployed."""

    @property
    def revision(self) -> int: ...
    def get(self, name: str) -> Function | None: ...
    def all(self) -> list[Function]: ...
    async def reach_end(self) -> None:
        """Returns when all was read that is there now. Raises `LogUnavailable`."""

    async def put(self, function: Function) -> None:
        """Write it; it stands in the catalog then. Raises `LogUnavailable`."""
