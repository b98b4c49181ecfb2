"""The way to write in the audit log: one record after the other, each acknowledged before it counts."""

import asyncio
import time
from typing import Final, Protocol

import msgspec

from mayfly.errors import LogUnavailable
from mayfly.identity.chain import Chain, Entry, Link

MOST_WAITING: Final = 500
"""Calls whose record waits its turn: more than so many are refused at once."""


class Appended(Protocol):
    @property
    def offset(self) -> int: ...


class Topic(Protocol):
    """Both raise `LogUnavailable`; what was being appended may be there even so."""

    async def append(self, value: bytes) -> Appended: ...
    async def last(self) -> Link:
        """The record at the topic's end."""


class Trail:
    """A writer. Its chain begins with its first record, and another one after each append of which it is not
    known where it went: the old chain has then ended, with that record or without."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self._chain: Chain | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._failures = 0

    async def write(self, entry: Entry) -> None:
        """Returns when the log has the record. Raises `LogUnavailable`."""
        if self._waiting >= MOST_WAITING:
            raise LogUnavailable(f"{MOST_WAITING} records wait to be written to the audit log")
        failures = self._failures
        self._waiting += 1
        try:
            async with self._turn:
                if self._failures != failures:
                    # Each that waits would wait as long again for the same answer.
                    raise LogUnavailable("the audit log does not answer")
                await self._write(entry)
        finally:
            self._waiting -= 1

    async def _write(self, entry: Entry) -> None:
        # Whatever comes in between, even the end of who waits here, ends the chain.
        chain, self._chain = self._chain, None
        try:
            if chain is None:
                chain = Chain(await self._topic.last())
            at = entry.at or time.time_ns() // 1_000_000
            appended = await self._topic.append(chain.next(msgspec.structs.replace(entry, at=at)))
        except LogUnavailable:
            self._failures += 1
            raise
        if chain.went(appended.offset):
            self._chain = chain
