"""The items of a batch's body: the lines of NDJSON as they come, or a JSON array, which is read whole."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request

from gateway.bodies import media_type, read_body
from gateway.errors import Problem
from gateway.limits.limits import admission_of, claim_tasks
from gateway.submissions import BESIDE_PAYLOAD, THREAD_BYTES
from mayfly.settings import MIB, Settings
from mayfly.task import JSON

MAX_ITEMS: Final = 10_000
ARRAY_BYTES: Final = 16 * MIB
"""Of an array, which is in memory as a whole. Lines may come to `MAYFLY_BATCH_BYTES` together."""
SENDER_SECONDS: Final = 120.0
"""What all the waiting for the sender of lines may come to. How long its tasks take is not its fault."""
NDJSON: Final = ("application/x-ndjson", "application/ndjson")

Item = bytes | Problem
"""A text that may be a task, or why there is none in its place."""
_array: Final = msgspec.json.Decoder(list[msgspec.Raw])


async def items(request: Request, settings: Settings) -> AsyncIterator[Item]:
    """In the body's order. Raises `Problem` for a body that cannot be read on, also after some items."""
    essence, _ = media_type(request)
    if essence in NDJSON:
        body = _chunks(request, settings.batch_bytes, SENDER_SECONDS)
        count = 0
        async for line in _lines(body, settings.payload_bytes + BESIDE_PAYLOAD):
            count += 1
            if count > MAX_ITEMS:
                raise _too_many()
            claim_tasks(request, count)
            yield line
    elif essence == JSON:
        for item in await _items_of_array(request, settings):
            yield bytes(item)
    else:
        detail = f"{essence} is refused: a batch is application/json, an array, or application/x-ndjson."
        raise Problem("unsupported_media_type", detail, field="Content-Type")


async def _items_of_array(request: Request, settings: Settings) -> list[msgspec.Raw]:
    body = await read_body(request, min(ARRAY_BYTES, settings.batch_bytes))
    try:
        found = (
            await asyncio.to_thread(_array.decode, body) if len(body) > THREAD_BYTES else _array.decode(body)
        )
    except msgspec.ValidationError as error:
        raise Problem("invalid_body", "A batch is an array of tasks, or a line of JSON for each.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("malformed_json", f"The body is refused: {error}.") from error
    except RecursionError as error:
        raise Problem("too_deep", "The body is nested too deeply.") from error
    if len(found) > MAX_ITEMS:
        raise _too_many()
    claim_tasks(request, len(found))
    return found


async def _lines(chunks: AsyncIterator[bytes], longest: int) -> AsyncIterator[Item]:
    """Lines that are not blank; of one that is too long nothing is kept."""
    line, size = bytearray(), 0
    async for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            if item := _item(line + part, size + len(part), longest):
                yield item
            line, size = bytearray(), 0
        size += len(rest)
        if size <= longest:
            line += rest
        else:
            line.clear()
    if item := _item(line, size, longest):
        yield item


def _item(line: bytearray, size: int, longest: int) -> Item | None:
    if size > longest:
        return Problem("payload_too_large", f"The line has {size} bytes; {longest} is the most.")
    return bytes(line) if line.strip() else None


async def _chunks(request: Request, limit: int, seconds: float) -> AsyncIterator[bytes]:
    clock, admission = asyncio.get_running_loop().time, admission_of(request)
    size, left = 0, seconds
    while True:
        began = clock()
        try:
            async with asyncio.timeout(left):
                message = await request.receive()
        except TimeoutError as error:
            detail = f"More than {seconds:g} s went by in waiting for the body."
            raise Problem("body_too_slow", detail) from error
        left -= clock() - began
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise Problem("body_too_large", f"The body is larger than {limit} bytes.")
        if admission is not None:
            # Not kept: of lines there is no more in memory than is on its way into the log.
            admission.passed(len(chunk))
        yield chunk
        if not message.get("more_body", False):
            return


def _too_many() -> Problem:
    return Problem("batch_too_large", f"A batch has at most {MAX_ITEMS} tasks.")
