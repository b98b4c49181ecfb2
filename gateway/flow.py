"""What every stream of events has in common, whatever it tells and however it goes out.

A stream reads at the pace at which its client takes: nothing is kept for it but its place, so a reader that
is slow costs no more than one that is not. What comes while it is at work is one reading more.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, NamedTuple, Protocol

from gateway.waiting import Waiters
from mayfly.errors import ReadModelUnavailable

HEARTBEAT_SECONDS: Final = 15.0
"""A connection on which nothing happens says so: proxies cut those that are silent. As often it is asked
whether whoever reads still may."""
BREATH_SECONDS: Final = 0.05
"""Between two readings: what happens in a loop costs each of its readers no more than this."""


class Message(NamedTuple):
    """`data` is JSON; `id` is where a client goes on that has read the event, and empty where it has none."""

    event: str
    data: bytes
    id: str = ""


class Source(Protocol):
    """Where a stream's messages come from."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""

    @property
    def behind(self) -> bool:
        """Whether there was more than one reading gave."""

    def news(self) -> AsyncGenerator[Message]:
        """What there is to tell since the last time. Raises `ReadModelUnavailable`."""


async def flow(
    source: Source,
    waiters: Waiters,
    woken: asyncio.Event,
    admitted: Callable[[], bool],
    heartbeat_seconds: float,
) -> AsyncGenerator[Message | None]:
    """The messages as they come; None where nothing came for a while. Ends with its source, with the process,
    and when whoever reads may do so no more."""
    loop = asyncio.get_running_loop()
    spoke = asked = loop.time()
    while True:
        try:
            async with aclosing(source.news()) as news:
                async for message in news:
                    spoke = loop.time()
                    yield message
        except ReadModelUnavailable:
            # The next reading tells what this one did not.
            pass
        if source.ended or waiters.closing:
            return
        if not source.behind:
            await asyncio.sleep(BREATH_SECONDS)
            await waiters.next_change(woken)
        if loop.time() - asked >= heartbeat_seconds:
            asked = loop.time()
            if not admitted():
                return
        if loop.time() - spoke >= heartbeat_seconds:
            spoke = loop.time()
            yield None
