"""The dispatcher's consumer: one poll loop, in a thread of its own, that never runs a task.

One consumer is subscribed to a queue's lanes and events with the range assignor, so that one dispatcher
owns partition *p* of all of them. What is read is handed to the event loop, and the next poll waits until
it was taken: a dispatcher whose event loop hangs stops polling, and loses its partitions to one that works.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from dispatcher.buffers import Command
from dispatcher.offsets import MAX_METADATA, Checkpoint
from dispatcher.partition import Partition
from dispatcher.world import World
from mayfly.crossing import call_on
from mayfly.errors import MayflyError, SettingsError
from mayfly.events import decode_event
from mayfly.faultpoints import FaultPoint, reached
from mayfly.task import (
    Lane,
    MalformedCommand,
    Position,
    decode_envelope,
    may_come_again,
    place_id,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH: Final = 500
COMMIT_SECONDS: Final = 0.5
"""How much work a dead dispatcher's successor looks at again, at most; nothing is lost by it."""
IDLE_SECONDS: Final = 0.25
UNKNOWN: Final = "?"
"""In place of the read model's mark while it is away: no mark equals it."""


class Owner(Protocol):
    """Who acts on what is read. Its methods run on the event loop."""

    @property
    def world(self) -> World: ...

    async def marks(self) -> dict[int, str]:
        """What the read model was marked with, by partition. Raises `MayflyError`."""

    def assigned(self, partition: Partition, mark: str) -> None:
        """`mark` is the read model's of this partition, or `UNKNOWN`."""

    def revoked(self, partition: Partition) -> None: ...

    def checkpoint(self, partition: Partition) -> Checkpoint | None:
        """The checkpoint to commit now, if any."""

    def progressed(self) -> None:
        """Something was read: there may be work."""

    def linger(self) -> float:
        """For how many seconds what comes may be gathered, since to hand it over costs most. Any thread
        asks."""


