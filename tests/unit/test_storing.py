"""A payload in the store, as it is given to a function while it is read."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from dispatcher import storing
from dispatcher.inputs import Refused
from dispatcher.storing import Payload, Store
from mayfly.errors import BlobNotFound, BlobsUnavailable
from mayfly.settings import Settings
from mayfly.task import BlobRef

DATA = bytes(range(10))


@dataclass
class Object:
    data: bytes = DATA
    fails: list[tuple[int, Exception]] = field(default_factory=list)
    """After how many further bytes, and how."""
    starts: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    async def describe(self, key: str) -> "Object":
        return self

    async def stream(self, key: str, start: int) -> AsyncIterator[bytes]:
        self.starts.append(start)
        if self.fails and not self.fails[0][0]:
            raise self.fails.pop(0)[1]
        return self._chunks(start)

    async def _chunks(self, start: int) -> AsyncIterator[bytes]:
        end = start + self.fails[0][0] if self.fails else len(self.data)
        for at in range(start, end):
            yield self.data[at : at + 1]
        if self.fails:
            raise self.fails.pop(0)[1]

    def payload(self, sha256: str = "", size: int = len(DATA)) -> Payload:
        return Payload(self, BlobRef("payloads/a", size, sha256))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "backoff", lambda: iter([0.0] * 10))


async def given(payload: Payload) -> bytes:
    return b"".join([chunk async for chunk in payload.chunks()])


async def test_a_payload_comes_whole_and_goes_on_where_the_store_broke_off() -> None:
    away = BlobsUnavailable("away")
    source = Object(fails=[(3, away), (0, away), (4, away)])
    assert await given(source.payload(hashlib.sha256(DATA).hexdigest())) == DATA
    assert source.starts == [0, 3, 3, 7]


async def test_of_other_bytes_than_were_promised_a_function_never_gets_the_last() -> None:
    got = bytearray()

    async def take() -> None:
        async for chunk in Object().payload("0" * 64).chunks():
            got.extend(chunk)

    with pytest.raises(Refused, match="hash"):
        await take()
    assert got == DATA[:-1]


async def test_an_empty_payload_is_no_chunk_and_asks_for_nothing() -> None:
    source = Object(b"")
    assert await given(source.payload(hashlib.sha256(b"").hexdigest(), size=0)) == b""
    assert source.starts == []


async def test_a_payload_that_goes_away_or_is_shorter_ends_the_task() -> None:
    with pytest.raises(Refused, match="gone"):
        await given(Object(fails=[(3, BlobsUnavailable("away")), (0, BlobNotFound("gone"))]).payload())
    with pytest.raises(Refused):
        await given(Object(DATA[:-1]).payload())


async def test_what_has_another_size_than_the_command_says_is_refused_before_a_claim() -> None:
    store = Store(Object(), Settings())  # type: ignore[arg-type]
    assert (await store.stream(BlobRef("payloads/a", len(DATA), ""))).size == len(DATA)
    with pytest.raises(Refused, match="11"):
        await store.stream(BlobRef("payloads/a", 11, ""))
