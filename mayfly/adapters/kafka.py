"""Kafka: the log that owns the tasks.

`Log` appends, `ensure_topics` makes a queue's topics, `replay` reads all that there is. A topic that is
followed as a whole is a `Table` (`kafka_table.py`): the catalog of functions is one. The dispatcher's own
consumer is in `dispatcher/consumer.py`, with the rules that it keeps.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from mayfly.adapters import kafka_iam
from mayfly.adapters.kafka_offsets import Slot, offsets
from mayfly.errors import LogUnavailable, SettingsError
from mayfly.settings import Settings
from mayfly.task import Lane

log = logging.getLogger(__name__)
chatter = logging.getLogger("mayfly.kafka")
# Where no log is kept, as in a command, nobody wants to know how librdkafka waits for a broker that starts.
chatter.addHandler(logging.NullHandler())

FUNCTIONS_TOPIC: Final = "mayfly.functions"
DEAD_LETTER_TOPIC: Final = "mayfly.dead-letter"
CONTROL_TOPIC: Final = "mayfly.control"
"""Keys, users, tenants, secrets: what gateways have to know of who asks."""
AUDIT_TOPIC: Final = "mayfly.audit"
"""Who did what to what: only ever appended to."""
FILLER: Final = b"mayfly.filler"
"""The key of what stands where a restored topic had a gap: nobody's, and without a value."""
MAX_MESSAGE_BYTES: Final = 1_000_000
BY_KEY: Final = -1
"""In place of a partition: librdkafka's RD_KAFKA_PARTITION_UA."""
LEADER_SECONDS: Final = 10.0
"""How long a topic that was just made may take until its partitions are served."""
READ_SECONDS: Final = 3.0
"""How long somebody waits for that who reads."""
POLL_SECONDS: Final = 0.001
"""Between two looks for acknowledgements, while some are awaited."""
HOLD_SECONDS: Final = 0.005
"""How long a record is held at most while others are on their way."""
IDLE_SECONDS: Final = 0.5
"""While none is: what else librdkafka has to tell is its log."""


def lane_topic(queue: str, lane: Lane) -> str:
    return f"mayfly.{queue}.{lane.value}"


def events_topic(queue: str) -> str:
    return f"mayfly.{queue}.events"


def deferred_topic(queue: str) -> str:
    return f"mayfly.{queue}.deferred"


def webhooks_topic(queue: str) -> str:
    """What is to be delivered of the queue's tasks; the name of the group that delivers it as well."""
    return f"mayfly.{queue}.webhooks"


def dispatcher_group(queue: str) -> str:
    """The consumer group of the queue's dispatchers."""
    return f"mayfly.{queue}"


def client_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """What every client of ours tells librdkafka: none is made without. Its chatter goes to our log, not to
    stderr."""
    return {
        "bootstrap.servers": settings.kafka,
        "logger": chatter,
        # A broker that restarts should be found again in a second, not in ten.
        "reconnect.backoff.max.ms": 1000,
        **_security(settings),
        **more,
    }


def _security(settings: Settings) -> dict[str, Any]:
    """How the brokers know us, and we them."""
    if settings.kafka_security == "PLAINTEXT":
        return {}
    config: dict[str, Any] = {"security.protocol": settings.kafka_security}
    if settings.kafka_ca_file is not None:
        config["ssl.ca.location"] = str(settings.kafka_ca_file)
    if settings.kafka_sasl_mechanism is not None:
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
    if settings.kafka_sasl_mechanism == "OAUTHBEARER":
        config["oauth_cb"] = kafka_iam.tokens(settings.kafka_region)
    elif settings.kafka_user is not None and settings.kafka_password is not None:
        config["sasl.username"] = settings.kafka_user
        config["sasl.password"] = settings.kafka_password.get_secret_value()
    return config


class Appended(NamedTuple):
    """Where a record landed. `timestamp` is the broker's append time, milliseconds since 1970, UTC."""

    partition: int
    offset: int
    timestamp: int


