"""Who waits for an event of ours to be read back, and whether it counted."""

import asyncio
from typing import Any


class PartitionLost(Exception):
    """The partition went to another dispatcher while an event of ours was waited for."""


class Expectations:
    """Futures by key, each of which resolves when its event is read, or raises `PartitionLost`."""

    def __init__(self) -> None:
        self._waiting: dict[object, asyncio.Future[Any]] = {}
        self._lost = False

    def expect(self, key: object) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._lost:
            future.set_exception(PartitionLost())
        else:
            self._waiting[key] = future
        return future

    def resolve(self, key: object, value: object) -> bool:
        """Whether somebody had waited for it."""
        future = self._waiting.pop(key, None)
        if future is not None and not future.done():
            future.set_result(value)
        return future is not None

    def drop(self) -> None:
        self._lost = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(PartitionLost())
                # Taken note of: whoever waited may be gone.
                future.exception()
        self._waiting.clear()
