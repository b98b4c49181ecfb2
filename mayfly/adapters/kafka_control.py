"""The control topic: keys, users, tenants, secrets. Who follows it knows what any gateway has written."""

from typing import Final

import msgspec

from mayfly.adapters.kafka import CONTROL_TOPIC, Log
from mayfly.adapters.kafka_table import Row, Table
from mayfly.identity.book import Book, place
from mayfly.settings import Settings

_encoder: Final = msgspec.json.Encoder()


class ControlReader:
    """The book as the topic has it: what a dispatcher, which writes nothing there, has of it."""

    def __init__(self, settings: Settings) -> None:
        self.book = Book()
        self._table = Table(settings, CONTROL_TOPIC, self._take)
        self.start = self._table.start
        self.reach_end = self._table.reach_end
        self.close = self._table.close

    def _take(self, row: Row) -> None:
        self.book.take(row.key, row.value)


class Control(ControlReader):
    """The book, and the way to write in it."""

    def __init__(self, settings: Settings, log: Log) -> None:
        super().__init__(settings)
        self._log = log

    async def put(self, kind: str, name: str, value: msgspec.Struct | None) -> None:
        """Write it, or take it away; returns when the log has it and it stands in our book.

        Raises `LogUnavailable`: it may be there even so.
        """
        data = None if value is None else _encoder.encode(value)
        appended = await self._log.append(CONTROL_TOPIC, data, key=place(kind, name))
        await self._table.reach(appended.offset + 1)
