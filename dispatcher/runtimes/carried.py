"""A sandbox's streams, carried by objects of the store where nobody can hold their ends.

The objects of one sandbox, below a prefix of its own:

    orders   JSON: URLs of the others, the function's environment, caps. Written anew while the sandbox runs,
             for a URL lives no longer than the credentials that it was signed with
    in/0 ... what was written to its stdin, a piece after the other. A piece begins with the length (u32,
             big-endian) and the URL of the next one; no URL is the end of stdin
    out      all that it has said until now, in frames: O (of stdout), L (of stderr), and at last X, JSON: how
             it ended. It is replaced by longer ones that begin with the same bytes

`images/python/mayfly_remote.py` is at the other end. What comes from there may be anything.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec
import structlog

from dispatcher.frames import FrameParser, Violation
from dispatcher.runtimes.streams import Streams
from mayfly.errors import BlobNotFound, BlobsUnavailable
from mayfly.settings import MIB
from mayfly.task import JSON
from mayfly.uploads import REMOTE

log = structlog.get_logger(__name__)

URL_SECONDS: Final = 3600
"""What a URL is signed for. It is good for less where credentials are changed before."""
RENEWAL_SECONDS: Final = 120.0
"""How often the orders are written anew: credentials that are about to end are renewed ten minutes before."""
POLL_SECONDS: Final = (0.25, 5.0)
"""Between two looks at what it has said: a twentieth of the time that it has run, between these."""
RETRY_SECONDS: Final = 1.0
"""While the store is away."""
FILLER: Final = bytes(MIB)
MOST_DROPPED: Final = 1 << 34


class StoredObject(Protocol):
    @property
    def size(self) -> int: ...


class Objects(Protocol):
    """All raise `BlobsUnavailable`, and what reads raises `BlobNotFound`."""

    async def put(self, key: str, data: bytes, content_type: str) -> object: ...

    async def describe(self, key: str) -> StoredObject: ...

    async def stream(self, key: str, start: int) -> AsyncIterator[bytes]: ...

    async def delete(self, keys: Sequence[str]) -> None: ...

    async def bare_url(self, method: Literal["get_object", "put_object"], key: str, seconds: int) -> str: ...


class End(msgspec.Struct, frozen=True):
    """How the function's process ended, as whoever carries its streams has seen it."""

    code: int
    oom: bool = False
    late: bool = False
    """It was ended there because its time was up, by the clock there."""
    told: bool = False
    """It was ended there because that was asked for."""
    dropped: int = 0
    """Bytes of its log that were over the cap."""


class Carried:
    """`max_result` and `max_log` bound what is carried, in bytes."""

    def __init__(
        self, objects: Objects, name: str, *, env: Mapping[str, str], max_result: int, max_log: int
    ) -> None:
        self._objects = objects
        self._prefix = f"{REMOTE}{name}/"
        self._env = dict(env)
        # A secret that is taken out of the log leaves room for what follows it.
        self._caps = {"log": 2 * max_log, "result": max_result}
        self._parser = FrameParser({"O": MIB, "L": MIB, "X": 4096})
        self._flows = asyncio.Event()
        self._flows.set()
        self.streams = Streams(self._flows.clear, self._flows.set)
        self._read_to = 0
        self._written = 0
        self._reading = asyncio.Lock()
        self._soon = asyncio.Event()
        self.end: End | None = None
        self.broken: str | None = None
        """What it has said that is no transcript."""

    async def open(self) -> str:
        """Where the orders are. Raises `BlobsUnavailable`."""
        orders = await self._url("get_object", "orders")
        told = {
            "orders": orders,
            "input": await self._url("get_object", "in/0"),
            "output": await self._url("put_object", "out"),
            "env": self._env,
            "caps": self._caps,
        }
        await self._objects.put(f"{self._prefix}orders", msgspec.json.encode(told), JSON)
        return orders

    async def renew(self) -> None:
        """Keep the orders fresh, until cancelled."""
        while True:
            await asyncio.sleep(RENEWAL_SECONDS)
            try:
                await self.open()
            except BlobsUnavailable as error:
                log.warning("S3 is away: a remote sandbox's orders grow old", reason=str(error))

    # --- what it is given

    async def write(self, data: bytes) -> None:
        await self._give(await self._insist_on_url(f"in/{self._written + 1}"), data)

    async def close_stdin(self) -> None:
        await self._give("", b"")

    async def _give(self, following: str, data: bytes) -> None:
        link = following.encode()
        piece = len(link).to_bytes(4, "big") + link + data
        while True:
            with contextlib.suppress(BlobsUnavailable):
                await self._objects.put(
                    f"{self._prefix}in/{self._written}", piece, "application/octet-stream"
                )
                break
            await asyncio.sleep(RETRY_SECONDS)
        self._written += 1

    async def _insist_on_url(self, name: str) -> str:
        while True:
            with contextlib.suppress(BlobsUnavailable):
                return await self._url("get_object", name)
            await asyncio.sleep(RETRY_SECONDS)

    # --- what it says

    def hurry(self) -> None:
        """Something is about to be said."""
        self._soon.set()

    async def follow(self) -> None:
        """Read what it says, until it has said how it ended, or what cannot be read."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while self.end is None and self.broken is None:
            try:
                await self.read()
            except BlobsUnavailable as error:
                log.debug("S3 is away: a remote sandbox is not heard", reason=str(error))
            least, most = POLL_SECONDS
            if self._soon.is_set():
                await asyncio.sleep(least)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(most, max(least, (clock() - began) / 20))):
                    await self._soon.wait()

    async def read(self) -> None:
        """What it has said since. Raises `BlobsUnavailable`."""
        key = f"{self._prefix}out"
        async with self._reading:
            try:
                size = (await self._objects.describe(key)).size
                if size <= self._read_to:
                    return
                async for chunk in await self._objects.stream(key, self._read_to):
                    self._read_to += len(chunk)
                    self._hear(chunk)
                    await self._flows.wait()
            except BlobNotFound:
                return

    def _hear(self, chunk: bytes) -> None:
        for found in self._parser.feed(chunk):
            if isinstance(found, Violation):
                self.broken = "it does not tell its output as it should"
            elif self.end is not None or self.broken is not None:
                return
            elif found.kind == "O":
                self.streams.stdout.put(found.body)
            elif found.kind == "L":
                self.streams.stderr.put(found.body)
            else:
                self._conclude(found.body)

    def _conclude(self, body: bytes) -> None:
        try:
            self.end = msgspec.json.decode(body, type=End)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.broken = "it does not tell its end as it should"
            return
        # The dispatcher counts what it drops: these are over its cap too.
        left = min(self.end.dropped, MOST_DROPPED)
        while left > 0:
            self.streams.stderr.put(FILLER[:left])
            left -= len(FILLER)

    async def remove(self) -> None:
        """Every object. Raises `BlobsUnavailable`."""
        pieces = [f"in/{number}" for number in range(self._written)]
        await self._objects.delete([f"{self._prefix}{name}" for name in ("orders", "out", *pieces)])

    async def _url(self, method: Literal["get_object", "put_object"], name: str) -> str:
        return await self._objects.bare_url(method, f"{self._prefix}{name}", URL_SECONDS)