class LogConsumer:
    """Reads the queue's topics and keeps its partitions. `start` it on the event loop."""

    def __init__(
        self,
        config: dict[str, Any],
        *,
        queue: str,
        lane_topics: dict[Lane, str],
        events_topic: str,
        deferred_topic: str,
        owner: Owner,
        clock: Callable[[], float],
    ) -> None:
        self._lanes = {topic: lane for lane, topic in lane_topics.items()}
        self._events = events_topic
        self._deferred = deferred_topic
        self._topics = [*self._lanes, events_topic, deferred_topic]
        self._owner = owner
        self._clock = clock
        self._consumer = Consumer(
            {
                **config,
                "group.id": f"mayfly.{queue}",
                "group.protocol": "consumer",
                "group.remote.assignor": "range",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                # Only a loop that hangs polls so late.
                "max.poll.interval.ms": 60_000,
                "queued.max.messages.kbytes": 32 * 1024,
                # A partition that came with nothing in it, and so is caught up with, is told of when this is
                # over; and each time that it is costs the broker a look at every partition.
                "fetch.wait.max.ms": 250,
                # The end of a topic may be behind offsets that hold no record: only this tells.
                "enable.partition.eof": True,
            }
        )
        self.partitions: dict[int, Partition] = {}
        """The partitions that are owned. Changed on the event loop only."""
        self._held: dict[int, set[str]] = defaultdict(set)
        self._committed: dict[int, Checkpoint] = {}
        self._fresh: set[int] = set()
        """Partitions that were made since the last batch of messages was taken."""
        self._commit_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mayfly-consumer", daemon=True)
        self.failure: BaseException | None = None
        """Why the poll loop ended, if it was not asked to."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Commit, and leave the group: the partitions go to others at once."""
        self._stopping.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    # --- the poll loop: everything from here to the next rule runs on the thread

    def _run(self) -> None:
        try:
            self._consumer.subscribe(self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke)
            while not self._stopping.is_set():
                self._poll()
            self._commit(self._on_loop(self._to_commit))
        except BaseException as error:
            self.failure = error
            log.critical("the consumer stopped", exc_info=error)
        finally:
            # In close() the revoke callback drops what is left.
            self._consumer.close()

    def _poll(self) -> None:
        first = self._consumer.poll(IDLE_SECONDS)
        # A message is as true as its value is long, so one without a value is false.
        messages = [] if first is None else [first, *self._consumer.consume(BATCH - 1, self._owner.linger())]
        readable = [message for message in self._current(messages) if self._readable(message)]
        if readable or first is None:
            pause, resume = self._on_loop(self._take, readable)
            if pause:
                self._consumer.pause(pause)
            if resume:
                self._consumer.resume(resume)
        # A commit holds the next poll up, and with it a task whose event is to be read: it waits for a lull.
        if self._clock() >= self._commit_at - (COMMIT_SECONDS / 2 if first is None else 0):
            self._commit_at = self._clock() + COMMIT_SECONDS
            self._commit(self._on_loop(self._to_commit))

    def _current(self, messages: list[Message]) -> list[Message]:
        """Without what was fetched before its partition was made: that is read again from where it starts."""
        if not self._fresh:
            return messages
        outdated = {number for message in messages if (number := message.partition() or 0) in self._fresh}
        for number in outdated:
            for topic in self._held[number]:
                self._consumer.seek(self._starting(topic, number))
        current = [message for message in messages if (message.partition() or 0) not in self._fresh]
        self._fresh.clear()
        return current

    def _readable(self, message: Message) -> bool:
        error = message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            return self._tells(message)
        if error is not None:
            # librdkafka goes on by itself; what it cannot mend shows in /healthz, by the missing progress.
            log.warning("Kafka: %s", error.str())
        return error is None

    def _tells(self, end: Message) -> bool:
        """Whether there is anything to learn of an end. There rarely is, and each costs the loop a turn."""
        partition, offset = self.partitions.get(end.partition() or 0), end.offset() or 0
        if partition is None:
            return False
        if end.topic() == self._events:
            return not partition.knows_events_to(offset)
        return end.topic() == self._deferred and not partition.knows_records_to(offset)

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        for one in assigned:
            self._held[one.partition].add(one.topic)
        numbers = {one.partition for one in assigned}
        fresh = [number for number in sorted(numbers) if number not in self.partitions]
        self._open(fresh)
        self._fresh.update(fresh)
        consumer.incremental_assign([self._starting(one.topic, one.partition) for one in assigned])
        # A partition can come in pieces: what was held of it before goes back to the same checkpoint.
        here = {(one.topic, one.partition) for one in assigned}
        for number in fresh:
            for topic in self._held[number]:
                if (topic, number) not in here:
                    consumer.seek(self._starting(topic, number))
        # A lane that was paused when its partition went comes back paused.
        consumer.resume([*assigned, *(place for number in fresh for place in self._places(number))])
        log.info("partitions assigned", extra={"partitions": sorted(numbers)})

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        # No commit is in flight, since commits are made on this thread; and none is made now: another
        # dispatcher may own the partition already.
        for one in revoked:
            self._held[one.partition].discard(one.topic)
            self._on_loop(self._drop, one.partition)
        consumer.incremental_unassign(revoked)
        log.info("partitions revoked", extra={"partitions": sorted({one.partition for one in revoked})})

    def _open(self, numbers: list[int]) -> None:
        """Make the partitions, each from its checkpoint."""
        if not numbers:
            return
        committed = self._insist(
            lambda: self._consumer.committed(
                [TopicPartition(self._events, number) for number in numbers], timeout=10
            )
        )
        marks = self._marks()
        for place in committed:
            number = place.partition
            checkpoint = _decode(place.metadata if place.offset >= 0 else None, number)
            mark = UNKNOWN if marks is None else marks.get(number, "")
            end = self._insist(partial(self._end_of_events, number))
            self._on_loop(self._add, number, checkpoint, end, mark)

    def _end_of_events(self, number: int) -> int:
        place = TopicPartition(self._events, number)
        _, end = self._consumer.get_watermark_offsets(place, timeout=10, cached=False)
        return end

    def _places(self, number: int) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in self._held[number]]

    def _starting(self, topic: str, number: int) -> TopicPartition:
        checkpoint = self.partitions[number].origin
        if topic == self._events:
            return TopicPartition(topic, number, checkpoint.start)
        if topic == self._deferred:
            # All of it, always: what waits there has no other place.
            return TopicPartition(topic, number, OFFSET_BEGINNING)
        return TopicPartition(topic, number, checkpoint.of(self._lanes[topic]).start)

    def _marks(self) -> dict[int, str] | None:
        """None while the read model is away: what it lacks shows when it is back."""
        try:
            return asyncio.run_coroutine_threadsafe(_awaited(self._owner.marks()), self._loop).result(5)
        except (MayflyError, concurrent.futures.TimeoutError):
            return None

    def _insist(self, ask: Callable[[], T]) -> T:
        """Ask Kafka until it answers: without it there is nothing else to do."""
        while True:
            try:
                return ask()
            except KafkaException as error:
                if self._stopping.is_set():
                    raise
                log.warning("Kafka does not answer: %s", error)

    def _commit(self, checkpoints: dict[int, Checkpoint]) -> None:
        places = []
        for number, checkpoint in checkpoints.items():
            metadata = checkpoint.encode()
            if len(metadata) > MAX_METADATA:
                # The broker would take none of them. An older one is as good, and this one will be shorter.
                log.error("partition %d: a checkpoint of %d bytes is not committed", number, len(metadata))
            else:
                places.append(TopicPartition(self._events, number, checkpoint.start, metadata=metadata))
                # Nobody starts from these: by them the group has a lag, which scaling follows.
                lanes = self._lanes.items()
                places += [TopicPartition(topic, number, checkpoint.of(lane).base) for topic, lane in lanes]
        if not places:
            return
        try:
            answers = self._consumer.commit(offsets=places, asynchronous=False) or []
        except KafkaException as error:
            # The next one says the same and more.
            log.warning("the checkpoint was not committed: %s", error)
            return
        reached(FaultPoint.COMMITTED)
        told = [one.partition for one in answers if one.topic == self._events and one.error is None]
        self._on_loop(self._tell_committed, {number: checkpoints[number] for number in told})

    def _on_loop(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run it on the event loop, and wait for it."""
        return call_on(self._loop, call, *arguments)

    # --- on the event loop

    def _take(self, messages: list[Message]) -> tuple[list[TopicPartition], list[TopicPartition]]:
        """Hand the messages to their partitions; which lanes to pause now, and which to resume."""
        for message in messages:
            partition = self.partitions.get(message.partition() or 0)
            if partition is None:
                continue
            self._take_one(partition, message)
        if messages:
            reached(FaultPoint.POLLED)
            self._owner.progressed()
        return self._flow()

    def _take_one(self, partition: Partition, message: Message) -> None:
        topic, offset, at = message.topic(), message.offset() or 0, message.timestamp()[1]
        if message.error() is not None:
            # The topic's end: its offset is the one that the next record will have.
            if topic == self._events:
                partition.take_events_end(offset)
            else:
                partition.take_records_end(offset)
        elif topic == self._events:
            event = decode_event(_bytes(message.value()))
            if event is None:
                told = "a record in %s is no event: partition %d, offset %d"
                log.error(told, topic, partition.number, offset)
            partition.take_event(offset, event, at)
        elif topic == self._deferred:
            key = _bytes(message.key()) or b""
            partition.take_record(offset, key.decode(errors="replace"), _bytes(message.value()))
        else:
            partition.take_command(self._command(message, offset, at))

    def _command(self, message: Message, offset: int, at: int) -> Command:
        topic, number, value = message.topic() or "", message.partition() or 0, _bytes(message.value())
        invalid = None
        try:
            envelope = decode_envelope(value, topic=topic, partition=number, offset=offset)
        except MalformedCommand as error:
            envelope, invalid = error.envelope, str(error)
        position = Position(self._lanes[topic], offset)
        # An id that comes of where the command stands comes once.
        repeatable = may_come_again(envelope.task_id) and envelope.task_id != place_id(topic, number, offset)
        size = len(value or b"")
        return Command(envelope, number, position, at, size, invalid=invalid, repeatable=repeatable)

    def _flow(self) -> tuple[list[TopicPartition], list[TopicPartition]]:
        pause, resume = [], []
        for topic, lane in self._lanes.items():
            for number, partition in self.partitions.items():
                buffer = partition.buffers[lane]
                if not buffer.paused and buffer.should_pause and topic in self._held[number]:
                    buffer.paused = True
                    pause.append(TopicPartition(topic, number))
                elif buffer.paused and buffer.should_resume and topic in self._held[number]:
                    buffer.paused = False
                    resume.append(TopicPartition(topic, number))
        return pause, resume

    def _to_commit(self) -> dict[int, Checkpoint]:
        found = {}
        for number, partition in self.partitions.items():
            checkpoint = self._owner.checkpoint(partition) if partition.caught_up else None
            if checkpoint is None:
                continue
            if checkpoint != self._committed.get(number) or partition.wants_commit:
                partition.before_commit()
                found[number] = checkpoint
        return found

    def _tell_committed(self, checkpoints: dict[int, Checkpoint]) -> None:
        for number, checkpoint in checkpoints.items():
            self._committed[number] = checkpoint
            if partition := self.partitions.get(number):
                partition.committed(checkpoint)

    def _add(self, number: int, checkpoint: Checkpoint, events_end: int, mark: str) -> None:
        world = self._owner.world
        partition = Partition(number, checkpoint=checkpoint, events_end=events_end, world=world)
        self.partitions[number] = partition
        self._committed.pop(number, None)
        self._owner.assigned(partition, mark)

    def _drop(self, number: int) -> None:
        if partition := self.partitions.pop(number, None):
            partition.drop()
            self._owner.revoked(partition)


def _decode(text: str | None, number: int) -> Checkpoint:
    try:
        return Checkpoint.decode(text)
    except ValueError as error:
        raise SettingsError(f"partition {number} has {error}: run a dispatcher that is as new") from error


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