class _Record(NamedTuple):
    """What is to be appended, and who waits for that."""

    topic: str
    value: bytes | None
    key: str | None
    partition: int
    future: asyncio.Future[Appended]


class Log:
    """A producer for whom nothing less than `acks=all` counts as appended, and the place where it is.

    Who comes alone is sent at once. What comes while records are on their way is held until those are
    acknowledged, as Nagle's algorithm (RFC 896) has it for TCP, so that the more there is to append, the more
    of it shares a request, which costs the broker and both ends of the connection about the same for one
    record as for many. Whoever knows that nobody is held up by it may have records held for longer, `linger`
    seconds at least.
    """

    def __init__(self, settings: Settings, *, linger: Callable[[], float] = lambda: 0.0) -> None:
        self._linger = linger
        self._timeout = settings.produce_timeout_seconds
        self._producer = Producer(
            client_config(
                settings,
                **{
                    "acks": "all",
                    "enable.idempotence": True,
                    # What is gathered here is sent at once: to linger would cost also who comes alone, and
                    # each task has three appends.
                    "linger.ms": 0,
                    "partitioner": "murmur2_random",
                    "message.timeout.ms": int(self._timeout * 1000),
                    "message.max.bytes": MAX_MESSAGE_BYTES,
                },
            )
        )
        self._awaited: set[asyncio.Future[Appended]] = set()
        """What the broker has not answered for."""
        self._held: list[_Record] = []
        """What the producer has not been given yet."""
        self._held_since = 0.0
        self._on_way = 0
        """Records that it was given, and has not told the end of."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._poll()

    def _poll(self) -> None:
        """Hear what the broker has acknowledged. On the event loop, at a pace: a thread that waits for it
        would take the interpreter's lock from the loop for each answer, which costs more than all of this."""
        if self._closed:
            return
        self._producer.poll(0)
        if self._held and self._is_due():
            self._hand_over()
        self._timer = self._loop.call_later(POLL_SECONDS if self._awaited else IDLE_SECONDS, self._poll)

    def _is_due(self) -> bool:
        """Whether what is held has waited for as long as it may be of use."""
        waited = self._loop.time() - self._held_since
        return waited >= self._linger() and (not self._on_way or waited > HOLD_SECONDS)

    def _poll_soon(self) -> None:
        """For a first record that is on its way: the next look is not to be the idle one."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(POLL_SECONDS, self._poll)

    async def append(
        self, topic: str, value: bytes | None, *, key: str | None = None, partition: int | None = None
    ) -> Appended:
        """Append a record, to the key's partition by murmur2 unless one is named; None takes a key away.

        Raises `LogUnavailable` when there was no acknowledgement in time; the record may still be there.
        """
        future: asyncio.Future[Appended] = self._loop.create_future()
        if not self._awaited:
            self._poll_soon()
        self._awaited.add(future)
        if not self._held:
            self._held_since = self._loop.time()
            if self._is_due():
                # With what else is appended in this round of the loop.
                self._loop.call_soon(self._hand_over)
        place = BY_KEY if partition is None else partition
        self._held.append(_Record(topic, value, key, place, future))
        return await future

    def _hand_over(self) -> None:
        """Give the producer all that is held."""
        held, self._held = self._held, []
        for record in held:
            try:
                self._produce(record)
            except BufferError:
                full = "the producer's queue is full: Kafka takes less than is sent"
                self._end(record, LogUnavailable(full))
            except KafkaException as error:
                self._end(record, LogUnavailable(f"Kafka refused the record: {error.args[0].str()}"))
            except Exception as error:  # noqa: BLE001 - it is told to whoever waits, and the next one goes on
                self._end(record, error)

    def _produce(self, record: _Record) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            self._on_way -= 1
            offset = message.offset()
            if error is not None:
                self._end(record, LogUnavailable(f"Kafka did not acknowledge: {error.str()}"))
            elif offset is None:
                # librdkafka takes a record for acknowledged once a later one is. A broker that has just come
                # to lead a partition may have refused the first request for it, and taken the second.
                self._end(record, LogUnavailable("Kafka did not tell where the record is: it may be nowhere"))
            else:
                self._end(record, Appended(message.partition() or 0, offset, message.timestamp()[1]))

        self._producer.produce(record.topic, record.value, record.key, record.partition, delivered)
        self._on_way += 1

    def _end(self, record: _Record, outcome: Appended | Exception) -> None:
        self._awaited.discard(record.future)
        if record.future.done():
            return
        if isinstance(outcome, Exception):
            record.future.set_exception(outcome)
        else:
            record.future.set_result(outcome)

    async def ready(self) -> None:
        """Raises `LogUnavailable` unless a broker answers."""
        try:
            await asyncio.to_thread(self._producer.list_topics, FUNCTIONS_TOPIC, 2.0)
        except KafkaException as error:
            raise LogUnavailable(f"Kafka does not answer: {error.args[0].str()}") from error

    async def close(self) -> None:
        """Wait for what is on its way, then stop."""
        if self._awaited:
            await asyncio.wait(self._awaited, timeout=self._timeout)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()


# --- topics -------------------------------------------------------------------------------------------------

_LOG_CONFIG: Final = {
    # Retention by time or size would delete accepted work that nobody has read yet.
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
}
_COMPACTED: Final = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
_DRAINED_CONFIG: Final = {
    **_COMPACTED,
    # An owner reads all of it when it takes a partition, and most of what was ever written there is gone.
    "segment.bytes": str(16 * 1024 * 1024),
    "min.cleanable.dirty.ratio": "0.1",
    "segment.ms": "600000",
}


async def ensure_topics(settings: Settings) -> None:
    """Make the queue's topics and the catalog where they are missing, and check those that are there. Waits
    until each of their partitions is served, but not for long.

    Raises `SettingsError` where a topic's partition count is not the one that is set: co-partitioning
    rests on it. Raises `LogUnavailable`.
    """
    await asyncio.to_thread(_ensure_topics, settings)


def _ensure_topics(settings: Settings) -> None:
    admin = AdminClient(client_config(settings))
    logs = [*(lane_topic(settings.queue, lane) for lane in Lane), events_topic(settings.queue)]
    drained = [deferred_topic(settings.queue), webhooks_topic(settings.queue)]
    queue_topics = [*logs, *drained]
    wanted = [NewTopic(name, settings.partitions, config=dict(_LOG_CONFIG)) for name in logs]
    wanted += [NewTopic(name, settings.partitions, config=dict(_DRAINED_CONFIG)) for name in drained]
    tables = (FUNCTIONS_TOPIC, DEAD_LETTER_TOPIC, CONTROL_TOPIC)
    wanted += [NewTopic(name, 1, config=dict(_COMPACTED)) for name in tables]
    wanted.append(NewTopic(AUDIT_TOPIC, 1, config=dict(_LOG_CONFIG)))
    try:
        there = admin.list_topics(timeout=10).topics
        missing = [new for new in wanted if new.topic not in there]
        for name, made in (admin.create_topics(missing) if missing else {}).items():
            try:
                made.result(30)
            except KafkaException as error:
                # Two services that start together both find it missing.
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise LogUnavailable(f"topic {name} cannot be made: {error.args[0].str()}") from error
        for name in queue_topics:
            count = len(there[name].partitions) if name in there else settings.partitions
            if count != settings.partitions:
                raise SettingsError(
                    f"topic {name} has {count} partitions and MAYFLY_PARTITIONS is {settings.partitions}: "
                    f"set it to {count}; a live queue's partitions never change"
                )
    except KafkaException as error:
        raise LogUnavailable(f"Kafka at {settings.kafka} does not answer: {error.args[0].str()}") from error
    slots = [(name, number) for name in queue_topics for number in range(settings.partitions)]
    _until_served(admin, [*slots, *((name, 0) for name in (*tables, AUDIT_TOPIC))])


def _until_served(admin: AdminClient, slots: Sequence[Slot]) -> None:
    """A broker tells of a topic before it serves it, and refuses what comes in between."""
    try:
        offsets(admin, slots, OffsetSpec.latest(), patience=LEADER_SECONDS)  # type: ignore[no-untyped-call]
    except KafkaException as error:
        # Whoever appends there is told so; what the others serve need not wait for it.
        log.warning("Kafka does not serve every partition: %s", error.args[0].str())


async def was_served(settings: Settings, queue: str) -> bool:
    """Whether a dispatcher has ever told anything in the queue's lifecycle log, and committed that.

    Raises `LogUnavailable`.
    """
    try:
        return await asyncio.to_thread(_was_served, settings, queue)
    except KafkaException as error:
        reason = f"Kafka does not tell how far {events_topic(queue)} has come: {error}"
        raise LogUnavailable(reason) from error


def _was_served(settings: Settings, queue: str) -> bool:
    admin = AdminClient(client_config(settings))
    topic = events_topic(queue)
    slots = [(topic, number) for number in range(settings.partitions)]
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    try:
        if topic not in admin.list_topics(timeout=5).topics:
            return False
        # A gateway appends events too: those of a queue without a dispatcher have changed no task.
        if not any(offsets(admin, slots, latest, patience=READ_SECONDS).values()):
            return False
        places = [TopicPartition(*slot) for slot in slots]
        group = ConsumerGroupTopicPartitions(dispatcher_group(queue), places)
        committed = admin.list_consumer_group_offsets([group], request_timeout=5)[group.group_id].result(5)
        return any(place.offset >= 0 for place in committed.topic_partitions)
    except TimeoutError as error:
        raise LogUnavailable(f"Kafka does not tell how far {topic} has come in time") from error


# --- reading it all -----------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A record as it stands in its topic. `timestamp` is its append time, milliseconds since 1970, UTC."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes | None
    timestamp: int


async def replay(settings: Settings, places: Sequence[tuple[str, int]]) -> AsyncIterator[list[Entry]]:
    """Every record of these (topic, partition) pairs, from their beginning to the ends that they have.

    In batches, each partition in its order. Raises `LogUnavailable`.
    """
    config = {
        "group.id": "mayfly-replay",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 100,
    }
    consumer = Consumer(client_config(settings, **config))
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in places])
    unread = set(places)
    deadline = time.monotonic() + REPLAY_STALL_SECONDS
    try:
        while unread:
            messages = await asyncio.to_thread(consumer.consume, 1000, 0.5)
            if not messages and time.monotonic() > deadline:
                raise LogUnavailable(f"Kafka sent nothing for {REPLAY_STALL_SECONDS:g} s")
            yield [entry for message in messages if (entry := _entry(message, unread)) is not None]
            if messages:
                # What the reader did with them took its time, and says nothing of Kafka.
                deadline = time.monotonic() + REPLAY_STALL_SECONDS
    finally:
        await asyncio.to_thread(consumer.close)


REPLAY_STALL_SECONDS: Final = 30.0


def _entry(message: Message, unread: set[tuple[str, int]]) -> Entry | None:
    place = (message.topic() or "", message.partition() or 0)
    error = message.error()
    if error is None:
        key, value = message.key(), message.value()
        return Entry(
            *place,
            message.offset() or 0,
            key.decode(errors="replace") if isinstance(key, bytes) else "",
            value if isinstance(value, bytes) else None,
            message.timestamp()[1],
        )
    if error.code() == KafkaError._PARTITION_EOF:
        unread.discard(place)
    elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:
        raise LogUnavailable(f"{place[0]} cannot be read: {error.str()}")
    return None
