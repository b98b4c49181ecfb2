"""The catalog of functions, in a topic: what is deployed, for gateways and dispatchers."""

import logging

from mayfly.adapters.kafka import FUNCTIONS_TOPIC, Appended, Log, ensure_topics
from mayfly.adapters.kafka_table import Row, Table
from mayfly.errors import LogUnavailable, SettingsError
from mayfly.function import Function, decode_function, encode_function
from mayfly.settings import Settings
from mayfly.versions import queues

log = logging.getLogger(__name__)


async def publish(producer: Log, function: Function) -> Appended:
    """Deploy: from here on gateways take tasks for this version, and dispatchers run them on it."""
    return await producer.append(FUNCTIONS_TOPIC, encode_function(function), key=function.name)


class Catalog:
    """The functions as the topic has them.

    The mapping is replaced as a whole, so a reader on another thread never sees half a change.
    """

    def __init__(self, settings: Settings) -> None:
        self._functions: dict[str, Function] = {}
        self._table = Table(settings, FUNCTIONS_TOPIC, self._take)
        self.start = self._table.start
        self.close = self._table.close

    @property
    def revision(self) -> int:
        """How far the topic was read: the same number for everybody who has read as far."""
        return self._table.revision

    def get(self, name: str) -> Function | None:
        return self._functions.get(name)

    async def find(self, name: str, revision: int) -> Function | None:
        """The function, as it was at that revision or later; None if there is none at the topic's very end.

        Whoever accepted a task may have read further than we have. Raises `LogUnavailable`.
        """
        if self.revision < revision or name not in self._functions:
            await self._table.reach_end()
        return self._functions.get(name)

    def all(self) -> list[Function]:
        """By name, retired ones included."""
        return sorted(self._functions.values(), key=lambda function: function.name)

    def _take(self, row: Row) -> None:
        functions = dict(self._functions)
        function = None if row.value is None else decode_function(row.value)
        if function is not None:
            functions[row.key] = function
        elif row.value is None:
            functions.pop(row.key, None)
        else:
            log.warning("the catalog has an entry that is none", extra={"function": row.key})
        self._functions = functions


class WritableCatalog(Catalog):
    """The catalog, and the way to write in it."""

    def __init__(self, settings: Settings, log: Log) -> None:
        super().__init__(settings)
        self._settings = settings
        self._log = log
        self.reach_end = self._table.reach_end

    async def put(self, function: Function) -> None:
        """Deploy it; returns when it stands in our catalog. Raises `LogUnavailable`: it may be there even
        so."""
        # Its queues' topics first: a task may come as soon as the catalog has the function.
        for queue in sorted(queues([function])):
            try:
                await ensure_topics(self._settings.model_copy(update={"queue": queue}))
            except SettingsError as error:
                raise LogUnavailable(str(error)) from error
        appended = await publish(self._log, function)
        await self._table.reach(appended.offset + 1)
