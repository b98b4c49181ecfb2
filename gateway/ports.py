"""What the gateway needs of the world. `app.py` plugs the adapters in; tests plug in what they like."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from mayfly.function import Function
from mayfly.task import BlobRef, Lane
from mayfly.view import QueuedTask

Records = list[dict[str, str]]
Heartbeats = list[dict[str, Any]]


class Appended(Protocol):
    """Where a command landed. `timestamp` is the broker's append time, milliseconds since 1970, UTC."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...


class Commands(Protocol):
    """The command topics."""

    async def append(self, queue: str, lane: Lane, task_id: str, value: bytes) -> Appended:
        """Returns when every in-sync replica has it. Raises `LogUnavailable`: it may be there even so."""

    async def ready(self) -> None:
        """Raises `LogUnavailable`."""


class ReadModel(Protocol):
    """What is known of tasks and dispatchers. Every method raises `ReadModelUnavailable`."""

    async def queued(self, *tasks: QueuedTask) -> None: ...
    async def get(self, task_id: str) -> dict[str, str] | None: ...
    async def list(
        self, *, status: str | None, task_type: str | None, tag: str | None, cursor: str | None, limit: int
    ) -> tuple[Records, str | None]:
        """Newest first, with the next page's cursor. Raises `ValueError` for a cursor that is none."""

    async def dispatchers(self) -> Heartbeats: ...
    def changes(self) -> AsyncIterator[tuple[str, str]]:
        """(task id, status) as they change; a pair of empty strings when the subscription stands."""

    async def ping(self) -> None: ...


class Blobs(Protocol):
    """Objects by key. Every method raises `BlobsUnavailable`."""

    async def put(self, key: str, data: bytes, content_type: str) -> BlobRef: ...
    async def open(self, key: str) -> tuple[int, AsyncIterator[bytes]]:
        """Size in bytes, and the chunks. Raises `BlobNotFound`."""

    async def ping(self) -> None: ...


class Catalog(Protocol):
    """The functions that are deployed."""

    @property
    def revision(self) -> int: ...
    def get(self, name: str) -> Function | None: ...
    def all(self) -> list[Function]: ...
