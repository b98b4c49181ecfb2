"""How whoever runs for ever waits for something to do."""

import asyncio
from contextlib import suppress


async def woken(event: asyncio.Event, seconds: float | None) -> None:
    """Returns once the event is set, or so many seconds are over; None is as long as it takes.

    Not by `asyncio.wait_for`: before Python 3.12 that may swallow a cancellation, and whoever waits again and
    again never ends.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
