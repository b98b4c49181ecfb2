"""When API keys were used last: each gateway knows of its own requests, and tells the others now and then."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from gateway.ports import ReadModel
from mayfly.errors import ReadModelUnavailable

log = logging.getLogger(__name__)

TELL_SECONDS: Final = 30.0
"""A key that is used a thousand times a second is told of as rarely as any other."""
CLOSE_SECONDS: Final = 2.0
Used = dict[str, int]


class Uses:
    """`here` is when each key was used last here, milliseconds since 1970, and is only looked at."""

    def __init__(self, here: Mapping[str, int], read_model: ReadModel) -> None:
        self._here = here
        self._read_model = read_model
        self._told: Used = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            await self.tell()

    async def tell(self) -> None:
        """Tell what has changed, in one write. It is not worth an error: it is told with what comes next."""
        news = {one: at for one, at in self._here.items() if at != self._told.get(one)}
        try:
            await self._read_model.tell_keys_used(news)
        except ReadModelUnavailable as error:
            log.warning("uses of keys are told later", extra={"reason": str(error)})
        else:
            self._told |= news

    async def close(self) -> None:
        """Tell the last of it, unless that takes long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.tell()

    async def last(self, key_ids: Sequence[str]) -> Used:
        """When each was used last, here or where it was told; without Redis, here alone."""
        try:
            used = await self._read_model.keys_used(key_ids)
        except ReadModelUnavailable:
            used = {}
        here = {one: self._here[one] for one in key_ids if one in self._here}
        return {one: max(used.get(one, 0), here.get(one, 0)) for one in used.keys() | here.keys()}
